"""LabView: the Lab as a panel. A map to click on; beside it tabs for paths, mixes and the map itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as w
import numpy as np

from musekit.config import MuseError
from musekit.lab.chart import Chart, legend
from musekit.lab.lab import Lab, Point
from musekit.lab.landscape import MIN_POINTS
from musekit.lab.player import Player
from musekit.lab.rendering import RenderedPiece
from musekit.lab.view import WIDE, View, button, classed, escaped, row, stack, tags_of
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import clean_prompt

MAX_PARTS = 12  # of a mix
NO_STOPS = "<i>no stops yet: add two or more, then make the path</i>"


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
        self.player = Player()
        self.state = Lab(weights, library, on_change=self._show, **options)
        self.job = self.state.job
        self.played: tuple[Point, RenderedPiece] | None = None  # the place that was played last, and its sound
        self.chart = Chart(lambda i: self.safely(lambda: self.play(self.state.points[i]))())
        self._make("; ".join(prompts), n)
        self.path_tool, self.mix_tool = PathTool(self), MixTool(self)
        board = stack(row(self.redraw, self.pick), row(self.upload, self.clear))
        tabs = w.Tab([self.path_tool.view, self.mix_tool.view, board], titles=("Path", "Mix", "Map"))
        self.panel(
            "Lab",
            classed(w.HBox([self.prompts, self.n, self.sample, self.cancel]), "muse-ask"),
            classed(
                w.Box([
                    classed(stack(self.legend, self.chart.figure), "muse-lab-place"),
                    classed(tabs, "muse-lab-tools"),
                    classed(stack(self.player, row(self.tags, self.keep)), "muse-lab-player"),
                ]), "muse-lab-two",
            ),
        )  # fmt: skip

    def _make(self, prompts: str, n: int) -> None:
        short = {"description_width": "52px"}
        self.name(
            prompts=classed(w.Text(prompts, placeholder="prompts, separated by semicolons",
                                   tooltip="several, separated by semicolons"), "muse-big"),
            n=w.IntSlider(n, 10, 500, step=10, description="of each", style=short),
            sample=button("Sample", "draw embeddings for these prompts and lay out the map", "map", "primary"),
            cancel=button("Cancel", "stop at the next step", "stop"),
            upload=w.FileUpload(accept="audio/*", multiple=True, description="Add sounds", tooltip="audio as a prompt"),
            clear=button("Clear", "remove all points from the map", "trash"),
            redraw=button("Lay out again", "lay the map out with all points", "refresh"),
            pick=button("Hear the hills", "one point of each hill, one after another", "play"),
            legend=w.HTML(""),
            tags=w.Text("", description="tags", placeholder="separated by commas", style=short),
            keep=button("Keep this sound", "put the last sound into the library", "bookmark"),
        )  # fmt: skip
        self.cancel.disabled = True
        self.on_click({
            self.sample: lambda: self.work(self._sample), self.cancel: self.job.cancel, self.clear: self._clear,
            self.redraw: lambda: self.work(lambda: self._map(refit=True)), self.keep: self._keep,
            self.pick: lambda: self.work(self._pick),
        })  # fmt: skip
        self.upload.observe(self.safely(self._upload), "value")

    # -- in the job's thread

    def work(self, call: Callable[[], str]) -> None:
        """Run something that takes long; raises MuseError while something else runs."""
        self.job.start(call, "working")

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
        land = self.state.map(refit)
        groups = [p.group for p in self.state.points]
        self.chart.draw(land, [p.label for p in self.state.points], groups)
        self.legend.value = legend(groups)
        return f"{len(land.xy)} points, {len(land.peaks)} peaks; click a point to hear it"

    def _pick(self) -> str:
        self._map()
        points = [self.state.points[i] for i in self.state.pick()]
        self.chart.mark(np.stack([p.embedding.numpy() for p in points]))
        self.play_sequence(points, 0.5, f"{len(points)} hills")
        return "; ".join(p.label[:60] for p in points)

    def render(self, points: list[Point]) -> None:
        """Render places into the cache."""
        for i, point in enumerate(points):
            self.state.sound(point, self.job.follow(1, i / len(points), (i + 1) / len(points)))

    def play_sequence(self, points: list[Point], fade: float, label: str) -> float:
        """Play places as one sound; returns its length in seconds."""
        self.render(points)
        audio, rate = self.state.sequence(points, fade)
        self.player.play(audio, rate, label)
        return audio.shape[1] / rate

    # -- at once

    def play(self, point: Point) -> None:
        """Play a place: at once from the cache, else when it is rendered."""
        cached = self.state.cached_sound(point)
        if cached is not None:
            self._play(point, cached)
            return

        def work() -> str:
            piece = self.state.sound(point, self.job.follow(1))
            self._play(point, piece)
            return f"{point.label}, similarity {piece.similarity:+.2f}"

        self.work(work)

    def _play(self, point: Point, piece: RenderedPiece) -> None:
        self.played = point, piece
        self.player.play(piece.audio, piece.sample_rate, point.label)
        self.chart.mark(point.embedding[None].numpy())

    def _upload(self) -> None:
        files = self.upload.value
        self.upload.value = ()
        self.job.must_be_idle()
        for file in files:
            point, notes = self.state.add_sound(bytes(file["content"]), str(file["name"]))
            self.say(": ".join([f"added {point.label}", *notes]))
        if files and len(self.state.points) >= MIN_POINTS:
            said = [*(p.label for p in self.state.points[-len(files) :]), *notes]
            self.work(lambda: f"added {', '.join(said)}; {self._map()}")

    def _clear(self) -> None:
        self.job.must_be_idle()
        self.state.clear()
        self.chart.clear()
        self.legend.value = ""
        self.say("the map is empty")

    def _keep(self) -> None:
        if self.played is None:
            raise MuseError("no sound was played yet; click a point first")
        if self.state.library is None:
            self.state.library = Library()
        point, piece = self.played
        entry = self.state.library.add(piece, name=point.label, tags=tags_of(self.tags.value))
        self.notify(self.state.library.folder)
        self.say(f"kept {entry.name}")

    def source(self, text: str) -> Point | str:
        """What a person names: "#12" is point 12, a sound's name its point, anything else a prompt."""
        text = text.strip()
        if text.startswith("#") and text[1:].isdigit():
            if int(text[1:]) >= len(self.state.points):
                raise MuseError(f"there is no point {text[1:][:20]}; the map has {len(self.state.points)}")
            return self.state.points[int(text[1:])]
        return next((p for p in self.state.points if p.kind == "sound" and p.label == text), text)

    def _show(self) -> None:
        self.show_job(self.job, self.sample, self.redraw, self.clear, self.pick, cancel=self.cancel)


