"""Chart: the Lab's map as one plotly figure that is updated in place: hills, points, names, a way, a flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from musekit.explore.landscape import Landscape
from musekit.show.style import PALETTE
from musekit.view.parts import escaped

WIDTH, HEIGHT = 760, 520  # set, or a FigureWidget has no size where its cell is hidden
HILLS, POINTS, NAMES, WAY, MARKED, MOVING = range(6)  # the traces
GREY = "rgb(128,128,128)"  # reads on white and on black


class Chart:
    """`figure` is a FigureWidget; `on_point(i)` is called when a person clicks point i."""

    def __init__(self, on_point: Callable[[int], None] = lambda i: None):
        self.land: Landscape | None = None
        self.figure = go.FigureWidget(
            [
                go.Contour(showscale=False, hoverinfo="skip", opacity=0.45, ncontours=12, colorscale="Greys",
                           line={"width": 0.5}),
                go.Scatter(mode="markers", marker={"size": 8, "opacity": 0.8}, hoverinfo="text"),
                go.Scatter(mode="text", textfont={"size": 13, "color": GREY}, hoverinfo="skip"),
                go.Scatter(mode="lines+markers", line={"color": PALETTE[5], "width": 3}, hoverinfo="text"),
                go.Scatter(mode="markers", hoverinfo="skip",
                           marker={"size": 18, "color": "rgba(0,0,0,0)", "line": {"width": 3, "color": PALETTE[5]}}),
                go.Scatter(mode="markers", hoverinfo="skip",
                           marker={"size": 6, "color": PALETTE[3], "symbol": "diamond"}),
            ],
            layout={
                "width": WIDTH, "height": HEIGHT, "showlegend": False, "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
                "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": GREY},
                "xaxis": {"visible": False}, "yaxis": {"visible": False, "scaleanchor": "x"}, "hovermode": "closest",
                "uirevision": "map",
            },
        )  # fmt: skip
        self.figure.data[POINTS].on_click(lambda trace, points, _: [on_point(i) for i in points.point_inds[:1]])

    def draw(self, land: Landscape, labels: Sequence[str], colours: Sequence[str] | np.ndarray) -> None:
        """The map: hills, names, and each point in its colour (names: one colour each; numbers: a scale)."""
        self.land, traces = land, self.figure.data
        shown, scale = self._colours(colours)
        with self.figure.batch_update():
            traces[HILLS].update(x=land.x, y=land.y, z=land.density)
            traces[POINTS].update(x=land.xy[:, 0], y=land.xy[:, 1], text=[escaped(t, 90) for t in labels])
            traces[POINTS].marker.update(color=shown, **scale)
            peaks = land.peaks
            names = [escaped(p.label, 60) for p in peaks]
            traces[NAMES].update(x=[p.x for p in peaks], y=[p.y for p in peaks], text=names)
            for i in (WAY, MARKED, MOVING):
                traces[i].update(x=[], y=[])

    def _colours(self, colours: Sequence[str] | np.ndarray) -> tuple[list, dict]:
        if isinstance(colours, np.ndarray):
            return colours.tolist(), {"colorscale": "Viridis", "showscale": True}
        names = list(dict.fromkeys(colours))
        return [PALETTE[names.index(c) % len(PALETTE)] for c in colours], {"showscale": False}

    def clear(self) -> None:
        """An empty map."""
        self.land = None
        with self.figure.batch_update():
            self.figure.data[HILLS].update(x=[], y=[], z=[])
            for trace in self.figure.data[1:]:
                trace.update(x=[], y=[])

    def way(self, rows: np.ndarray, labels: Sequence[str]) -> None:
        """A line through the places of embeddings (n, 512)."""
        if self.land is not None:
            xy = self.land.place(rows)
            self.figure.data[WAY].update(x=xy[:, 0], y=xy[:, 1], text=[escaped(t, 90) for t in labels])

    def mark(self, xy: np.ndarray) -> None:
        """Rings around places (n, 2)."""
        self.figure.data[MARKED].update(x=xy[:, 0], y=xy[:, 1])

    def move(self, xy: np.ndarray) -> None:
        """Where the flow's samples (n, 2) are now."""
        self.figure.data[MOVING].update(x=xy[:, 0], y=xy[:, 1])


def legend(colours: Sequence[str] | np.ndarray, most: int = 12) -> str:
    """The colours' names as HTML, escaped; "" for numbers, which have a scale."""
    if isinstance(colours, np.ndarray):
        return ""
    names = list(dict.fromkeys(colours))
    dots = [
        f'<span style="color:{PALETTE[i % len(PALETTE)]}">\N{BLACK CIRCLE}</span> {escaped(name, 60)}'
        for i, name in enumerate(names[:most])
    ]
    return " &ensp; ".join(dots) + (f" &ensp; and {len(names) - most} more" if len(names) > most else "")
