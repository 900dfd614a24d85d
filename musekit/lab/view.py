"""View: the common part of the three panels. A line of text, a progress bar, a player, controls with tooltips."""

from __future__ import annotations

import html
import weakref
from collections.abc import Callable
from pathlib import Path

import anywidget
import ipywidgets as w
import traitlets

from musekit.config import MuseError
from musekit.show.players import compressed

WIDE = {"style": {"description_width": "84px"}}  # the style sheet sets the widths
BAR_STYLES = {"done": "success", "failed": "danger", "cancelled": "warning"}


def escaped(text: str, most: int = 400) -> str:
    """Text from a user for HTML, cut to `most` characters."""
    return html.escape(text[:most])


def classed(widget: w.Widget, *names: str) -> w.Widget:
    """A widget with classes of the style sheet."""
    for name in names:
        widget.add_class(name)
    return widget


def row(*widgets) -> w.HBox:
    """Side by side, and below each other where the panel is narrow."""
    return classed(w.HBox(list(widgets)), "muse-row")


class Player(anywidget.AnyWidget):
    """The browser's own `<audio controls>` with a check box for looping. It also hands files to the browser."""

    _esm = Path(__file__).with_name("player.js")
    _css = Path(__file__).with_name("muse.css")
    label = traitlets.Unicode("").tag(sync=True)
    sound = traitlets.Bytes(b"").tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)  # counts the sounds; its change starts the player

    def __init__(self, **options):
        super().__init__(**options)
        self.add_class("muse-player")

    def play(self, audio, sample_rate: int, label: str) -> None:
        """Play audio (channels, N); `label` is shown and read aloud."""
        data = compressed(audio, sample_rate, seconds=None, rate=sample_rate)
        with self.hold_sync():  # one message, so that the page never has half of it
            self.sound, self.label, self.turn = data, label[:400], self.turn + 1

    def download(self, name: str, data: bytes) -> None:
        """Save a FLAC file in the browser's downloads."""
        self.send({"kind": "download", "name": name, "mime": "audio/flac"}, [data])


class View:
    """`label` is the line of text, `bar` the progress; `player` plays one sound at a time; `view` is what is shown."""

    shelves: weakref.WeakSet = weakref.WeakSet()  # views of this kernel that show a library

    def __init__(self, prefix: str):
        self.prefix, self.player = prefix, Player()
        self.label = classed(w.HTML(""), "muse-say", f"{prefix}-label")
        self.bar = classed(w.FloatProgress(0.0, min=0.0, max=1.0, tooltip="progress"), "muse-bar", f"{prefix}-bar")
        self.view = w.VBox([])

    def panel(self, title: str, *parts: w.Widget) -> None:
        """Lay out the panel: its head with name and line, the bar, and the parts."""
        name = w.HTML(f'<span class="muse-name">{escaped(title)}</span>')
        self.view.children = (classed(w.HBox([name, self.label]), "muse-head"), self.bar, *parts)
        classed(self.view, "muse-view", f"muse-{title.lower()}-view")

    def name(self, **widgets) -> None:
        """Make widgets attributes of the view, with classes for the style sheet and the tests."""
        for name, widget in widgets.items():
            setattr(self, name, widget)
            widget.add_class(f"{self.prefix}-{name.replace('_', '-')}")

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

    def button(self, name: str, text: str, tip: str, call: Callable[[], object], icon="", style="") -> w.Button:
        """A button that runs `call`, as an attribute of the view."""
        layout = w.Layout(width="auto")
        self.name(**{name: w.Button(description=text, tooltip=tip, icon=icon, button_style=style, layout=layout)})
        getattr(self, name).on_click(self.safely(call))
        return getattr(self, name)

    def show_job(self, job, *busy: w.Button, cancel: w.Button | None = None) -> None:
        """Update bar and line from a job, and disable the buttons that start another one."""
        for one in busy:
            one.disabled = job.running
        if cancel is not None:
            cancel.disabled = not job.running
        (self.view.add_class if job.running else self.view.remove_class)("muse-busy")
        self.bar.value, self.bar.bar_style = job.fraction, BAR_STYLES.get(job.status, "info")
        if job.message:
            self.say(job.message, bad=job.status == "failed")

    def library_changed(self) -> None:
        """Refresh all views of this kernel that show a library."""
        for shelf in list(self.shelves):
            shelf.safely(shelf.refresh)()

    def _repr_mimebundle_(self, **options):
        return self.view._repr_mimebundle_(**options)
