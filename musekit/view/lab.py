"""The Lab, seen: a map to click on; below it ways, mixes, the flow, picks and numbers (`lab_tools`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as w

from musekit.config import MuseError
from musekit.explore import lab as state
from musekit.explore.landscape import Landscape
from musekit.explore.points import Point
from musekit.explore.take import Take
from musekit.library import Library
from musekit.muse import Muse
from musekit.prompts import clean
from musekit.view import bell
from musekit.view.chart import Chart, legend
from musekit.view.desk import Desk
from musekit.view.lab_tools import FlowTool, MixTool, PickTool, WayTool
from musekit.view.parts import WIDE, View, button, classed, row, stack, tags_of

RECENT = 30  # pieces of the library to choose from


class Lab(View):
    """`state` is the `lab.Lab` behind it, usable from any cell."""

    def __init__(
        self,
        weights: str | Path | Muse | state.Lab = "mini",
        prompts: tuple[str, ...] = ("a sad piano melody", "a happy flute tune"),
        n: int = 150,
        library: Library | None = None,
        **options,
    ):
        """A system, its name, or a `lab.Lab`. Nothing is sampled until asked. Options: those of `lab.Lab`."""
        super().__init__("muse-lab")
        if isinstance(weights, state.Lab):
            self.state, weights.job.on_change = weights, self._show
        else:
            self.state = state.Lab(weights, library, on_change=self._show, **options)
        self.job, self.desk = self.state.job, Desk()
        self.heard: Take | None = None  # what was played last, and its place
        self.last: Point | None = None
        self.chart = Chart(lambda i: self.safely(lambda: self.hear(self.state.points[i]))())
        self._make("; ".join(prompts), n)
        self.tools = [WayTool(self), MixTool(self), FlowTool(self), PickTool(self)]
        board = stack(row(self.colour, self.redraw), self.like, row(self.kept, self.put), row(self.upload, self.clear))
        self.tabs = w.Tab(
            [*(tool.view for tool in self.tools), board], titles=("Ways", "Mixer", "Flow", "Picks", "Map")
        )
        self.panel(
            "Lab",
            classed(w.HBox([self.prompts, self.n, self.sample, self.cancel]), "muse-ask"),
            classed(
                w.Box([
                    classed(stack(self.legend, self.chart.figure), "muse-lab-place"),
                    classed(self.tabs, "muse-lab-tools"),
                    classed(stack(self.desk, row(self.tags, self.keep)), "muse-lab-desk"),
                ]), "muse-lab-two",
            ),
        )  # fmt: skip
        if self.state.library is not None:
            bell.listen(self.state.library.folder, self)
        if self.state.points:
            self.work(self._map)

    def _make(self, prompts: str, n: int) -> None:
        self.name(
            prompts=classed(w.Text(prompts, placeholder="prompts, separated by semicolons",
                                   tooltip="several, separated by semicolons"), "muse-big"),
            n=w.IntSlider(n, 10, 500, step=10, description="of each", style={"description_width": "52px"}),
            sample=button("Sample", "draw embeddings for these prompts and lay out the map", "map", "primary"),
            cancel=button("Cancel", "stop at the next step", "stop"),
            upload=w.FileUpload(accept="audio/*", multiple=True, description="Add sounds", tooltip="audio as a prompt"),
            kept=w.Dropdown(options=[], description="library", **WIDE),
            put=button("Add to map", "put this piece of the library on the map", "plus"),
            clear=button("Clear", "take all points off the map", "trash"),
            colour=w.Dropdown(options=state.COLOURS, description="colour by", **WIDE),
            like=w.Text("", description="similar to", placeholder="a text; empty: own prompt", **WIDE),
            redraw=button("Lay out anew", "lay the map out with all points", "refresh"),
            legend=w.HTML(""),
            tags=w.Text("", description="tags", placeholder="separated by commas", style={"description_width": "36px"}),
            keep=button("Keep this sound", "put what was heard last into the library", "bookmark"),
            bar=self.bar,
            label=self.label,
        )  # fmt: skip
        self.cancel.disabled = True
        self.sample.on_click(self.safely(lambda: self.work(self._sample)))
        self.cancel.on_click(lambda _: self.job.cancel())
        self.redraw.on_click(self.safely(lambda: self.work(lambda: self._map(refit=True))))
        self.clear.on_click(self.safely(self._clear))
        self.upload.observe(self.safely(self._upload), "value")
        self.put.on_click(self.safely(self._put))
        self.keep.on_click(self.safely(self._keep))
        for one in (self.colour, self.like):
            one.observe(self.safely(lambda: self.state.points and self.work(self._map)), "value")
        self._recent()

    # -- work in the job's thread

    def work(self, call: Callable[[], str]) -> None:
        """Run something that takes long; raises MuseError while something else runs."""
        self.job.start(call, "working")

    def _sample(self) -> str:
        texts = [text.strip() for text in self.prompts.value.split(";") if text.strip()]
        if not texts:
            raise MuseError("write a prompt, or several separated by semicolons")
        n, done = self.n.value, 0
        batches = -(-n // state.TOGETHER) * len(texts)

        def follow(_stage: str, i: int, of: int) -> None:
            nonlocal done
            self.job.check()
            done += i == of
            self.job.tell(f"text to embedding: {done} of {batches}", 0.8 * min(1.0, (done + i / of % 1) / batches))

        for text in texts:
            known = self.state.groups().get(clean(text), [])  # a group has the name that the recipe has
            self.state.sample(text, n, len(known), on_step=follow)
        return self._map(refit=True)

    def _map(self, refit: bool = False) -> str:
        self.job.tell("laying out the map", max(0.5, self.job.fraction))
        land = self.state.map(refit)
        colours = self.state.colours(self.colour.value, self.like.value)
        self.chart.draw(land, [p.label for p in self.state.points], colours)
        self.legend.value = legend(colours)
        return f"{len(land.xy)} points, {len(land.peaks)} peaks; click a point to hear it"

    def drawn(self) -> Landscape:
        """The present map, drawn first where the chart shows another: points may have come from any cell."""
        if self.chart.land is not self.state.map():
            self._map()
        return self.chart.land

    def hear(self, point: Point, also: Callable[[], None] = lambda: None) -> None:
        """Play a place: at once if it was heard before, else when it is rendered."""
        there = self.state.at_hand(point)
        if there is not None:
            self.put_on(point, there)
            also()
            return

        def work() -> str:
            take = self.state.sound(point, self.job.follow(1))
            self.put_on(point, take)
            also()
            return f"{point.label}, similarity {take.similarity:+.2f}"

        self.work(work)

    def put_on(self, point: Point, take: Take) -> None:
        """Play a take and remember it, for Keep and for the ways."""
        self.heard, self.last = take, point
        self.desk.play(take.audio, take.sample_rate, point.label)
        if self.chart.land is not None:
            self.chart.mark(self.chart.land.place(point.embedding[None].numpy()))

    # -- at once

    def _upload(self) -> None:
        files, taken, refused = self.upload.value, [], []
        self.upload.value = ()
        self.job.must_be_idle()
        for file in files:
            try:
                point, notes = self.state.add_sound(bytes(file["content"]), str(file["name"]))
                taken.append(": ".join([point.label, *notes]))
            except MuseError as error:
                refused.append(str(error))
        if refused and not taken:
            raise MuseError("; ".join(refused))
        self.added("; ".join(taken + [f"but {why}" for why in refused]))

    def _put(self) -> None:
        if self.kept.value is None:
            raise MuseError("the library is empty; keep something first")
        self.job.must_be_idle()
        self.added(self.state.add_kept(self.kept.value).label)

    def added(self, told: str) -> None:
        """Newcomers onto the map, where there are enough points for one."""
        if told and len(self.state.points) >= 4:
            self.work(lambda: f"added {told}; {self._map()}")
        elif told:
            self.say(f"added {told}; sample some prompts to see the map")

    def _clear(self) -> None:
        self.job.must_be_idle()
        self.state.clear()
        self.chart.clear()
        self.legend.value = ""
        self.say("the map is empty")

    def _keep(self) -> None:
        if self.heard is None:
            raise MuseError("nothing was heard yet; click a point first")
        if self.state.library is None:
            self.state.library = Library()
            bell.listen(self.state.library.folder, self)
        entry = self.state.library.add(self.heard, name=self.heard.origin.how, tags=tags_of(self.tags.value))
        bell.ring(self.state.library.folder, self)
        self._recent()
        self.say(f"kept {entry.name}")

    def library_changed(self) -> None:
        """Another view kept or deleted something."""
        self.safely(self._recent)()

    def _recent(self) -> None:
        """The newest pieces of the library, to choose from."""
        entries = self.state.library.search(limit=RECENT) if self.state.library is not None else []
        self.kept.options = [(f"{e.name[:50]} ({e.made[:10]})", e.id) for e in entries]
        if entries:  # a list that was empty chooses nothing by itself
            self.kept.value = entries[0].id

    def _show(self) -> None:
        self.show_job(self.job, self.sample, self.redraw, self.clear, self.put, cancel=self.cancel)
