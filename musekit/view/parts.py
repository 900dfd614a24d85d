"""What every view has: a line that says how things are, and controls with a label, a tooltip and a class."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as w

from musekit.config import MuseError

WIDE = {"style": {"description_width": "84px"}}  # the sheet sets widths
LAMPS = {"running": "muse-busy", "done": "muse-done", "failed": "muse-failed"}


def escaped(text: str, most: int = 400) -> str:
    """A person's text for HTML, cut."""
    text = str(text)
    return html.escape(text if len(text) <= most else text[: most - 3] + "...", quote=True)


def button(text: str, tip: str, icon: str = "", style: str = "") -> w.Button:
    """A button that says what it does, and more when the mouse rests on it."""
    return w.Button(description=text, tooltip=tip, icon=icon, button_style=style, layout=w.Layout(width="auto"))


def classed(widget: w.Widget, *names: str) -> w.Widget:
    """A widget with classes of the style sheet."""
    for name in names:
        widget.add_class(name)
    return widget


def row(*widgets) -> w.HBox:
    """Side by side, and below each other where the panel is narrow."""
    return classed(w.HBox(list(widgets)), "muse-row")


def grid(*widgets) -> w.Box:
    """Controls of one width in as many columns as the panel holds."""
    return classed(w.Box(list(widgets)), "muse-grid")


def stack(*widgets) -> w.VBox:
    """One below the other, each as wide as the column."""
    return classed(w.VBox(list(widgets)), "muse-stack")


def tags_of(text: str) -> list[str]:
    """The tags in what a person typed: separated by commas."""
    return [tag for tag in (part.strip() for part in text.split(",")) if tag]


def close(widget: w.Widget) -> None:
    """Close a widget and all in it, its layout and style too, so that neither kernel nor page keeps them."""
    for child in getattr(widget, "children", ()):
        close(child)
    widget.close()
    for part in (widget.layout, getattr(widget, "style", None)):
        if part is not None:
            part.close()


class View:
    """`label` is the line, `bar` how much is done; `view` is what is shown."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.label = classed(w.HTML(""), "muse-say")
        self.bar = classed(w.FloatProgress(0.0, min=0.0, max=1.0), "muse-bar")
        self.bar.tooltip = "how much is done"
        self.view = w.VBox([])

    def panel(self, title: str, *parts: w.Widget) -> None:
        """Lay out a whole panel: its head with lamp, name and line, the bar, and the parts."""
        name = w.HTML(f'<span class="muse-name"><span class="muse-lamp"></span>{escaped(title)}</span>')
        self.view.children = (classed(w.HBox([name, self.label]), "muse-head"), self.bar, *parts)
        classed(self.view, "muse-view", f"muse-{title.lower()}-view")

    def name(self, **widgets) -> None:
        """Attributes, and the classes by which a test in a browser and a style sheet find them."""
        for name, widget in widgets.items():
            setattr(self, name, widget)
            widget.add_class(f"{self.prefix}-{name.replace('_', '-')}")

    def say(self, text: str, bad: bool = False) -> None:
        """One plain line; what a person typed may stand in it, so it is escaped."""
        trouble = ' class="muse-trouble"' if bad else ""
        self.label.value = f'<span role="status"{trouble}>{escaped(text)}</span>'
        if LAMPS["running"] not in self.view._dom_classes:  # no green lamp beside a red line
            (self.view.add_class if bad else self.view.remove_class)(LAMPS["failed"])
            if bad:
                self.view.remove_class(LAMPS["done"])

    def safely(self, call: Callable[[], object]) -> Callable[..., None]:
        """A callback whose errors stand in the line: the browser would swallow them."""

        def run(*_args) -> None:
            try:
                call()
            except MuseError as error:
                self.say(str(error), bad=True)
            except Exception as error:  # noqa: BLE001 - an exception in a callback goes unseen
                self.say(f"{type(error).__name__}: {error}", bad=True)

        return run

    def show_job(self, job, *busy: w.Button, cancel: w.Button | None = None) -> None:
        """Bring bar and line up to a job, and switch off what cannot be pressed while it runs."""
        for one in busy:
            one.disabled = job.running
        if cancel is not None:
            cancel.disabled = not job.running
        for status, lamp in LAMPS.items():
            (self.view.add_class if job.status == status else self.view.remove_class)(lamp)
        self.bar.value = job.fraction
        self.bar.bar_style = {"done": "success", "failed": "danger", "cancelled": "warning"}.get(job.status, "info")
        if job.message:
            self.say(f"{job.message} ({job.notice})" if job.notice else job.message, bad=job.status == "failed")

    def _repr_mimebundle_(self, **options):
        return self.view._repr_mimebundle_(**options)
