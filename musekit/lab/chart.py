"""Chart: the Lab's map as one plotly figure that is updated in place: hills, points, names, a path, rings."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from musekit.lab.landscape import Landscape
from musekit.lab.view import escaped
from musekit.show.style import PALETTE

HILLS, POINTS, NAMES, PATH, RINGS = range(5)  # the traces
GREY = "rgb(128,128,128)"  # legible on white and on black
EDGE = "rgba(255,255,255,0.75)"  # of a point, against a dark ground
HILL_COLOURS = [[0, "rgba(110,130,160,0)"], [0.1, "rgba(110,130,160,0)"], [1, "rgba(110,130,160,0.5)"]]
HILL_LEVELS = {"start": 0.06, "end": 0.96, "size": 0.09}
EMPTY = "Press Sample: the map of answers appears here"
NAME_WIDTH, NAME_HEIGHT = 0.016, 0.055  # of a letter and of a line, relative to the map's longer side


class Figure(go.FigureWidget):
    """A figure that handles no message of the page while `guard` is held.

    plotly sends a change to the page by setting a trait and resetting it at once. While another thread handles a
    message, traitlets holds both back and merges them, and the page would never get the change.
    """

    def __init__(self, *traces, **options):
        self._guard = threading.RLock()
        super().__init__(*traces, **options)

    def set_state(self, sync_data: dict) -> None:
        """A message of the page."""
        with self._guard:
            super().set_state(sync_data)


def guarded(change: Callable) -> Callable:
    """A method of `Chart` during which messages of the page wait."""

    @functools.wraps(change)
    def run(self, *arguments):
        with self.figure._guard:
            return change(self, *arguments)

    return run


class Chart:
    """`figure` fills its place; `on_point(i)` is called when a person clicks point i."""

    def __init__(self, on_point: Callable[[int], None] = lambda i: None):
        self.land: Landscape | None = None
        edge = {"width": 1, "color": EDGE}
        self.figure = Figure(
            [
                go.Contour(showscale=False, hoverinfo="skip", contours=HILL_LEVELS, zmin=0, zmax=1,
                           colorscale=HILL_COLOURS, line={"width": 0.6, "color": "rgba(128,128,128,0.55)"}),
                go.Scatter(mode="markers", hoverinfo="text", marker={"size": 10, "opacity": 0.9, "line": edge}),
                go.Scatter(mode="text", hoverinfo="skip", textfont={"size": 12, "color": GREY}),
                go.Scatter(mode="lines+markers", hoverinfo="text", line={"color": PALETTE[5], "width": 3},
                           marker={"size": 8, "line": edge}),
                go.Scatter(mode="markers", hoverinfo="skip",
                           marker={"size": 20, "color": "rgba(0,0,0,0)", "line": {"width": 3, "color": PALETTE[5]}}),
            ],
            layout={
                "autosize": True, "showlegend": False, "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
                "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": GREY},
                "xaxis": {"visible": False}, "yaxis": {"visible": False, "scaleanchor": "x"}, "hovermode": "closest",
                "uirevision": "map", "dragmode": "pan",
                "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": PALETTE[0]},
                "annotations": [{"text": EMPTY, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5,
                                 "y": 0.5, "font": {"size": 15, "color": GREY}}],
            },
        )  # fmt: skip
        unused = ["select2d", "lasso2d", "autoScale2d"]
        self.figure._config = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": unused}
        self.figure.add_class("muse-lab-map")
        self.figure.data[POINTS].on_click(lambda trace, points, _: [on_point(i) for i in points.point_inds[:1]])

    @guarded
    def draw(self, land: Landscape, labels: Sequence[str], groups: Sequence[str]) -> None:
        """The map: hills, names, and each point in the colour of its group."""
        self.land, traces = land, self.figure.data
        names = list(dict.fromkeys(groups))
        colours = [PALETTE[names.index(name) % len(PALETTE)] for name in groups]
        x, y, text = named_hills(land)
        with self.figure.batch_update():
            traces[HILLS].update(x=land.x, y=land.y, z=land.density)
            traces[POINTS].update(x=land.xy[:, 0], y=land.xy[:, 1], text=[escaped(t, 90) for t in labels])
            traces[POINTS].marker.color = colours
            traces[NAMES].update(x=x, y=y, text=text)
            for i in (PATH, RINGS):
                traces[i].update(x=[], y=[])
            self.figure.layout.annotations[0].visible = False

    @guarded
    def clear(self) -> None:
        """An empty map."""
        self.land = None
        with self.figure.batch_update():
            self.figure.data[HILLS].update(x=[], y=[], z=[])
            for trace in self.figure.data[1:]:
                trace.update(x=[], y=[])
            self.figure.layout.annotations[0].visible = True

    @guarded
    def path(self, embeddings: np.ndarray, labels: Sequence[str]) -> None:
        """A line through the places of embeddings (n, 512)."""
        if self.land is not None:
            xy = self.land.place(embeddings)
            self.figure.data[PATH].update(x=xy[:, 0], y=xy[:, 1], text=[escaped(t, 90) for t in labels])

    @guarded
    def mark(self, embeddings: np.ndarray) -> None:
        """Rings around the places of embeddings (n, 512)."""
        if self.land is not None:
            xy = self.land.place(embeddings)
            self.figure.data[RINGS].update(x=xy[:, 0], y=xy[:, 1])


def legend(groups: Sequence[str], most: int = 12) -> str:
    """The groups' colours and names as escaped HTML."""
    names = list(dict.fromkeys(groups))
    dots = [
        f'<i><svg width="12" height="12" aria-hidden="true"><circle cx="6" cy="6" r="5.5" fill="'
        f'{PALETTE[i % len(PALETTE)]}" stroke="{EDGE}"/></svg>{escaped(name, 60)}</i>'
        for i, name in enumerate(names[:most])
    ]
    return " ".join(dots) + (f"<i>and {len(names) - most} more</i>" if len(names) > most else "")


def named_hills(land: Landscape) -> tuple[list[float], list[float], list[str]]:
    """Places and names of the hills, highest first: a name moves up or down from an earlier one, or is left out."""
    side = max(np.ptp(land.x), np.ptp(land.y))
    x, y, names, height = [], [], [], NAME_HEIGHT * side
    for peak in sorted(land.peaks, key=lambda peak: -peak.density):
        name = escaped(peak.label, 60)
        for at in (peak.y, peak.y + height, peak.y - height):
            overlaps = (
                abs(at - b) < 0.999 * height and abs(peak.x - a) < NAME_WIDTH * side * (len(name) + len(other)) / 2
                for a, b, other in zip(x, y, names)
            )
            if not any(overlaps):
                x.append(peak.x)
                y.append(at)
                names.append(name)
                break
    return x, y, names
