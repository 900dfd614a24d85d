"""SurfaceView: a plane of prompts, kept pieces and sounds. A finger on it blends them by inverse distance.

    surface = SurfaceView("mini", ("a sad piano melody", "a happy flute tune"))
    mark = surface.add_prompt("a slow waltz for strings", 0.5, 0.9)
    surface.touch(0.4, 0.5)                     # plays the blend at this place
    surface.state.sound(surface.blend(0.4, 0.5)).audio

Places are fractions (x, y) of the plane's width and height, from the upper left; the plane is `ASPECT` times as wide as
high, and distances are those that one sees.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import ipywidgets as w
import traitlets

from musekit.config import MuseError
from musekit.entry import Entry
from musekit.lab.lab import Point
from musekit.lab.lab_view import Hearing
from musekit.lab.library_view import described
from musekit.lab.rendering import embeddings_of
from musekit.lab.view import Face
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import clean_prompt

ASPECT = 1.8
MAX_MARKS, MAX_PIECES = 24, 200  # on the plane; of the library, in the list to choose from
EDGE = 0.04  # marks stay so far inside the plane


class Plane(w.Widget):
    """What `surface.js` shows. Messages say what a person did there."""

    marks = traitlets.List().tag(sync=True)  # [{"id", "name", "x", "y"}]; names are untrusted text
    finger = traitlets.List().tag(sync=True)  # [x, y]; empty before the first touch
    aspect = traitlets.Float(ASPECT).tag(sync=True)


class SurfaceView(Hearing):
    """`plane.marks` are the marks, in the order in which they were added."""

    def __init__(
        self,
        weights: str | Path | Muse = "mini",
        prompts: tuple[str, ...] = ("a sad piano melody", "a happy flute tune", "a slow waltz for strings"),
        library: Library | None = None,
        **options,
    ):
        """A system or its name, and the first prompts. Options: those of `lab.Lab`. A touch samples them."""
        super().__init__("Surface", weights, library, **options)
        self.plane, self._find = Plane(), {}  # {id of a mark: its point, drawn at the first call}
        self.plane.on_msg(lambda _, message, __: self.safely(lambda: self._act(**message))())
        calls = {"put": self._put, "cancel": self.job.cancel, "bring": self._bring, "upload": self._upload}
        calls |= {"keep": self._keep, "save": self._save}
        self.make({}, calls, plane=Face(self.plane, "surface.js", "muse-surface-plane"))
        for prompt in prompts:
            self.add_prompt(prompt)
        self.refresh()
        self.shelves.add(self)

    # -- marks; each `add` returns an id, and finds a place where none is given

    def add_prompt(self, prompt: str, x: float | None = None, y: float | None = None) -> int:
        """A sample of Stage 1 for a prompt, with another seed for each mark. Raises MuseError where it is none."""
        text, seed = clean_prompt(prompt), len(self._find)
        return self._add(text, lambda: self.state.draw(text, 1, seed)[0], x, y)

    def add_piece(self, entry: Entry, x: float | None = None, y: float | None = None) -> int:
        """A piece of the library: the embedding that it was made from, or else that of its sound."""
        rows, recipe = embeddings_of(entry), entry.recipe
        if len(rows) == 1 and recipe and recipe.weights == self.state.muse.of(recipe).weights:
            return self._add(entry.name, lambda: Point(rows[0], entry.name, entry.prompt), x, y)
        return self.add_sound(self.library.file(entry), entry.name, x, y)

    def add_sound(self, source: bytes | Path, name: str, x: float | None = None, y: float | None = None) -> int:
        """A sound file. Raises MuseError where it cannot be read."""
        point = self.state.like(source, name)
        return self._add(name, lambda: point, x, y)

    def _add(self, name: str, find: Callable[[], Point], x: float | None, y: float | None) -> int:
        if len(self.plane.marks) >= MAX_MARKS:
            raise MuseError(f"{MAX_MARKS} marks are on the plane, the most; remove one first")
        mark, turn = len(self._find) + 1, math.pi + 2.4 * len(self._find)  # the golden angle: they stand apart
        self._find[mark] = functools.cache(find)
        self.plane.marks = [*self.plane.marks, {"id": mark, "name": name[:200], "x": 0.5, "y": 0.5}]
        self.move(
            mark, *(0.5 + r if at is None else at for at, r in ((x, 0.36 * math.cos(turn)), (y, 0.34 * math.sin(turn))))
        )
        return mark

    def move(self, mark: int, x: float, y: float) -> None:
        """Move a mark."""
        x, y = (min(max(float(value), EDGE), 1 - EDGE) for value in (x, y))
        self.plane.marks = [one | {"x": x, "y": y} if one["id"] == mark else one for one in self.plane.marks]

    def remove(self, mark: int) -> None:
        """Take a mark away."""
        self.plane.marks = [one for one in self.plane.marks if one["id"] != mark]

    # -- the finger

    def weights(self, x: float, y: float) -> dict[int, float]:
        """{id of a mark: its weight at a place}: Shepard's 1 / d^2, scaled to sum to 1; a mark itself stands alone."""
        far = {one["id"]: math.hypot((x - one["x"]) * ASPECT, y - one["y"]) for one in self.plane.marks}
        if not far:
            raise MuseError("the plane is empty; add a prompt first")
        near = min(far.values())
        shares = {mark: float(d == near) if near < 1e-9 else (near / d) ** 2 for mark, d in far.items()}
        return {mark: share / sum(shares.values()) for mark, share in shares.items()}

    def blend(self, x: float, y: float) -> Point:
        """The place between the marks; at a mark, that mark's own embedding."""
        return self._mix(self.weights(x, y))

    def _mix(self, shares: dict[int, float]) -> Point:
        return self.state.mix([self._find[mark]() for mark in shares], list(shares.values()))

    def touch(self, x: float, y: float) -> None:
        """Put the finger there, and play the blend of the marks as they stand now when it is rendered."""
        x, y = (min(max(float(value), 0.0), 1.0) for value in (x, y))
        shares, self.plane.finger = self.weights(x, y), [x, y]

        def work() -> str:
            point = self._mix(shares)
            return self._play(point.label, self.state.sound(point, self.job.follow(1)), point)

        self.job.start(work, latest=True)

    # -- what a person does

    def _act(self, kind: str, x: float = 0.5, y: float = 0.5, mark: int = 0, text: str = "") -> None:
        """A message of the page."""
        if kind == "add":
            self.add_prompt(text, x, y)
        elif kind == "remove":
            self.remove(mark)
        elif kind == "move":
            self.move(mark, x, y)
            x, y = self.plane.finger or (x, y)
        if kind == "finger" or (kind == "move" and self.plane.finger):  # the blend is another one now
            self.touch(x, y)

    def _put(self) -> None:
        self.add_prompt(self.prompt.value)
        self.prompt.value = ""

    def _bring(self) -> None:
        if self.piece.value is None:
            raise MuseError("the library is empty; keep a piece first")
        self.add_piece(self.library.get(self.piece.value))

    def _upload(self) -> None:
        files, self.upload.value = self.upload.value, ()
        for file in files:
            self.add_sound(bytes(file["content"]), str(file["name"]))

    def refresh(self) -> None:
        """Read the list of kept pieces again; a new one is chosen."""
        chosen, before = self.piece.value, len(self.piece.options)
        self.piece.options = [(described(entry), entry.id) for entry in self.library.search()[:MAX_PIECES]]
        ids = [entry for _, entry in self.piece.options]
        self.piece.value = chosen if chosen in ids and len(ids) <= before else next(iter(ids), None)
