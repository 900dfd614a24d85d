"""LabView: the Lab as a panel. A map to click on, and a list of places for a path or a mix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as w
import plotly.graph_objects as go

from musekit.config import MuseError
from musekit.lab.lab import Lab, Point
from musekit.lab.landscape import MIN_POINTS, Landscape
from musekit.lab.rendering import RenderedPiece
from musekit.lab.view import WIDE, View, classed, escaped, row
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import clean_prompt
from musekit.show.style import PALETTE

NO_MAP = "Press Sample: the map of answers appears here"
NO_PLACES = "<i>no places yet: add two or more, then play the path between them, or their mix</i>"

GREY = "rgb(128,128,128)"  # legible on white and on black
HILLS = [[0, "rgba(110,130,160,0)"], [0.1, "rgba(110,130,160,0)"], [1, "rgba(110,130,160,0.5)"]]
EDGE = {"width": 1, "color": "rgba(255,255,255,0.75)"}  # of a point, against a dark ground


def chart_of(land: Landscape, labels: list[str], groups: dict[str, list[int]], on_point: Callable) -> go.FigureWidget:
    """The map: hills with their names, and points in one colour per group of indices.

    `on_point(i)` is called when point i is clicked. The clicked point is drawn larger by the page itself.
    """
    peaks = [(peak.x, peak.y, escaped(peak.label, 60)) for peak in land.peaks]
    x, y, names = zip(*peaks) if peaks else ((), (), ())
    unnamed = {"showlegend": False, "hoverinfo": "skip"}
    chart = go.FigureWidget(
        [
            go.Contour(x=land.x, y=land.y, z=land.density, zmin=0, zmax=1, colorscale=HILLS, showscale=False,
                       contours={"start": 0.06, "end": 0.96, "size": 0.09}, line={"width": 0.6, "color": GREY},
                       **unnamed),
            *(go.Scatter(
                x=land.xy[index, 0], y=land.xy[index, 1], text=[escaped(labels[i], 90) for i in index],
                name=escaped(group, 60), mode="markers", hoverinfo="text",
                marker={"size": 10, "opacity": 0.9, "line": EDGE, "color": PALETTE[k % len(PALETTE)]},
                selected={"marker": {"size": 20}}, unselected={"marker": {"opacity": 0.9}},
            ) for k, (group, index) in enumerate(groups.items())),
            go.Scatter(x=x, y=y, text=names, mode="text", textfont={"size": 12, "color": GREY}, **unnamed),
        ],
        layout={
            "autosize": True, "margin": {"l": 8, "r": 8, "t": 8, "b": 8}, "dragmode": "pan",
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": GREY},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY}, "clickmode": "event+select",
            "xaxis": {"visible": False}, "yaxis": {"visible": False, "scaleanchor": "x"}, "hovermode": "closest",
            "showlegend": True, "legend": {"orientation": "h"}, "uirevision": "map",
        },
    )  # fmt: skip
    chart._config = {"responsive": True, "displaylogo": False}
    chart.add_class("muse-lab-chart")
    for trace, index in zip(chart.data[1:], groups.values()):
        trace.on_click(lambda _, points, __, index=index: [on_point(index[i]) for i in points.point_inds[:1]])
    return chart


class LabView(View):
    """`state` is the `lab.Lab` behind it, for use from any cell."""

    def __init__(
        self,
        weights: str | Path | Muse = "mini",
        prompts: tuple[str, ...] = ("a sad piano melody", "a happy flute tune"),
        n: int = 150,
        library: Library | None = None,
        **options,
    ):
        """A system or its name. Options: those of `lab.Lab`. Sampling begins with the button."""
        super().__init__("muse-lab")
        self.state = Lab(weights, on_change=self._show, **options)
        self.job, self.library = self.state.job, Library() if library is None else library
        self.chart: go.FigureWidget | None = None
        self.played: tuple[Point, RenderedPiece] | None = None  # the place that was played last, and its sound
        self._make("; ".join(prompts), n)
        self._list([])

    def _make(self, prompts: str, n: int) -> None:
        self.name(
            prompts=classed(w.Text(prompts, placeholder="prompts, separated by semicolons",
                                   tooltip="several, separated by semicolons"), "muse-big"),
            n=w.IntSlider(n, 10, 500, step=10, description="of each", style={"description_width": "52px"}),
            map=w.Box([w.HTML(NO_MAP)]),
            upload=w.FileUpload(accept="audio/*", multiple=True, description="Add sounds",
                                tooltip="their first seconds, as a prompt"),
            tags=w.Text("", description="tags", placeholder="separated by commas", **WIDE),
            places_list=w.HTML(),
            steps=w.IntSlider(5, 2, 15, description="sounds", tooltip="on the path, ends included", **WIDE),
        )  # fmt: skip
        self.upload.observe(self.safely(self._upload), "value")
        sample = self.button("sample", "Sample", "draw embeddings for these prompts and lay out the map",
                             lambda: self.job.start(self._sample), "map", "primary")  # fmt: skip
        cancel = self.button("cancel", "Cancel", "stop at the next step", self.job.cancel, "stop")
        cancel.disabled = True
        keep = self.button("keep", "Keep this sound", "put the last sound into the library", self._keep, "bookmark")
        clear = self.button("clear", "Clear the map", "remove all points", self._clear, "trash")
        add = self.button("add", "Add", "the last sound to the places below",
                          lambda: self._list([*self.places, self._last()[0]]), "plus")  # fmt: skip
        forget = self.button("forget", "Forget", "remove all places", lambda: self._list([]), "trash")
        walk = self.button("walk", "Play the path", "from place to place, as one sound", self._walk, "road")
        mix = self.button("mix", "Play the mix", "the mean of the places",
                          lambda: self.play(self.state.mix(self.places)), "play")  # fmt: skip
        self.panel(
            "Lab",
            classed(w.HBox([self.prompts, self.n, sample, cancel]), "muse-ask"),
            self.map, self.player, row(self.tags, keep), row(self.upload, clear),
            row(add, forget), self.places_list, row(self.steps, walk, mix),
        )  # fmt: skip

    def _show(self) -> None:
        self.show_job(self.job, self.sample, self.clear, self.walk, self.mix, cancel=self.cancel)

    # -- the map

    def _sample(self) -> str:
        texts = [text.strip() for text in self.prompts.value.split(";") if text.strip()]
        if not texts:
            raise MuseError("write a prompt, or several separated by semicolons")
        for i, text in enumerate(texts):
            known = self.state.groups().get(clean_prompt(text), [])  # a group has the name of its recipe's prompt
            follow = self.job.follow(1, 0.8 * i / len(texts), 0.8 * (i + 1) / len(texts))
            self.state.sample(text, self.n.value, len(known), on_step=follow)
        return self._map()

    def _map(self) -> str:
        self.job.report("laying out the map", max(0.5, self.job.fraction))
        land, points = self.state.map(), self.state.points
        self.chart = chart_of(land, [p.label for p in points], self.state.groups(),
                              lambda i: self.safely(lambda: self.play(points[i]))())  # fmt: skip
        self._place_map(self.chart)
        return f"{len(points)} points, {len(land.peaks)} hills; click a point to hear it"

    def _place_map(self, widget: w.Widget) -> None:
        old, self.map.children = self.map.children, (widget,)
        for one in old:
            one.close()

    def _upload(self) -> None:
        files, self.upload.value = self.upload.value, ()
        if files:  # the line above emptied it
            self.job.start(lambda: self._add_sounds(files))

    def _add_sounds(self, files: tuple[dict, ...]) -> str:
        added = [self.state.add_sound(bytes(file["content"]), str(file["name"])).label for file in files]
        text = f"added {', '.join(added)}"
        return f"{text}; {self._map()}" if len(self.state.points) >= MIN_POINTS else text

    def _clear(self) -> None:
        self.state.points, self.chart = [], None
        self._place_map(w.HTML(NO_MAP))

    # -- sounds

    def play(self, point: Point) -> None:
        """Play a place when its sound is rendered. Raises MuseError while something else runs."""

        def work() -> str:
            piece = self.state.sound(point, self.job.follow(1))
            self.played = point, piece
            self.player.play(piece.audio, piece.sample_rate, point.label)
            return f"{point.label}, similarity {piece.similarity:+.2f}"

        self.job.start(work)

    def _last(self) -> tuple[Point, RenderedPiece]:
        if self.played is None:
            raise MuseError("no sound was played yet; click a point first")
        return self.played

    def _keep(self) -> None:
        point, piece = self._last()
        entry = self.library.add(piece, name=point.label, tags=self.tags.value.split(","))
        self.say(f"kept {entry.name}")
        self.library_changed()

    # -- a path or a mix

    def _list(self, places: list[Point]) -> None:
        self.places = places
        self.places_list.value = " \N{RIGHTWARDS ARROW} ".join(escaped(p.label, 60) for p in places) or NO_PLACES

    def _walk(self) -> None:
        points = self.state.path(self.places, self.steps.value)

        def work() -> str:
            for i, point in enumerate(points):
                self.state.sound(point, self.job.follow(1, i / len(points), (i + 1) / len(points)))
            audio, rate = self.state.sequence(points)
            self.player.play(audio, rate, points[0].label.rpartition(":")[0])
            return f"{len(points)} sounds, {audio.shape[1] / rate:.1f} s"

        self.job.start(work)
