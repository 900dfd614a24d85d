"""View: what the three panels share. A line that says how things are, a bar, and controls with tooltips and classes."""

from __future__ import annotations

import html
import weakref
from collections.abc import Callable
from pathlib import Path

import ipywidgets as w

from musekit.config import MuseError

WIDE = {"style": {"description_width": "84px"}}  # the style sheet sets the widths
LAMPS = {"running": "muse-busy", "done": "muse-done", "failed": "muse-failed"}
BAR_STYLES = {"done": "success", "failed": "danger", "cancelled": "warning"}


def escaped(text: str, most: int = 400) -> str:
    """A person's text for HTML, cut to `most` characters."""
    text = str(text)
    return html.escape(text if len(text) <= most else text[: most - 3] + "...", quote=True)


def button(text: str, tip: str, icon: str = "", style: str = "") -> w.Button:
    """A button with a tooltip."""
    return w.Button(description=text, tooltip=tip, icon=icon, button_style=style, layout=w.Layout(width="auto"))


def classed(widget: w.Widget, *names: str) -> w.Widget:
    """A widget with classes of the style sheet."""
    for name in names:
        widget.add_class(name)
    return widget


def row(*widgets) -> w.HBox:
    """Side by side, and below each other where the panel is narrow."""
    return classed(w.HBox(list(widgets)), "muse-row")


def stack(*widgets) -> w.VBox:
    """One below the other, each as wide as the column."""
    return classed(w.VBox(list(widgets)), "muse-stack")


def tags_of(text: str) -> list[str]:
    """The tags that a person typed, separated by commas."""
    return [tag for tag in (part.strip() for part in text.split(",")) if tag]


def close(widget: w.Widget) -> None:
    """Close a widget with its children, layout and style, so that neither kernel nor page keeps them."""
    for child in getattr(widget, "children", ()):
        close(child)
    widget.close()
    for part in (widget.layout, getattr(widget, "style", None)):
        if part is not None:
            part.close()


class View:
    """`label` is the line, `bar` the progress; `view` is the widget that is shown."""

    _watching: weakref.WeakSet = weakref.WeakSet()  # views of this kernel that show a library

    def __init__(self, prefix: str):
        self.prefix, self.folder = prefix, None
        self.label = classed(w.HTML(""), "muse-say", f"{prefix}-label")
        self.bar = classed(w.FloatProgress(0.0, min=0.0, max=1.0, tooltip="progress"), "muse-bar", f"{prefix}-bar")
        self.view = w.VBox([])

    def panel(self, title: str, *parts: w.Widget) -> None:
        """Lay out the panel: its head with lamp, name and line, the bar, and the parts."""
        name = w.HTML(f'<span class="muse-name"><span class="muse-lamp"></span>{escaped(title)}</span>')
        self.view.children = (classed(w.HBox([name, self.label]), "muse-head"), self.bar, *parts)
        classed(self.view, "muse-view", f"muse-{title.lower()}-view")

    def name(self, **widgets) -> None:
        """Make widgets attributes of the view, with classes for the style sheet and the tests."""
        for name, widget in widgets.items():
            setattr(self, name, widget)
            widget.add_class(f"{self.prefix}-{name.replace('_', '-')}")

    def say(self, text: str, bad: bool = False) -> None:
        """Show one line of text; it is escaped, since it may hold what a person typed."""
        trouble = ' class="muse-trouble"' if bad else ""
        self.label.value = f'<span role="status"{trouble}>{escaped(text)}</span>'
        if LAMPS["running"] not in self.view._dom_classes:  # no green lamp beside a red line
            (self.view.add_class if bad else self.view.remove_class)(LAMPS["failed"])
            if bad:
                self.view.remove_class(LAMPS["done"])

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

    def on_click(self, calls: dict[w.Button, Callable[[], object]]) -> None:
        """What each button does."""
        for one, call in calls.items():
            one.on_click(self.safely(call))

    def show_job(self, job, *busy: w.Button, cancel: w.Button | None = None) -> None:
        """Update bar and line from a job, and disable the buttons that start another one."""
        for one in busy:
            one.disabled = job.running
        if cancel is not None:
            cancel.disabled = not job.running
        for status, lamp in LAMPS.items():
            (self.view.add_class if job.status == status else self.view.remove_class)(lamp)
        self.bar.value, self.bar.bar_style = job.fraction, BAR_STYLES.get(job.status, "info")
        if job.message:
            self.say(f"{job.message} ({job.notice})" if job.notice else job.message, bad=job.status == "failed")

    def watch(self, folder: Path) -> None:
        """Have `library_changed` called when another view of this kernel changes the library of that folder."""
        self.folder = folder
        self._watching.add(self)

    def notify(self, folder: Path) -> None:
        """Tell the other views of this kernel that this one changed a library."""
        for other in [view for view in self._watching if view is not self and view.folder == folder]:
            other.safely(other.library_changed)()

    def _repr_mimebundle_(self, **options):
        return self.view._repr_mimebundle_(**options)
