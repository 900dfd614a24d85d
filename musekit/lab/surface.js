// The prompt surface: marks to move, and a finger whose place is a blend of them. The kernel computes what is heard
// (`surface.py`); the rings are drawn here, by the same weights 1 / distance^2, so that they follow the finger at once.

const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const HINT = "Touch the plane to hear the blend there. Double-click: a new prompt. Drag a mark, or move it by arrow keys; Delete removes it.";
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const EDGE = 0.04;  // marks stay so far inside
const REST = 120;  // ms without a movement, after which the blend is asked for
const within = (value, edge) => Math.min(Math.max(value, edge), 1 - edge);

function weights(marks, [x, y], aspect) {
  const far = marks.map((mark) => Math.hypot((x - mark.x) * aspect, y - mark.y)), near = Math.min(...far);
  const shares = far.map((d) => near < 1e-9 ? Number(d === near) : (near / d) ** 2);
  const sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((share) => share / sum);
}

async function render({ model, el }) {
  const state = await model.widget_manager.get_model(model.get("state"));
  const plane = document.createElement("div"), hint = document.createElement("p"), finger = document.createElement("button");
  plane.className = "muse-plane";
  plane.style.aspectRatio = state.get("aspect");
  plane.dataset.lmSuppressShortcuts = "true";  // JupyterLab's: arrows would go to another cell
  plane.setAttribute("role", "application");
  plane.setAttribute("aria-label", "prompt surface");
  plane.setAttribute("aria-description", HINT);
  hint.textContent = HINT;
  finger.className = "muse-finger";
  plane.append(hint, finger);
  el.append(plane);
  let marks = [], at = null, timer = null, drag = null, moving = null, pressed = null;
  const buttons = new Map();

  const place = (button, x, y) => {
    button.style.left = `${100 * x}%`;
    button.style.top = `${100 * y}%`;
  };
  const paint = () => {
    const shares = at && marks.length ? weights(marks, at, state.get("aspect")) : [];
    marks.forEach((mark, i) => {
      const button = buttons.get(mark.id), share = shares[i] ?? 0;
      place(button, mark.x, mark.y);
      for (const [name, on] of [["low", mark.y > 0.8], ["left", mark.x < 0.15], ["right", mark.x > 0.85]]) {
        button.classList.toggle(`muse-${name}`, on);
      }
      button.style.setProperty("--weight", share);
      button.dataset.weight = share;
      button.setAttribute("aria-label", `${mark.name}: ${Math.round(100 * share)} % of the blend`);
    });
    finger.hidden = !at;
    hint.hidden = Boolean(at);
    if (at) {
      place(finger, ...at);
      const parts = marks.map(({ name }, i) => [shares[i], name]).sort(([a], [b]) => b - a).slice(0, 3);
      finger.setAttribute("aria-label", `finger at ${parts.map(([share, name]) => `${Math.round(100 * share)} % ${name}`).join(", ")}`);
    }
  };
  const read = () => {
    if (moving) return;  // its end says where the mark is
    marks = state.get("marks").map((mark) => ({ ...mark }));
    for (const [id, button] of buttons) {
      if (!marks.some((mark) => mark.id === id)) { button.remove(); buttons.delete(id); }
    }
    for (const { id, name } of marks) {
      if (buttons.has(id)) continue;
      const button = document.createElement("button"), label = document.createElement("span");
      button.className = "muse-mark";
      button.dataset.id = id;
      button.title = "arrow keys move it, Enter plays it, Delete removes it";
      button.style.setProperty("--mark", COLORS[(id - 1) % COLORS.length]);
      label.textContent = name;  // text, never markup
      button.append(label);
      buttons.set(id, button);
      plane.insertBefore(button, finger);
    }
    paint();
  };
  const readFinger = () => {
    if (timer || drag) return;  // the person's finger is newer
    at = state.get("finger").length ? state.get("finger") : null;
    paint();
  };
  // Tell the kernel after a rest: where the moved mark is, or else the finger
  const tell = (wait) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const mark = moving;
      timer = moving = null;
      state.send(mark ? { kind: "move", mark: mark.id, x: mark.x, y: mark.y } : { kind: "finger", x: at[0], y: at[1] });
    }, wait);
  };
  const touch = (x, y, wait) => {
    if (!marks.length) return;
    at = [within(x, 0), within(y, 0)];
    moving = null;
    paint();
    tell(wait);
  };
  const where = ({ clientX, clientY }) => {
    const box = plane.getBoundingClientRect();
    return [within((clientX - box.left) / box.width, 0), within((clientY - box.top) / box.height, 0)];
  };
  const markOf = (target) => marks.find(({ id }) => buttons.get(id) === target.closest(".muse-mark"));
  const move = (mark, x, y) => {
    moving = mark;
    [mark.x, mark.y] = [within(x, EDGE), within(y, EDGE)];
    paint();
  };

  plane.addEventListener("pointerdown", (event) => {
    if (event.button || event.target.closest("input")) return;
    plane.setPointerCapture(event.pointerId);
    const mark = markOf(event.target);
    drag = { mark, moved: false, from: [event.clientX, event.clientY] };
    if (!mark) touch(...where(event), REST);
  });
  plane.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const far = Math.hypot(event.clientX - drag.from[0], event.clientY - drag.from[1]);
    drag.moved ||= far > 3;
    if (!drag.moved) return;
    if (drag.mark) move(drag.mark, ...where(event)); else touch(...where(event), REST);
  });
  const end = () => {
    if (!drag) return;
    const { mark, moved } = drag;
    drag = null;
    pressed = mark;
    if (mark) buttons.get(mark.id)?.focus();
    if (mark && !moved) touch(mark.x, mark.y, 0);  // a click on a mark: itself
    else if (mark || timer) tell(0);
    read();
  };
  plane.addEventListener("pointerup", end);
  plane.addEventListener("pointercancel", end);
  plane.addEventListener("keydown", (event) => {
    const step = STEPS[event.key], mark = markOf(event.target), far = event.shiftKey ? 0.1 : 0.02;
    if (event.target.closest("input")) return;
    if (step && mark) {
      move(mark, mark.x + far * step[0], mark.y + far * step[1]);
      tell(3 * REST);
    } else if (step && event.target === finger) {
      touch(at[0] + far * step[0], at[1] + far * step[1], 3 * REST);
    } else if (event.key === "Enter" && mark) {
      touch(mark.x, mark.y, 0);
      finger.focus();
    } else if ((event.key === "Delete" || event.key === "Backspace") && mark) {
      state.send({ kind: "remove", mark: mark.id });
      (finger.hidden ? plane.querySelector(".muse-mark") : finger)?.focus();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  plane.addEventListener("dblclick", (event) => {
    if (pressed || event.target.closest("input")) return;  // a mark
    const [x, y] = where(event), field = document.createElement("input");
    Object.assign(field, { type: "text", placeholder: "a prompt, then Enter" });
    field.setAttribute("aria-label", "a new prompt here");
    field.style.left = `${100 * Math.min(x, 0.7)}%`;
    field.style.top = `${100 * Math.min(y, 0.9)}%`;
    field.addEventListener("keydown", (key) => {
      key.stopPropagation();
      if (key.key === "Enter" && field.value.trim()) state.send({ kind: "add", x, y, text: field.value });
      if (key.key === "Enter" || key.key === "Escape") field.blur();
    });
    field.addEventListener("blur", () => field.remove());
    plane.append(field);
    field.focus();
  });
  state.on("change:marks", read);
  state.on("change:finger", readFinger);
  read();
  readFinger();
  return () => {
    state.off("change:marks", read);
    state.off("change:finger", readFinger);
    clearTimeout(timer);
  };
}
export default { render };
