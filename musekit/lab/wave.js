// The waveform of the chosen piece. Drag over it to choose a part, click to hear it from there; the two marks move with
// the arrow keys. The outline is an SVG of numbers only, made by the kernel.

const LEAST = 0.2;  // s of a part
const made = (tag, names, text = "") => Object.assign(document.createElement(tag), { className: names, textContent: text });

async function render({ model, el }) {
  const state = await model.widget_manager.get_model(model.get("state"));
  const box = made("div", "muse-wave-box"), art = made("div", "muse-wave-art"), region = made("div", "muse-wave-part");
  const cursor = made("div", "muse-wave-cursor"), line = made("div", "muse-wave-line");
  const words = made("span", "muse-wave-words"), hear = made("button", "muse-wave-hear", "Hear the part");
  const none = made("button", "muse-wave-none", "No part");
  words.setAttribute("role", "status");
  const marks = ["begins", "ends"].map((name) => {
    const mark = made("div", "muse-wave-mark");
    mark.tabIndex = 0;
    mark.setAttribute("role", "slider");
    mark.setAttribute("aria-label", `the part ${name}, in seconds`);
    mark.setAttribute("aria-valuemin", 0);
    return mark;
  });
  box.append(art, region, cursor, ...marks);
  line.append(words, hear, none);
  el.append(box, line);
  let part = null, length = 0, number = 0, end = null;

  const audio = () => {
    const view = el.closest(".muse-view");
    return view && view.querySelector(`[data-piece="${number}"] audio`);
  };
  const at = (seconds) => `${(100 * seconds) / length}%`;
  const show = () => {
    const [from, to] = part || [0, length];
    region.hidden = !part;
    hear.disabled = none.disabled = !part;
    region.style.left = at(from);
    region.style.width = at(to - from);
    marks.forEach((mark, i) => {
      const value = [from, to][i];
      mark.style.left = at(value);
      mark.classList.toggle("muse-wave-free", !part);
      mark.setAttribute("aria-valuemax", length.toFixed(2));
      mark.setAttribute("aria-valuenow", value.toFixed(2));
      mark.setAttribute("aria-valuetext", part ? `${value.toFixed(2)} s` : "no part is chosen");
    });
    const chosen = part ? `from ${from.toFixed(2)} to ${to.toFixed(2)} s` : "drag over a part, to repaint it";
    words.textContent = `no. ${number}, ${length.toFixed(1)} s \u00b7 ${chosen}`;
  };
  const choose = (from, to, tell = true) => {
    const ends = [from, to].map((x) => Math.round(Math.min(length, Math.max(0, x)) * 100) / 100).sort((a, b) => a - b);
    ends[1] = Math.min(ends[1], Math.floor(length * 100) / 100);
    part = ends[1] - ends[0] > LEAST - 0.01 ? ends : null;
    show();
    if (tell) {
      state.set("part", part || []);
      state.save_changes();
    }
  };
  const draw = () => {
    number = state.get("piece");
    length = state.get("seconds") || 1;
    el.hidden = !number;
    art.innerHTML = number ? state.get("outline") : "";
    part = state.get("part").length === 2 ? [...state.get("part")] : null;
    cursor.hidden = true;
    show();
  };

  const time = (event) => {
    const { left, width } = box.getBoundingClientRect();
    return (length * (event.clientX - left)) / width;
  };
  let grip = null;  // where the drag began, in seconds, and on the screen
  box.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const held = marks.indexOf(event.target), ends = part || [0, length];
    grip = { from: held < 0 ? time(event) : ends[1 - held], x: event.clientX, moved: held >= 0 };
    box.setPointerCapture(event.pointerId);
    event.preventDefault();
    if (held >= 0) event.target.focus();
  });
  box.addEventListener("pointermove", (event) => {
    if (!grip) return;
    grip.moved ||= Math.abs(event.clientX - grip.x) > 4;
    if (grip.moved) choose(grip.from, time(event), false);
  });
  box.addEventListener("pointerup", (event) => {
    if (!grip) return;
    if (grip.moved) choose(grip.from, time(event));
    else if (audio()) {
      end = null;
      audio().currentTime = Math.max(0, time(event));
      audio().play();
    }
    grip = null;
  });
  box.addEventListener("pointercancel", () => { grip = null; draw(); });
  marks.forEach((mark, i) => mark.addEventListener("keydown", (event) => {
    const ends = part || [0, length], step = event.shiftKey ? 1 : 0.1;
    const moves = {
      ArrowLeft: ends[i] - step, ArrowDown: ends[i] - step, ArrowRight: ends[i] + step, ArrowUp: ends[i] + step,
      Home: i ? ends[0] + LEAST : 0, End: i ? length : ends[1] - LEAST,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    const value = i ? Math.max(moves[event.key], ends[0] + LEAST) : Math.min(moves[event.key], ends[1] - LEAST);
    choose(i ? ends[0] : value, i ? value : ends[1]);
  }));
  none.addEventListener("click", () => choose(0, 0));
  hear.addEventListener("click", () => {
    const sound = audio();
    if (!sound || !part) return;
    sound.currentTime = part[0];
    end = part[1];
    sound.play();
  });
  const follow = ({ target }) => {
    if (target !== audio()) return;
    if (end !== null && target.currentTime >= end) {
      target.pause();
      end = null;
    }
    cursor.hidden = false;
    cursor.style.left = at(Math.min(length, target.currentTime));
  };
  document.addEventListener("timeupdate", follow, true);
  state.on("change:piece change:outline change:seconds change:part", draw);
  draw();
  return () => {
    state.off("change:piece change:outline change:seconds change:part", draw);
    document.removeEventListener("timeupdate", follow, true);
  };
}
export default { render };
