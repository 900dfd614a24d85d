"""LabView: the Lab as a panel. A map to click on, and a list of places for a path or a mix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as w
import numpy as np
import torch

from musekit.config import MuseError
from musekit.lab.chart import Chart
from musekit.lab.lab import Lab, Point
from musekit.lab.landscape import MIN_POINTS
from musekit.lab.rendering import RenderedPiece
from musekit.lab.view import WIDE, View, classed, escaped, row, tags_of
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import clean_prompt

NO_MAP = "Press Sample: the map of answers appears here"
NO_PLACES = "<i>no places yet: add two or more, then play the path between them, or their mix</i>"


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
        self.job, self.library = self.state.job, library
        self.chart: Chart | None = None
        self.played: tuple[Point, RenderedPiece] | None = None  # the place that was played last, and its sound
        self._make("; ".join(prompts), n)
        self._list([])

    def _make(self, prompts: str, n: int) -> None:
        self.name(
            prompts=classed(w.Text(prompts, placeholder="prompts, separated by semicolons",
                                   tooltip="several, separated by semicolons"), "muse-big"),
            n=w.IntSlider(n, 10, 500, step=10, description="of each", style={"description_width": "52px"}),
            map=w.Box([w.HTML(NO_MAP)]),
            upload=w.FileUpload(accept="audio/*", multiple=True, description="Add sounds", tooltip="audio as a prompt"),
            tags=w.Text("", description="tags", placeholder="separated by commas", **WIDE),
            place=w.Text("", description="place", placeholder="a prompt; empty: the last sound", **WIDE),
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
        add = self.button("add", "Add", "to the places below", self._add, "plus")
        forget = self.button("forget", "Forget", "remove all places", lambda: self._list([]), "trash")
        walk = self.button("walk", "Play the path", "from place to place, as one sound", self._walk, "road")
        mix = self.button("mix", "Play the mix", "the mean of the places",
                          lambda: self.play(self.state.mix(self.places)), "play")  # fmt: skip
        self.panel(
            "Lab",
            classed(w.HBox([self.prompts, self.n, sample, cancel]), "muse-ask"),
            self.map, self.player, row(self.tags, keep), row(self.upload, clear),
            row(self.place, add, forget), self.places_list, row(self.steps, walk, mix),
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
        return self._map(refit=True)

    def _map(self, refit: bool = False) -> str:
        self.job.report("laying out the map", max(0.5, self.job.fraction))
        land, points = self.state.map(refit), self.state.points
        self.chart = Chart(land, [p.label for p in points], self.state.groups(),
                           lambda i: self.safely(lambda: self.play(points[i]))())  # fmt: skip
        self._place_map(self.chart)
        return f"{len(points)} points, {len(land.peaks)} hills; click a point to hear it"

    def _place_map(self, widget: w.Widget) -> None:
        old, self.map.children = self.map.children, (widget,)
        for one in old:
            one.close()

    def _upload(self) -> None:
        files, self.upload.value = self.upload.value, ()
        self.job.must_be_idle()
        added = [self.state.add_sound(bytes(file["content"]), str(file["name"])) for file in files]
        if not files:  # the line above emptied it
            return
        text = "added " + ", ".join(f"{point.label}{note}" for point, note in added)
        self.say(text)
        if len(self.state.points) >= MIN_POINTS:
            self.job.start(lambda: f"{text}; {self._map()}")

    def _clear(self) -> None:
        self.job.must_be_idle()
        self.state.clear()
        self.chart = None
        self._place_map(w.HTML(NO_MAP))

    # -- sounds

    def play(self, point: Point) -> None:
        """Play a place when its sound is rendered. Raises MuseError while something else runs."""

        def work() -> str:
            piece = self.state.sound(point, self.job.follow(1))
            self.played = point, piece
            self.player.play(piece.audio, piece.sample_rate, point.label)
            self._draw(Chart.mark, [point])
            return f"{point.label}, similarity {piece.similarity:+.2f}"

        self.job.start(work)

    def _draw(self, draw: Callable[[Chart, np.ndarray], None], points: list[Point]) -> None:
        if self.chart is not None:
            draw(self.chart, torch.stack([p.embedding for p in points]).numpy())

    def _keep(self) -> None:
        if self.played is None:
            raise MuseError("no sound was played yet; click a point first")
        if self.library is None:
            self.library = Library()
        point, piece = self.played
        entry = self.library.add(piece, name=point.label, tags=tags_of(self.tags.value))
        self.say(f"kept {entry.name}")
        self.library_changed()

    # -- a path or a mix

    def _add(self) -> None:
        if self.place.value.strip():
            self._list(self.places + self.state.draw(self.place.value, 1, self.state.noise_seed))
        elif self.played is not None:
            self._list([*self.places, self.played[0]])
        else:
            raise MuseError("write a prompt, or click a point of the map first")
        self.place.value = ""

    def _list(self, places: list[Point]) -> None:
        self.places = places
        self.places_list.value = " \N{RIGHTWARDS ARROW} ".join(escaped(p.label, 60) for p in places) or NO_PLACES

    def _walk(self) -> None:
        points = self.state.path(self.places, self.steps.value)

        def work() -> str:
            for i, point in enumerate(points):
                self.state.sound(point, self.job.follow(1, i / len(points), (i + 1) / len(points)))
            audio, rate = self.state.sequence(points)
            self._draw(Chart.path, points)
            self.player.play(audio, rate, points[0].label.rpartition(":")[0])
            return f"{len(points)} sounds, {audio.shape[1] / rate:.1f} s"

        self.job.start(work)
