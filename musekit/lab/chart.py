"""Chart: the Lab's map as a plotly figure: hills with their names, points to click on, a path, a ring."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from musekit.lab.landscape import Landscape
from musekit.lab.view import escaped
from musekit.show.style import PALETTE

GREY = "rgb(128,128,128)"  # legible on white and on black
HILLS = [[0, "rgba(110,130,160,0)"], [0.1, "rgba(110,130,160,0)"], [1, "rgba(110,130,160,0.5)"]]
EDGE = {"width": 1, "color": "rgba(255,255,255,0.75)"}  # of a point, against a dark ground
RING = {"size": 20, "color": "rgba(0,0,0,0)", "line": {"width": 3, "color": PALETTE[5]}}


class Chart(go.FigureWidget):
    """A map of points, in one colour per group of indices. `on_point(i)` is called when point i is clicked.

    plotly sends a change to the page by setting a trait and resetting it at once. While another thread handles a
    message of the page, traitlets holds both back and merges them, and the page would never get the change. `_guard`
    keeps the two apart.
    """

    def __init__(self, land: Landscape, labels: list[str], groups: dict[str, list[int]], on_point: Callable):
        self._guard = threading.RLock()
        peaks = [(peak.x, peak.y, escaped(peak.label, 60)) for peak in land.peaks]
        x, y, names = zip(*peaks) if peaks else ((), (), ())
        unnamed = {"showlegend": False, "hoverinfo": "skip"}
        line = {"color": PALETTE[5], "width": 3}
        super().__init__(
            [
                go.Contour(x=land.x, y=land.y, z=land.density, zmin=0, zmax=1, colorscale=HILLS, showscale=False,
                           contours={"start": 0.06, "end": 0.96, "size": 0.09}, line={"width": 0.6, "color": GREY},
                           **unnamed),
                go.Scatter(mode="lines", line=line, **unnamed),
                go.Scatter(mode="markers", marker=RING, **unnamed),
                *(go.Scatter(
                    x=land.xy[index, 0], y=land.xy[index, 1], text=[escaped(labels[i], 90) for i in index],
                    name=escaped(group, 60), mode="markers", hoverinfo="text",
                    marker={"size": 10, "opacity": 0.9, "line": EDGE, "color": PALETTE[k % len(PALETTE)]},
                ) for k, (group, index) in enumerate(groups.items())),
                go.Scatter(x=x, y=y, text=names, mode="text", textfont={"size": 12, "color": GREY}, **unnamed),
            ],
            layout={
                "autosize": True, "margin": {"l": 8, "r": 8, "t": 8, "b": 8}, "dragmode": "pan",
                "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": GREY},
                "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY},
                "xaxis": {"visible": False}, "yaxis": {"visible": False, "scaleanchor": "x"}, "hovermode": "closest",
                "showlegend": True, "legend": {"orientation": "h"}, "uirevision": "map",
            },
        )  # fmt: skip
        self._land, self._config = land, {"responsive": True, "displaylogo": False}
        self.add_class("muse-lab-chart")
        for trace, index in zip(self.data[3:], groups.values()):
            trace.on_click(lambda _, points, __, index=index: [on_point(index[i]) for i in points.point_inds[:1]])

    def set_state(self, sync_data: dict) -> None:
        """A message of the page."""
        with self._guard:
            super().set_state(sync_data)

    def path(self, embeddings: np.ndarray) -> None:
        """A line through the places of embeddings (n, 512)."""
        self._place(1, embeddings)

    def mark(self, embeddings: np.ndarray) -> None:
        """Rings around the places of embeddings (n, 512)."""
        self._place(2, embeddings)

    def _place(self, trace: int, embeddings: np.ndarray) -> None:
        xy = self._land.place(embeddings)
        with self._guard:
            self.data[trace].update(x=xy[:, 0], y=xy[:, 1])
