"""Chart: the Lab's map as one plotly figure that is updated in place: hills, points, names, a way, a flow."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from musekit.explore.landscape import Landscape
from musekit.show.style import PALETTE
from musekit.view.parts import escaped

HILLS, POINTS, NAMES, WAY, MARKED, MOVING = range(6)  # the traces
GREY = "rgb(128,128,128)"  # reads on white and on black
SLOPE = [
    [0, "rgba(110,130,160,0)"],
    [0.1, "rgba(110,130,160,0)"],
    [1, "rgba(110,130,160,0.5)"],
]  # hills are a veil: any ground shows through
LEVELS = {"start": 0.06, "end": 0.96, "size": 0.09}  # fixed, so that what lies below the first is never tinted
EDGE = "rgba(255,255,255,0.75)"  # a light edge tells a dark point from a dark ground
EMPTY = "Press Sample: the map of answers appears here"
NAME_WIDTH, NAME_HEIGHT = 0.016, 0.055  # of a letter and of a line, as a part of the map's longer side


class Figure(go.FigureWidget):
    """A figure that takes no message of the page in while `_guard` is held.

    plotly tells the page of a change by setting a trait and at once setting it back; while another thread takes a
    message in, traitlets holds both, merges them, and the page would never hear of the change.
    """

    def __init__(self, *parts, **options):
        self._guard = threading.RLock()
        super().__init__(*parts, **options)

    def set_state(self, sync_data: dict) -> None:
        """What the page says."""
        with self._guard:
            super().set_state(sync_data)


def guarded(change: Callable) -> Callable:
    """A method of `Chart` during which the page waits."""

    @functools.wraps(change)
    def run(self, *arguments):
        with self.figure._guard:
            return change(self, *arguments)

    return run


class Chart:
    """`figure` is a FigureWidget as large as its place; `on_point(i)` is called when a person clicks point i."""

    def __init__(self, on_point: Callable[[int], None] = lambda i: None):
        self.land: Landscape | None = None
        ring = {"size": 20, "color": "rgba(0,0,0,0)", "line": {"width": 3, "color": PALETTE[5]}}
        point = {"size": 10, "opacity": 0.9, "line": {"width": 1, "color": EDGE}}
        self.figure = Figure(
            [
                go.Contour(showscale=False, hoverinfo="skip", contours=LEVELS, zmin=0, zmax=1, colorscale=SLOPE,
                           line={"width": 0.6, "color": "rgba(128,128,128,0.55)"}),
                go.Scatter(mode="markers", marker=point, hoverinfo="text"),
                go.Scatter(mode="text", textfont={"size": 12, "color": GREY}, hoverinfo="skip"),
                go.Scatter(mode="lines+markers", hoverinfo="text", line={"color": PALETTE[5], "width": 3},
                           marker={"size": 8, "line": {"width": 1, "color": EDGE}}),
                go.Scatter(mode="markers", hoverinfo="skip", marker=ring),
                go.Scatter(mode="markers", hoverinfo="skip",
                           marker={"size": 8, "color": PALETTE[3], "symbol": "diamond",
                                   "line": {"width": 1, "color": EDGE}}),
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
        self.figure._config = {
            "responsive": True,
            "displaylogo": False,
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        }
        self.figure.add_class("muse-lab-map")
        self.figure.data[POINTS].on_click(lambda trace, points, _: [on_point(i) for i in points.point_inds[:1]])

    @guarded
    def draw(self, land: Landscape, labels: Sequence[str], colours: Sequence[str] | np.ndarray) -> None:
        """The map: hills, names, and each point in its colour (names: one colour each; numbers: a scale)."""
        self.land, traces = land, self.figure.data
        shown, scale = self._colours(colours)
        with self.figure.batch_update():
            traces[HILLS].update(x=land.x, y=land.y, z=land.density)
            traces[POINTS].update(x=land.xy[:, 0], y=land.xy[:, 1], text=[escaped(t, 90) for t in labels])
            traces[POINTS].marker.update(color=shown, **scale)
            x, y, names = placed(land)
            traces[NAMES].update(x=x, y=y, text=names)
            for i in (WAY, MARKED, MOVING):
                traces[i].update(x=[], y=[])
            self.figure.layout.annotations[0].visible = False

    def _colours(self, colours: Sequence[str] | np.ndarray) -> tuple[list, dict]:
        if isinstance(colours, np.ndarray):
            bar = {"thickness": 10, "outlinewidth": 0, "len": 0.6}
            return colours.tolist(), {"colorscale": "Viridis", "showscale": True, "colorbar": bar}
        names = list(dict.fromkeys(colours))
        return [PALETTE[names.index(c) % len(PALETTE)] for c in colours], {"showscale": False}

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
    def way(self, rows: np.ndarray, labels: Sequence[str]) -> None:
        """A line through the places of embeddings (n, 512)."""
        if self.land is not None:
            xy = self.land.place(rows)
            self.figure.data[WAY].update(x=xy[:, 0], y=xy[:, 1], text=[escaped(t, 90) for t in labels])

    @guarded
    def mark(self, xy: np.ndarray) -> None:
        """Rings around places (n, 2)."""
        self.figure.data[MARKED].update(x=xy[:, 0], y=xy[:, 1])

    @guarded
    def move(self, xy: np.ndarray) -> None:
        """Where the flow's samples (n, 2) are now."""
        self.figure.data[MOVING].update(x=xy[:, 0], y=xy[:, 1])


def legend(colours: Sequence[str] | np.ndarray, most: int = 12) -> str:
    """The colours' names as HTML, escaped; "" for numbers, which have a scale."""
    if isinstance(colours, np.ndarray):
        return ""
    names = list(dict.fromkeys(colours))
    dots = [
        f'<i><svg width="12" height="12" aria-hidden="true"><circle cx="6" cy="6" r="5.5" fill="'
        f'{PALETTE[i % len(PALETTE)]}" stroke="{EDGE}"/></svg>{escaped(name, 60)}</i>'
        for i, name in enumerate(names[:most])
    ]
    return " ".join(dots) + (f"<i>and {len(names) - most} more</i>" if len(names) > most else "")


def placed(land: Landscape) -> tuple[list[float], list[float], list[str]]:
    """Places and names of the hills, highest first: a name moves up or down off an earlier one, or is left out."""
    side = max(np.ptp(land.x), np.ptp(land.y))
    x, y, names = [], [], []
    for peak in sorted(land.peaks, key=lambda peak: -peak.density):
        name, high = escaped(peak.label, 60), NAME_HEIGHT * side
        for at in (peak.y, peak.y + high, peak.y - high):
            beside = [abs(at - b) < 0.999 * high and abs(peak.x - a) < NAME_WIDTH * side * (len(name) + len(other)) / 2
                      for a, b, other in zip(x, y, names)]  # fmt: skip
            if not any(beside):
                x.append(peak.x), y.append(at), names.append(name)
                break
    return x, y, names
