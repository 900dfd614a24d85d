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

// Names for what ipywidgets leaves without one: screen readers read them
function nameAll(view) {
  const parts = "input:not([type=checkbox]):not([type=file]), select, .noUi-handle, .widget-readout";
  for (const part of view.querySelectorAll(parts)) {
    if (part.hasAttribute("aria-label") || (part.labels && [...part.labels].some((one) => one.textContent.trim()))) continue;
    const widget = part.closest(".jupyter-widgets"), label = widget && widget.querySelector(".widget-label");
    const own = widget && [...widget.classList].find((name) => name.startsWith("muse-"));
    const name = (label && label.textContent.trim()) || part.title || part.placeholder || (own || "").split("-").pop();
    if (name) part.setAttribute("aria-label", name);
  }
}

const KEYS = {
  g: [".jupyter-button.mod-primary", "the blue button: Generate, Sample or Play"],
  k: ["button[class*='-keep']", "Keep what was heard last"],
  d: ["button[class*='-save']", "Save (download) it"],
  m: ["button.muse-more", "More like this"],
  x: ["button.muse-pair-switch", "from card A to card B and back, at the same place"],
  Escape: ["button[class*='-cancel']", "Cancel"],
};
const HELP = [
  ["Enter", "in the prompt: begin"], ...Object.entries(KEYS).map(([key, [, text]]) => [key, text]),
  ["p", "play or pause what was heard last"], ["arrows", "on a mark of the waveform: move it"],
  ["arrows, Enter", "on the map: from point to point, hear it"],
  ["arrows, Enter, Delete", "on the surface: move a mark or the finger, hear a mark, remove it"],
  ["?", "these keys"],
];

function help() {
  const box = document.createElement("dialog");
  box.className = "muse-help";
  box.setAttribute("aria-label", "keys");
  box.innerHTML = "<b>Keys</b><dl></dl><form method='dialog'><button>Close</button></form>";
  for (const [key, text] of HELP) {
    for (const [kind, words] of [["dt", key], ["dd", text]]) {
      box.querySelector("dl").append(Object.assign(document.createElement(kind), { textContent: words }));
    }
  }
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

// Keys of one view. Caught on their way down: in a notebook's command mode the same letters edit cells
function keys(view) {
  let last = null;  // the player that was heard last
  const heard = ({ target }) => { if (view().contains(target)) last = target; };
  const press = (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || !(target instanceof Element) || !view().contains(target)) return;
    const typing = target.matches("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (typing && key === "Enter" && target.closest(".muse-ask")) {
      target.dispatchEvent(new Event("change", { bubbles: true }));  // the kernel has the text before the click
      view().querySelector(KEYS.g[0]).click();
    } else if (typing) {
      return;
    } else if (KEYS[key]) {
      const button = view().querySelector(KEYS[key][0]);
      if (!button) return;
      button.click();
    } else if (key === "p") {
      const audio = last && last.isConnected ? last : view().querySelector("audio[src]");
      if (audio) audio.paused ? audio.play() : audio.pause();
    } else if (key === "?") {
      help();
    } else {
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  document.addEventListener("play", heard, true);
  window.addEventListener("keydown", press, true);
  return () => {
    document.removeEventListener("play", heard, true);
    window.removeEventListener("keydown", press, true);
  };
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
  const level = document.createElement("small");
  level.textContent = "at equal loudness; files are as made";
  line.append(audio, loop, level);
  figure.append(caption, line);
  el.append(figure);
  const unwatch = tellWidth(el), view = () => el.closest(".muse-view") || el, unkey = keys(view);
  let naming = null;
  const named = new MutationObserver(() => {
    clearTimeout(naming);
    naming = setTimeout(() => nameAll(view()), 200);
  });
  setTimeout(() => {
    nameAll(view());
    named.observe(view(), { childList: true, subtree: true });
    const head = view().querySelector(".muse-head");
    if (!head || head.querySelector(".muse-keys")) return;
    const ask = Object.assign(document.createElement("button"), { className: "muse-keys", textContent: "?", title: "keys" });
    ask.addEventListener("click", help);
    head.append(ask);
  }, 500);
  const heard = ({ target }) => {  // a card of this view: the kernel knows what was heard last
    const card = view().contains(target) && target.closest("[data-piece]");
    if (card) state.send({ heard: Number(card.dataset.piece) });
  };
  document.addEventListener("play", heard, true);
  let url = null;
  const load = () => {
    const label = state.get("label");
    caption.textContent = label;  // text, never markup
    audio.setAttribute("aria-label", label || "player");
    const sound = state.get("sound");
    if (url) URL.revokeObjectURL(url);
    url = sound && sound.byteLength ? URL.createObjectURL(new Blob([sound], { type: "audio/flac" })) : null;
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
    document.removeEventListener("play", heard, true);
    clearTimeout(naming);
    named.disconnect();
    unkey();
    unwatch();
    audio.pause();
    if (url) URL.revokeObjectURL(url);
  };
}
export default { render };