class PathTool(View):
    """A tab: from one place to another, played place by place or as one sound."""

    def __init__(self, lab: LabView):
        super().__init__("muse-path")
        self.lab, self.say = lab, lab.say
        self.stops: list[Point] = []
        self.points: list[Point] = []
        self.name(
            stop=w.Text("", placeholder="a prompt, #12; empty: the last sound"),
            add=button("Add", "the path leads through this stop", "plus"),
            clear=button("Clear", "remove all stops", "trash"),
            stops_list=w.HTML(NO_STOPS),
            places=w.IntSlider(5, 2, 15, description="places", **WIDE),
            make=button("Make the path", "render all its places", "road", "primary"),
            place=w.IntSlider(0, 0, 0, description="place", continuous_update=False, disabled=True, **WIDE),
            play=button("Play the path", "all places as one sound", "play"),
        )
        self.on_click({self.add: self._add, self.clear: self._clear, self.make: self._make, self.play: self._play})
        self.place.observe(self.safely(lambda: self.points and lab.play(self.points[self.place.value])), "value")
        self.view = stack(
            row(self.stop, self.add, self.clear), self.stops_list, row(self.places, self.make), self.place,
            self.play,
        )  # fmt: skip

    def _add(self) -> None:
        if self.stop.value.strip():
            source = self.lab.source(self.stop.value)
            state = self.lab.state
            self.stops.append(source if isinstance(source, Point) else state.draw(source, 1, state.noise_seed)[0])
        elif self.lab.played is not None:
            self.stops.append(self.lab.played[0])
        else:
            raise MuseError("write a prompt, or click a point of the map first")
        self.stop.value = ""
        self._list()

    def _clear(self) -> None:
        self.stops, self.points = [], []
        self._list()

    def _list(self) -> None:
        self.stops_list.value = " \N{RIGHTWARDS ARROW} ".join(escaped(p.label, 60) for p in self.stops) or NO_STOPS

    def _make(self) -> None:
        if len(self.stops) < 2:
            raise MuseError("add two stops or more")
        points = self.lab.state.path(self.stops, self.places.value)

        def work() -> str:
            self.lab.render(points)
            self.points, self.place.max, self.place.disabled = points, len(points) - 1, False
            self.lab.chart.path(np.stack([p.embedding.numpy() for p in points]), [p.label for p in points])
            return f"{len(points)} places; move the slider, or play the path"

        self.lab.work(work)

    def _play(self) -> None:
        points = self.points
        if not points:
            raise MuseError("make a path first")
        label = f"{points[0].group}, {len(points)} places"
        self.lab.work(lambda: f"{self.lab.play_sequence(points, 1.0, label):.1f} s")


class MixTool(View):
    """A tab: several prompts and sounds by weight."""

    def __init__(self, lab: LabView):
        super().__init__("muse-mix")
        self.lab, self.say = lab, lab.say
        self.parts: list[tuple[w.Text, w.FloatSlider]] = []
        self.name(
            add=button("Add a part", "one more prompt or sound", "plus"),
            hear=button("Hear the mix", "render the weighted mean", "play", "primary"),
            box=stack(),
        )
        self._add()
        self._add()
        self.on_click({self.add: self._add, self.hear: lambda: lab.play(self.point())})
        self.view = stack(self.box, row(self.add, self.hear))

    def _add(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise MuseError(f"a mix has at most {MAX_PARTS} parts")
        name = w.Text("", placeholder="a prompt, #12, or a sound's name")
        slider = w.FloatSlider(0.5, min=0.0, max=1.0, step=0.05, description="weight", **WIDE)
        self.parts.append((name, slider))
        self.box.children = (*self.box.children, stack(name, slider))

    def point(self) -> Point:
        """The mix."""
        parts = [(self.lab.source(name.value), slider.value) for name, slider in self.parts if name.value.strip()]
        return self.lab.state.mix(parts)
