"""View: the common part of the three panels. A line of text, a progress bar, a player, controls with tooltips."""

import html
import tomllib
import weakref
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets as w
import traitlets

from musekit.config import MuseError
from musekit.show.players import compressed

HERE = Path(__file__).parent
PANELS = tomllib.loads((HERE / "panels.toml").read_text(encoding="utf-8"))
BAR_STYLES = {"done": "success", "failed": "danger", "cancelled": "warning"}


def escaped(text: str, most: int = 400) -> str:
    """Text from a user for HTML, cut to `most` characters."""
    return html.escape(text[:most])


def classed(widget: w.Widget, *names: str) -> w.Widget:
    """A widget with classes of the style sheet."""
    for name in names:
        widget.add_class(name)
    return widget


class Face(anywidget.AnyWidget):
    """A script of the page that shows a plain model.

    anywidget drops all messages to a widget whose script took more than 2 s to load, as on a busy machine. So nothing
    is sent to the face: the script reads `state`, the id of a model of ipywidgets itself, which loses nothing.
    """

    _css = HERE / "muse.css"
    state = traitlets.Unicode("").tag(sync=True)

    def __init__(self, state: w.Widget, script: str, *names: str):
        super().__init__(state=state.model_id, _esm=(HERE / script).read_text(encoding="utf-8"), _dom_classes=names)


class Player(w.Widget):
    """The browser's own `<audio controls>` with a check box for looping. It also hands files to the browser."""

    label = traitlets.Unicode("").tag(sync=True)
    sound = traitlets.Bytes(b"").tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)  # counts the sounds; its change starts the player

    def play(self, audio, sample_rate: int, label: str) -> None:
        """Play audio (channels, N); `label` is shown and read aloud. All sounds are played equally loud."""
        data = compressed(audio, sample_rate, seconds=None, rate=sample_rate, matched=True, lossless=True)
        with self.hold_sync():  # one message, so that the page never has half of it
            self.sound, self.label, self.turn = data, label[:400], self.turn + 1

    def download(self, name: str, data: bytes) -> None:
        """Save a FLAC or ZIP file in the browser's downloads."""
        mime = "audio/flac" if name.endswith(".flac") else "application/zip"
        self.send({"kind": "download", "name": name, "mime": mime}, [data])


class View:
    """`label` is the line of text, `bar` the progress; `player` plays one sound at a time; `view` is what is shown."""

    shelves: weakref.WeakSet = weakref.WeakSet()  # views of this kernel that show a library

    def __init__(self, title: str):
        self.title, self.prefix, self.player, self.view = title, PANELS[title]["prefix"], Player(), w.VBox([])
        self.label = classed(w.HTML(""), "muse-say", f"{self.prefix}-label")
        self.bar = classed(w.FloatProgress(0.0, min=0.0, max=1.0, tooltip="progress"), "muse-bar", f"{self.prefix}-bar")

    def make(self, values: dict[str, dict], calls: dict[str, Callable[[], object]], **faces: w.Widget) -> None:
        """Make the panel that `panels.toml` describes. Its controls are attributes of the view.

        values: {control: options that only the program knows}. calls: {control: what runs when it is pressed, or its
        value changes}. faces: widgets that stand in the rows beside the controls.
        """
        faces["player"] = Face(self.player, "player.js", "muse-player")
        for name, options in PANELS[self.title]["controls"].items():
            options = options | values.get(name, {})
            control = getattr(w, options.pop("kind", "Button"))(**options)
            setattr(self, name, classed(control, f"{self.prefix}-{name.replace('_', '-')}"))
            if name in calls:
                run = self.safely(calls[name])
                control.on_click(run) if isinstance(control, w.Button) else control.observe(run, "value")
        rows = []
        for line in PANELS[self.title]["rows"]:
            style, _, names = line.rpartition(": ")
            row = [faces.get(name) or getattr(self, name) for name in names.split()]
            rows.append(classed(w.HBox(row), f"muse-{style}") if style else row[0])
        name = w.HTML(f'<span class="muse-name">{self.title}</span>')
        self.view.children = (classed(w.HBox([name, self.label]), "muse-head"), self.bar, *rows)
        classed(self.view, "muse-view", f"muse-{self.title.lower()}-view")
        for one in vars(self).values():  # ipykernel 7.4 chooses a thread for each widget: clicks overtook typed text
            if isinstance(one, w.Widget) and one.comm is not None:
                one.comm._reply_subshell_for = lambda data, chosen: chosen  # the page's, one for all

    def say(self, text: str, bad: bool = False) -> None:
        """Show one line of text; it is escaped, since it may hold what a user typed."""
        trouble = ' class="muse-trouble"' if bad else ""
        self.label.value = f'<span role="status"{trouble}>{escaped(text)}</span>'

    def safely(self, call: Callable[[], object]) -> Callable[..., None]:
        """A callback whose exceptions are shown in the line; the browser would swallow them."""

        def run(*_args) -> None:
            try:
                call()
            except MuseError as error:
                self.say(str(error), bad=True)
            except Exception as error:  # noqa: BLE001 - an exception in a callback goes unseen
                self.say(f"{type(error).__name__}: {error}", bad=True)

        return run

    def show_job(self, job, *busy: w.Button, cancel: w.Button | None = None) -> None:
        """Update bar and line from a job, and disable the buttons that start another one."""
        for one in busy:
            one.disabled = job.running
        if cancel is not None:
            cancel.disabled = not job.running
        (self.view.add_class if job.running else self.view.remove_class)("muse-busy")
        self.bar.value, self.bar.bar_style = job.fraction, BAR_STYLES.get(job.status, "info")
        if job.message:
            left = "" if job.left is None else f", about {job.left:.0f} s left"
            self.say(job.message + left, bad=job.status == "failed")

    def library_changed(self) -> None:
        """Refresh all views of this kernel that show a library."""
        for shelf in list(self.shelves):
            shelf.safely(shelf.refresh)()

    def _repr_mimebundle_(self, **options):
        return self.view._repr_mimebundle_(**options)
