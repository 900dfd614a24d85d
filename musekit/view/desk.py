"""Desk: the one player of a view, which also sees to it that only one sound of the page plays, and hands out files.

A native `<audio controls>`: play, pause, seek, volume, keyboard and screen readers are the browser's own; beside it
a box for looping. Sounds come as bytes through the kernel's connection, so nothing is fetched.
"""

from __future__ import annotations

import anywidget
import traitlets

from musekit.view.sheet import SHEET

SCRIPT = """
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

function render({ model, el }) {
  oneAtATime();
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.className = "muse-desk-label";
  const audio = document.createElement("audio");
  audio.controls = true;
  audio.preload = "auto";
  audio.className = "muse-desk-audio";
  const box = document.createElement("input");
  box.type = "checkbox";
  box.className = "muse-desk-loop";
  const loop = document.createElement("label");
  loop.append(box, " loop");
  const line = document.createElement("div");
  line.className = "muse-desk-line";
  line.append(audio, loop);
  figure.append(caption, line);
  el.append(figure);
  const unwatch = tellWidth(el);
  let url = null;
  const load = () => {
    const label = model.get("label");
    caption.textContent = label;  // text, never markup
    audio.setAttribute("aria-label", label || "player");
    const sound = model.get("sound");
    if (url) URL.revokeObjectURL(url);
    url = sound && sound.byteLength ? URL.createObjectURL(new Blob([sound], { type: model.get("mime") })) : null;
    figure.hidden = !url;  // no empty player on the page
    if (url) audio.src = url; else audio.removeAttribute("src");
  };
  const turn = () => {
    load();
    if (url && model.get("autoplay")) audio.play().catch(() => {});  // a page that nobody touched may not play
  };
  const looped = () => { box.checked = audio.loop = model.get("loop"); };
  const told = (name, value) => { model.set(name, value); model.save_changes(); };
  const save = (message, buffers) => {
    if (!message || message.kind !== "download") return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([buffers[0]], { type: message.mime }));
    link.download = message.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  box.addEventListener("change", () => { told("loop", box.checked); });
  audio.addEventListener("play", () => told("playing", true));
  audio.addEventListener("pause", () => told("playing", false));
  audio.addEventListener("loadedmetadata", () => {
    told("duration", Number.isFinite(audio.duration) ? audio.duration : 0);
  });
  model.on("change:turn", turn);
  model.on("change:loop", looped);
  model.on("msg:custom", save);
  load();
  looped();
  return () => {
    model.off("change:turn", turn);
    model.off("change:loop", looped);
    model.off("msg:custom", save);
    unwatch();
    audio.pause();
    if (url) URL.revokeObjectURL(url);
  };
}
export default { render };
"""
MIMES = {"wav": "audio/wav", "flac": "audio/flac", "csv": "text/csv", "zip": "application/zip"}


class Desk(anywidget.AnyWidget):
    """`play` a sound, `download` a file."""

    _esm = SCRIPT
    _css = SHEET
    label = traitlets.Unicode("").tag(sync=True)
    sound = traitlets.Bytes(b"").tag(sync=True)
    mime = traitlets.Unicode("audio/ogg").tag(sync=True)
    autoplay = traitlets.Bool(True).tag(sync=True)
    loop = traitlets.Bool(False).tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)  # counts what was put on; its change starts the player
    playing = traitlets.Bool(False).tag(sync=True)  # told by the browser
    duration = traitlets.Float(0.0).tag(sync=True)  # seconds, told by the browser

    def __init__(self, **options):
        super().__init__(**options)
        self.add_class("muse-desk")

    def play(self, audio, sample_rate: int, label: str) -> None:
        """Put on audio (channels, N); `label` is shown and read aloud."""
        from musekit.show.players import compressed

        data = compressed(audio, sample_rate, seconds=None, rate=sample_rate)
        with self.hold_sync():  # one message: the player never sees half of it
            self.sound, self.label, self.turn = data, label[:400], self.turn + 1

    def download(self, name: str, data: bytes) -> None:
        """Hand a file to the person; `name` is one of ours."""
        mime = MIMES.get(name.rpartition(".")[2], "application/octet-stream")
        self.send({"kind": "download", "name": name, "mime": mime}, [data])
