"""What every view has: a line that says how things are, and controls with a label, a tooltip and a class."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as w

from musekit.config import MuseError

BAD = "#D55E00"
WIDE = {"style": {"description_width": "90px"}, "layout": {"width": "300px"}}


def escaped(text: str, most: int = 400) -> str:
    """A person's text for HTML, cut."""
    text = str(text)
    return html.escape(text if len(text) <= most else text[: most - 3] + "...", quote=True)


def button(text: str, tip: str, icon: str = "", style: str = "", width: str = "auto") -> w.Button:
    """A button that says what it does, and more when the mouse rests on it."""
    return w.Button(description=text, tooltip=tip, icon=icon, button_style=style, layout=w.Layout(width=width))


def row(*widgets) -> w.HBox:
    """Side by side, and below each other where the window is narrow."""
    return w.HBox(list(widgets), layout=w.Layout(flex_flow="row wrap", align_items="center"))


def close(widget: w.Widget) -> None:
    """Close a widget and all in it, so that neither kernel nor page keeps them."""
    for child in getattr(widget, "children", ()):
        close(child)
    widget.close()


class View:
    """`label` is the line; `view` is what is shown."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.label, self.bar = w.HTML(""), w.FloatProgress(0.0, min=0.0, max=1.0, layout=w.Layout(width="300px"))
        self.bar.tooltip = "how much is done"
        self.view = w.VBox([])

    def name(self, **widgets) -> None:
        """Attributes, and the classes by which a test in a browser and a style sheet find them."""
        for name, widget in widgets.items():
            setattr(self, name, widget)
            widget.add_class(f"{self.prefix}-{name.replace('_', '-')}")

    def say(self, text: str, bad: bool = False) -> None:
        """One plain line; what a person typed may stand in it, so it is escaped."""
        self.label.value = f'<span role="status" style="color:{BAD if bad else "inherit"}">{escaped(text)}</span>'

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
        self.bar.value = job.fraction
        self.bar.bar_style = {"done": "success", "failed": "danger", "cancelled": "warning"}.get(job.status, "info")
        if job.message:
            self.say(f"{job.message} ({job.notice})" if job.notice else job.message, bad=job.status == "failed")

    def _repr_mimebundle_(self, **options):
        return self.view._repr_mimebundle_(**options)
