// The player of a view. Sounds and files come as bytes through the kernel's connection: nothing is fetched.
// They are state and messages of a plain model: see `view.Face`.

function oneAtATime() {
  if (window.museOneAtATime) return;
  window.museOneAtATime = true;
  // play does not bubble, but it can be captured on its way down
  document.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  }, true);
}

// Charts of plotly follow the window's width only: tell them where the panel's changes too
function tellWidth(el) {
  let width = 0, timer = null;
  const watch = new ResizeObserver(() => {
    const now = Math.round(el.getBoundingClientRect().width);
    if (now === width) return;
    width = now;
    clearTimeout(timer);
    timer = setTimeout(() => window.dispatchEvent(new Event("resize")), 100);
  });
  watch.observe(el);
  return () => { watch.disconnect(); clearTimeout(timer); };
}

async function render({ model, el }) {
  const state = await model.widget_manager.get_model(model.get("state"));
  oneAtATime();
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.className = "muse-player-label";
  const audio = document.createElement("audio");
  audio.controls = true;
  audio.preload = "auto";
  audio.className = "muse-player-audio";
  const box = document.createElement("input");
  box.type = "checkbox";
  box.className = "muse-player-loop";
  const loop = document.createElement("label");
  loop.append(box, " loop");
  const line = document.createElement("div");
  line.className = "muse-player-line";
  line.append(audio, loop);
  figure.append(caption, line);
  el.append(figure);
  const unwatch = tellWidth(el);
  let url = null;
  const load = () => {
    const label = state.get("label");
    caption.textContent = label;  // text, never markup
    audio.setAttribute("aria-label", label || "player");
    const sound = state.get("sound");
    if (url) URL.revokeObjectURL(url);
    url = sound && sound.byteLength ? URL.createObjectURL(new Blob([sound], { type: "audio/ogg" })) : null;
    figure.hidden = !url;  // no empty player on the page
    if (url) audio.src = url; else audio.removeAttribute("src");
  };
  const turn = () => {
    load();
    if (url) audio.play().catch(() => {});  // a page that nobody touched may not play
  };
  const save = (message, buffers) => {
    if (!message || message.kind !== "download") return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([buffers[0]], { type: message.mime }));
    link.download = message.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  box.addEventListener("change", () => { audio.loop = box.checked; });
  state.on("change:turn", turn);
  state.on("msg:custom", save);
  load();
  return () => {
    state.off("change:turn", turn);
    state.off("msg:custom", save);
    unwatch();
    audio.pause();
    if (url) URL.revokeObjectURL(url);
  };
}
export default { render };
