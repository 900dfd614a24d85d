"""LabView: the Lab as a panel. A map to click on, and a list of places for a path or a mix."""

from collections.abc import Callable
from pathlib import Path

import ipywidgets as w
import traitlets

from musekit.config import MuseError
from musekit.entry import file_of
from musekit.lab.lab import Lab, Point
from musekit.lab.landscape import MIN_POINTS, Landscape
from musekit.lab.rendering import RenderedPiece
from musekit.lab.view import Face, View, escaped
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import clean_prompt
from musekit.show.style import PALETTE
from musekit.solve import Cancelled

NO_PLACES = "<i>no places yet: add two or more, then play the path between them, or their mix</i>"


class Map(w.Widget):
    """The map as `map.js` draws it: hills with their names, and points in one colour per group."""

    land = traitlets.Dict().tag(sync=True)  # empty: no map
    plotly = traitlets.Unicode("").tag(sync=True)  # its script

    def __init__(self, on_point: Callable[[int], None]):
        """`on_point(i)` is called when point i is clicked."""
        super().__init__()
        self.on_msg(lambda _, message, __: on_point(message["point"]))

    def draw(self, land: Landscape, labels: list[str], groups: dict[str, list[int]]) -> None:
        """Show a map of points with these labels; a group is its name and the indices of its points."""
        from plotly.offline import get_plotlyjs

        shown = {
            "hills": {"x": land.x.tolist(), "y": land.y.tolist(), "z": land.density.tolist()},
            "groups": [
                {"name": escaped(name, 60), "index": index, "text": [escaped(labels[i], 90) for i in index],
                 "x": land.xy[index, 0].tolist(), "y": land.xy[index, 1].tolist(), "color": PALETTE[k % len(PALETTE)]}
                for k, (name, index) in enumerate(groups.items())
            ],
            "peaks": {"x": [p.x for p in land.peaks], "y": [p.y for p in land.peaks],
                      "text": [escaped(p.label, 60) for p in land.peaks]},
        }  # fmt: skip
        with self.hold_sync():  # the map never comes without plotly
            self.plotly, self.land = self.plotly or get_plotlyjs(), shown


class Hearing(View):
    """A view whose sounds are places: the latest one that is asked for is played, and the last one played is kept.

    `state` is the `lab.Lab` behind it, for use from any cell; `heard` is label, sound and place (a path has none).
    """

    def __init__(self, title: str, weights: str | Path | Muse, library: Library | None, **options):
        super().__init__(title)
        self.state = Lab(weights, on_change=self._show, **options)
        self.job, self.library = self.state.job, Library() if library is None else library
        self.heard: tuple[str, RenderedPiece, Point | None] | None = None

    def _show(self) -> None:
        self.show_job(self.job, cancel=self.cancel)

    def play(self, point: Point) -> None:
        """Play a place when its sound is rendered, instead of one that is not yet. MuseError while a map is made."""
        self._hear(point.label, lambda: self.state.sound(point, self.job.follow(1)), point)

    def _hear(self, label: str, render: Callable[[], RenderedPiece], point: Point | None = None) -> None:
        self.job.start(lambda: self._play(label, render(), point), latest=True)

    def _play(self, label: str, piece: RenderedPiece, point: Point | None) -> str:
        if self.job.flag.is_set():  # another was asked for meanwhile
            raise Cancelled
        self.heard = label, piece, point
        self.player.play(piece.audio, piece.sample_rate, label)
        return f"{label}, {piece.audio.shape[1] / piece.sample_rate:.1f} s, similarity {piece.similarity:+.2f}"

    def _last(self) -> tuple[str, RenderedPiece, Point | None]:
        if self.heard is None:
            raise MuseError("no sound was played yet; click a point first")
        return self.heard

    def _keep(self) -> None:
        label, piece, _ = self._last()
        entry = self.library.add(piece, name=label, tags=self.tags.value.split(","))
        self.say(f"kept {entry.name}")
        self.library_changed()

    def _save(self) -> None:
        self.player.download(*file_of(self._last()[1], self._last()[0]))


class LabView(Hearing):
    """The map, and a list of places."""

    def __init__(
        self,
        weights: str | Path | Muse = "mini",
        prompts: tuple[str, ...] = ("a sad piano melody", "a happy flute tune"),
        n: int = 150,
        library: Library | None = None,
        **options,
    ):
        """A system or its name. Options: those of `lab.Lab`. Sampling begins with the button."""
        super().__init__("Lab", weights, library, **options)
        self.map = Map(lambda i: self.safely(lambda: self.play(self.state.points[i]))())
        self.make(
            {"prompts": {"value": "; ".join(prompts)}, "n": {"value": n}},
            {
                "sample": lambda: self.job.start(self._sample), "cancel": self.job.cancel, "keep": self._keep,
                "save": self._save,
                "upload": self._upload, "clear": self._clear, "walk": self._walk,
                "add": self._add, "forget": lambda: self._list([]),
                "mix": lambda: self.play(self.state.mix(self.places)),
            },
            map=Face(self.map, "map.js", "muse-lab-map"),
        )  # fmt: skip
        self._list([])

    def _show(self) -> None:
        self.show_job(self.job, self.sample, self.clear, cancel=self.cancel)

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
        self.map.draw(land, [p.label for p in points], self.state.groups())
        return f"{len(points)} points, {len(land.peaks)} hills; click a point to hear it"

    def _upload(self) -> None:
        files, self.upload.value = self.upload.value, ()
        if files:  # the line above emptied it
            self.job.start(lambda: self._add_sounds(files))

    def _add_sounds(self, files: tuple[dict, ...]) -> str:
        added = [self.state.add_sound(bytes(file["content"]), str(file["name"])).label for file in files]
        text = f"added {', '.join(added)}"
        return f"{text}; {self._map()}" if len(self.state.points) >= MIN_POINTS else text

    def _clear(self) -> None:
        self.state.points, self.map.land = [], {}

    # -- a path or a mix

    def _add(self) -> None:
        label, _, point = self._last()
        if point is None:
            raise MuseError(f"{label[:80]} is a path; click a point, or play a mix, and add that")
        self._list([*self.places, point])

    def _list(self, places: list[Point]) -> None:
        self.places = places
        self.places_list.value = " \N{RIGHTWARDS ARROW} ".join(escaped(p.label, 60) for p in places) or NO_PLACES

    def _walk(self) -> None:
        points = self.state.path(self.places, self.steps.value)

        def render() -> RenderedPiece:
            for i, point in enumerate(points):
                self.state.sound(point, self.job.follow(1, i / len(points), (i + 1) / len(points)))
            return self.state.sequence(points)

        self._hear(f"{len(points)} sounds from {points[0].label.rpartition(':')[0]}", render)
