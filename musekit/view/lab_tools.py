"""The Lab's tools: ways between points, a mixer, the flow itself, picks and numbers. Each is one tab."""

from __future__ import annotations

import ipywidgets as w
import numpy as np

from musekit.config import MuseError
from musekit.explore.lab import STRATEGIES
from musekit.explore.points import Point
from musekit.view.parts import WIDE, View, button, escaped, row, stack

NO_STOPS = "<i>no stops yet: add two or more, then make the way</i>"


class Tool(View):
    """A tab: it speaks through the Lab's own line and works in the Lab's own job."""

    def __init__(self, lab, prefix: str):
        super().__init__(prefix)
        self.lab, self.state = lab, lab.state
        self.say, self.work = lab.say, lab.work

    def source(self, text: str) -> Point | str:
        """What a person names: "#12" is the twelfth point, a sound's name its point, all else a prompt."""
        text = text.strip()
        if text.startswith("#") and text[1:].isdigit():
            index = int(text[1:])
            if index >= len(self.state.points):
                raise MuseError(f"there is no point {index}; the map has {len(self.state.points)}")
            return self.state.points[index]
        return next((p for p in self.state.points if p.kind == "sound" and p.label == text), text)


class WayTool(Tool):
    """From one place to another: by embedding, or by noise; heard place by place or as one."""

    def __init__(self, lab):
        super().__init__(lab, "muse-way")
        self.stops: list[Point] = []
        self.way: list[Point] = []
        self.name(
            stop=w.Text("", placeholder="a prompt, #12; empty: what is heard"),
            add=button("Add", "the way leads through it", "plus"),
            clear=button("Clear", "begin again with no stops", "trash"),
            stops_list=w.HTML(NO_STOPS),
            places=w.IntSlider(5, 2, 15, description="places", **WIDE),
            make=button("Make the way", "render every place of it", "road", "primary"),
            seed=w.BoundedIntText(1, 0, 2**53 - 1024, description="noise seed", **WIDE),
            vary=button("Vary noise", "one embedding, from this noise to another's", "random"),
            place=w.IntSlider(0, 0, 0, description="place", continuous_update=False, **WIDE),
            fade=w.FloatSlider(1.0, min=0.0, max=3.0, step=0.25, description="fade, s", **WIDE),
            play=button("Play the way", "all places as one sound", "play"),
        )
        self.add.on_click(self.safely(self._add))
        self.clear.on_click(self.safely(self._clear))
        self.make.on_click(self.safely(self._make))
        self.vary.on_click(self.safely(self._vary))
        self.play.on_click(self.safely(self._play))
        self.place.observe(self.safely(lambda: self.way and lab.hear(self.way[self.place.value])), "value")
        self.place.disabled = True
        self.view = stack(
            row(self.stop, self.add, self.clear), self.stops_list, row(self.places, self.make),
            row(self.seed, self.vary), self.place, row(self.fade, self.play),
        )  # fmt: skip

    def _add(self) -> None:
        text = self.stop.value.strip()
        if text:
            source = self.source(text)
            drawn = source if isinstance(source, Point) else self.state.draw(source, 1, self.state.noise_seed)[0]
            self.stops.append(drawn)
        elif self.lab.last is not None:
            self.stops.append(self.lab.last)
        else:
            raise MuseError("write a prompt, or click a point of the map first")
        self.stop.value = ""
        self._list()

    def _clear(self) -> None:
        self.stops, self.way = [], []
        self._list()

    def _list(self) -> None:
        self.stops_list.value = " \N{RIGHTWARDS ARROW} ".join(escaped(p.label, 60) for p in self.stops) or NO_STOPS

    def _make(self) -> None:
        if len(self.stops) < 2:
            raise MuseError("add two stops or more")
        self._render(self.state.path(self.stops, self.places.value))

    def _vary(self) -> None:
        if not self.stops:
            raise MuseError("add a stop: the embedding whose noise is to vary")
        self._render(self.state.noise_path(self.stops[-1], self.seed.value, self.places.value))

    def _render(self, way: list[Point]) -> None:
        def work() -> str:
            for i, point in enumerate(way):
                self.state.sound(point, self.lab.job.follow(1, i / len(way), (i + 1) / len(way)))
            self.way, self.place.max, self.place.disabled = way, len(way) - 1, False
            self.lab.chart.way(np.stack([p.embedding.numpy() for p in way]), [p.label for p in way])
            return f"{len(way)} places; move the slider, or play the way"

        self.work(work)

    def _play(self) -> None:
        if not self.way:
            raise MuseError("make a way first")

        def work() -> str:
            audio, rate = self.state.sequence(self.way, self.fade.value)
            self.lab.desk.play(audio, rate, f"{self.way[0].group} and on, {len(self.way)} places")
            return f"{audio.shape[1] / rate:.1f} s"

        self.work(work)


