"""SurfaceView: a plane of prompts, kept pieces and sounds. A finger on it blends them by inverse distance.

    surface = SurfaceView("mini", ("a sad piano melody", "a happy flute tune"))
    mark = surface.add_prompt("a slow waltz for strings", 0.5, 0.9)
    surface.touch(0.4, 0.5)                     # plays the blend at this place
    surface.state.sound(surface.blend(0.4, 0.5)).audio

Places are fractions (x, y) of the plane's width and height, from the upper left; the plane is `ASPECT` times as wide as
high, and distances are those that one sees.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
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
MAX_MARKS = 24
MAX_PIECES = 200  # of the library, in the list to choose from
EDGE = 0.04  # marks stay so far inside the plane


def weights_at(x: float, y: float, places: list[tuple[float, float]]) -> list[float]:
    """Shepard's weights 1 / d^2, scaled to sum to 1: 1 at a place itself, where it stands alone."""
    distances = [math.hypot((x - a) * ASPECT, y - b) for a, b in places]
    nearest = min(distances)
    shares = [float(d == nearest) if nearest < 1e-9 else (nearest / d) ** 2 for d in distances]
    return [share / sum(shares) for share in shares]


@dataclass(eq=False)
class Mark:
    """One thing on the plane. `find()` is called once, in the job's thread, for its embedding."""

    name: str  # untrusted text
    x: float
    y: float
    find: Callable[[], Point]
    point: Point | None = None


class Plane(w.Widget):
    """What `surface.js` shows. Messages say what a person did there."""

    marks = traitlets.List().tag(sync=True)  # [{"id", "name", "x", "y"}]
    finger = traitlets.List().tag(sync=True)  # [x, y]; empty before the first touch
    aspect = traitlets.Float(ASPECT).tag(sync=True)


class SurfaceView(Hearing):
    """`marks` are {id: Mark}; `plane` shows them."""

    def __init__(
        self,
        weights: str | Path | Muse = "mini",
        prompts: tuple[str, ...] = ("a sad piano melody", "a happy flute tune", "a slow waltz for strings"),
        library: Library | None = None,
        **options,
    ):
        """A system or its name, and the first prompts. Options: those of `lab.Lab`. A touch samples them."""
        super().__init__("Surface", weights, library, **options)
        self.marks, self.plane, self._count = {}, Plane(), 0
        self.plane.on_msg(lambda _, message, __: self.safely(lambda: self._act(**message))())
        self.make(
            {},
            {
                "put": self._put, "cancel": self.job.cancel, "bring": self._bring, "upload": self._upload,
                "keep": self._keep, "save": self._save,
            },
            plane=Face(self.plane, "surface.js", "muse-surface-plane"),
        )  # fmt: skip
        for prompt in prompts:
            self.add_prompt(prompt)
        self.refresh()
        self.shelves.add(self)

    # -- marks

    def add_prompt(self, prompt: str, x: float | None = None, y: float | None = None) -> int:
        """Put a prompt on the plane: a sample of Stage 1, with another seed for each mark. Returns the mark's id.
        Raises MuseError for a prompt that is none.
        """
        text, seed = clean_prompt(prompt), self._count
        return self._add(text, lambda: self.state.draw(text, 1, seed)[0], x, y)

    def add_piece(self, entry: Entry, x: float | None = None, y: float | None = None) -> int:
        """Put a piece of the library on the plane: the embedding that it was made from, or else that of its sound."""

        def find() -> Point:
            rows = embeddings_of(entry)
            if len(rows) == 1 and entry.recipe and entry.recipe.weights == self.state.muse.weights:
                return Point(rows[0], entry.name, entry.prompt)
            return self.state.like(self.library.file(entry), entry.name)

        return self._add(entry.name, find, x, y)

    def _add(self, name: str, find: Callable[[], Point], x: float | None, y: float | None) -> int:
        if len(self.marks) >= MAX_MARKS:
            raise MuseError(f"{MAX_MARKS} marks are on the plane, the most; remove one first")
        turn = math.pi + 2.4 * self._count  # the golden angle: they come to stand apart
        self._count += 1
        self.marks[self._count] = Mark(name, 0.5, 0.5, find)
        self.move(self._count, 0.5 + 0.36 * math.cos(turn) if x is None else x,
                  0.5 + 0.34 * math.sin(turn) if y is None else y)  # fmt: skip
        return self._count

    def move(self, mark: int, x: float, y: float) -> None:
        """Move a mark."""
        one = self._mark(mark)
        one.x, one.y = (min(max(float(value), EDGE), 1 - EDGE) for value in (x, y))
        self._draw()

    def remove(self, mark: int) -> None:
        """Take a mark away."""
        self._mark(mark)
        del self.marks[mark]
        self._draw()

    def _mark(self, mark: int) -> Mark:
        if mark not in self.marks:
            raise MuseError("this mark is no longer on the plane")
        return self.marks[mark]

    def _draw(self) -> None:
        self.plane.marks = [{"id": i, "name": m.name[:200], "x": m.x, "y": m.y} for i, m in self.marks.items()]

    # -- the finger

    def weights(self, x: float, y: float) -> dict[int, float]:
        """{id of a mark: its weight} at a place; they sum to 1."""
        if not self.marks:
            raise MuseError("the plane is empty; add a prompt first")
        return dict(zip(self.marks, weights_at(x, y, [(m.x, m.y) for m in self.marks.values()])))

    def blend(self, x: float, y: float) -> Point:
        """The place between the marks; at a mark, that mark's own embedding."""
        return self._blend(x, y)()

    def _blend(self, x: float, y: float) -> Callable[[], Point]:
        """The blend of the marks as they stand now, found when it is called."""
        shares = self.weights(x, y)
        marks = [self.marks[i] for i in shares]

        def found() -> Point:
            for mark in marks:
                mark.point = mark.point or mark.find()
            return self.state.mix([mark.point for mark in marks], list(shares.values()))

        return found

    def touch(self, x: float, y: float) -> None:
        """Put the finger there, and play the blend when it is rendered."""
        x, y = (min(max(float(value), 0.0), 1.0) for value in (x, y))
        blend, self.plane.finger = self._blend(x, y), [x, y]

        def work() -> str:
            point = blend()
            return self._play(point.label, self.state.sound(point, self.job.follow(1)), point)

        self.job.start(work, latest=True)

    # -- what a person does

    def _act(self, kind: str, x: float = 0.5, y: float = 0.5, mark: int = 0, text: str = "") -> None:
        """A message of the page."""
        if kind == "finger":
            self.touch(x, y)
        elif kind == "add":
            self.add_prompt(text, x, y)
        elif kind == "remove":
            self.remove(mark)
        elif kind == "move":
            self.move(mark, x, y)
            if self.plane.finger:
                self.touch(*self.plane.finger)  # the blend is another one now

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
            name = str(file["name"])
            point = self.state.like(bytes(file["content"]), name)  # a file that is not sound is refused at once
            self._add(name, lambda point=point: point, None, None)

    def refresh(self) -> None:
        """Read the list of kept pieces again; a new one is chosen."""
        chosen, before = self.piece.value, len(self.piece.options)
        self.piece.options = [(described(entry), entry.id) for entry in self.library.search()[:MAX_PIECES]]
        ids = [entry for _, entry in self.piece.options]
        self.piece.value = chosen if chosen in ids and len(ids) <= before else next(iter(ids), None)