class MixTool(Tool):
    """Several prompts and sounds by weight."""

    def __init__(self, lab, rows: int = 2):
        super().__init__(lab, "muse-mix")
        self.parts: list[tuple[w.Text, w.FloatSlider]] = []
        self.name(
            add=button("Add a part", "one more prompt or sound", "plus"),
            hear=button("Hear the mix", "render the weighted mean", "play", "primary"),
            put=button("Put it on the map", "as a point of its own", "map-marker"),
            box=stack(),
        )
        for _ in range(rows):
            self.part()
        self.add.on_click(self.safely(self.part))
        self.hear.on_click(self.safely(lambda: lab.hear(self.point())))
        self.put.on_click(self.safely(self._put))
        self.view = stack(self.box, row(self.add, self.hear, self.put))

    def part(self, text: str = "", weight: float = 0.5) -> None:
        """One more row."""
        if len(self.parts) >= 12:
            raise MuseError("a mix of 12 parts is enough")
        name = w.Text(text, placeholder="a prompt, #12, or a sound's name")
        slider = w.FloatSlider(weight, min=0.0, max=1.0, step=0.05, description="weight", **WIDE)
        name.add_class("muse-mix-name")
        slider.add_class("muse-mix-weight")
        self.parts.append((name, slider))
        self.box.children = (*self.box.children, stack(name, slider))

    def point(self) -> Point:
        """The mix as it stands."""
        named = [(self.source(name.value), slider.value) for name, slider in self.parts if name.value.strip()]
        return self.state.mix(named)

    def _put(self) -> None:
        self.lab.job.must_be_idle()
        point = self.point()
        self.state.points.append(point)
        self.lab.added(point.label)


class FlowTool(Tool):
    """Stage 1's equation at work: samples on their way from noise to the map."""

    def __init__(self, lab):
        super().__init__(lab, "muse-flow")
        self.flow = self.land = None  # and the map that it moves on
        self.name(
            prompt=w.Text("a sad piano melody", description="prompt", **WIDE),
            n=w.IntSlider(40, 1, 200, description="samples", **WIDE),
            watch=button("Watch", "solve, and keep every step", "eye", "primary"),
            run=w.Play(0, 0, 0, interval=150, tooltip="run through the steps"),
            step=w.IntSlider(0, 0, 0, description="step", **WIDE),
        )  # fmt: skip
        w.jslink((self.run, "value"), (self.step, "value"))
        self.watch.on_click(self.safely(self._watch))
        self.step.observe(self.safely(self._move), "value")
        self.view = stack(self.prompt, self.n, row(self.watch, self.run), self.step)

    def _watch(self) -> None:
        def work() -> str:
            self.land = self.lab.drawn()
            self.flow = self.state.flow(self.prompt.value, self.n.value)
            last = len(self.flow.times) - 1
            self.run.max = self.step.max = last
            self.step.value = self.run.value = 0
            self._move()
            return f"{self.n.value} samples over {last} steps; press play"

        self.work(work)

    def _move(self) -> None:
        if self.flow is not None and self.land is self.lab.chart.land:
            self.lab.chart.move(self.flow.xy[self.step.value])


class PickTool(Tool):
    """A few points out of many by a rule, and how different the points are."""

    def __init__(self, lab):
        super().__init__(lab, "muse-pick")
        self.picked: list[Point] = []
        self.name(
            strategy=w.Dropdown(options=STRATEGIES, description="pick by", **WIDE),
            k=w.IntSlider(4, 1, 12, description="how many", **WIDE),
            pick=button("Pick", "mark them on the map", "crosshairs", "primary"),
            hear=button("Hear them", "one after another", "play"),
            measure=button("Measure", "how different the answers are", "bar-chart"),
            table=w.HTML(""),
        )
        self.pick.on_click(self.safely(self._pick))
        self.hear.on_click(self.safely(self._hear))
        self.measure.on_click(self.safely(self._measure))
        self.view = stack(self.strategy, self.k, row(self.pick, self.hear, self.measure), self.table)

    def _pick(self) -> None:
        def work() -> str:  # it may have to lay the map out first
            index = self.state.pick(self.strategy.value, self.k.value)
            self.picked = [self.state.points[i] for i in index]
            self.lab.chart.mark(self.lab.drawn().xy[index])
            self.table.value = "<br>".join(f"#{i} {escaped(self.state.points[i].label, 90)}" for i in index)
            return f"{len(index)} picked by {self.strategy.value}"

        self.work(work)

    def _hear(self) -> None:
        if not self.picked:
            raise MuseError("pick some points first")

        def work() -> str:
            audio, rate = self.state.sequence(self.picked, 0.5, self.lab.job.follow(len(self.picked)))
            self.lab.desk.play(audio, rate, f"{len(self.picked)} picks by {self.strategy.value}")
            return f"{len(self.picked)} picks"

        self.work(work)

    def _measure(self) -> None:
        rows = self.state.diversity()
        head = "<tr><th>points</th><th>n</th><th>mean distance</th><th>mean angle</th></tr>"
        cells = [
            (escaped(r["group"], 60), r["n"], f"{r['spread']:.3f}", f"{r['angle']:.1f}\N{DEGREE SIGN}") for r in rows
        ]
        lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in cells]
        self.table.value = f"<table>{head}{''.join(lines)}</table>"
