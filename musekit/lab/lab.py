"""Lab: explore the space between answers. State only: methods take and return arrays and records; `lab_view` shows it.

    lab = Lab("mini")
    lab.sample("a sad piano melody", n=200); lab.sample("a happy flute tune", n=200)
    land = lab.map()                                      # UMAP, density, named hills
    lab.sound(lab.points[land.peaks[0].points[0]]).audio  # the second time from the cache
    way = lab.path([lab.points[3], lab.points[250]], n=7)
    lab.sequence(way)                                     # the path as one piece

All sounds of a Lab share one noise (`noise_seed`): two sounds differ by their embedding only.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from musekit.config import MuseError
from musekit.entry import Origin, read_audio
from musekit.heldout import read_reference
from musekit.inference import micro_batches
from musekit.lab.job import Job
from musekit.lab.landscape import Landscape, landscape, named, sentences
from musekit.lab.rendering import RenderedPiece, along, blend, render, sequence
from musekit.muse import Muse
from musekit.recipe import MAX_PROMPT_CHARS, Recipe, Settings, count

DRAFT = 1 / 6  # of the preset's steps, where there is no student: a click is heard at once
STAGE1_BATCH = 64  # embeddings
CACHED_SOUNDS = 48  # 100 MB of 6 s
MIN_SECONDS = 0.1  # of an uploaded sound
SILENCE = 1e-4  # of full scale: a sound that stays below is silent


@dataclass(frozen=True, eq=False)
class Point:
    """A place in the space of music."""

    embedding: Tensor = field(repr=False)  # (512,) unit length
    label: str  # for people; untrusted text
    group: str  # the prompt, or what stands for it in the recipe of a sound, a path or a mix
    seed: int | None = None  # of Stage 1; None where the point is no sample of the prompt


def draft_steps(muse: Muse) -> int:
    """Stage 2's steps of a draft: the student's, or few of the preset's."""
    steps = muse.draft.config.sample.stage2_steps
    return max(1, round(DRAFT * steps)) if muse.draft is muse else steps


class Lab:
    """`points` are on the map, in the order in which they were added; clear the list at will. `job` runs long work."""

    def __init__(
        self,
        muse: Muse | str | Path = "mini",
        seconds: float = 6.0,
        steps: int | None = None,
        noise_seed: int = 0,
        on_change: Callable[[], None] = lambda: None,
    ):
        """A system or its name; seconds of the sounds, and Stage 2's steps (None: drafts, by its student)."""
        self.muse = muse if isinstance(muse, Muse) else Muse.from_pretrained(muse)
        self.job = Job(on_change)
        self.seconds, self.noise_seed = seconds, noise_seed
        self.steps = steps
        self.points: list[Point] = []
        self._cache: dict[tuple[Recipe, bytes], RenderedPiece] = {}  # oldest first

    # -- points

    @property
    def embeddings(self) -> Tensor:
        """Of all points, (n, 512)."""
        return torch.stack([p.embedding for p in self.points]) if self.points else torch.zeros(0, 512)

    def groups(self) -> dict[str, list[int]]:
        """{group: indices of its points}."""
        found: dict[str, list[int]] = {}
        for i, point in enumerate(self.points):
            found.setdefault(point.group, []).append(i)
        return found

    def sample(self, prompt: str, n: int = 200, seed: int = 0, on_step=None) -> None:
        """Put n samples of Stage 1 for a prompt on the map. Seeds are seed, seed + 1, ..."""
        self.points += self.draw(prompt, n, seed, on_step)

    def draw(self, prompt: str, n: int = 1, seed: int = 0, on_step=None) -> list[Point]:
        """n samples of Stage 1 for a prompt, which are not put on the map."""
        settings = Settings(micro_batch=min(STAGE1_BATCH, count(n)), seconds=self.seconds)
        recipes = self.muse.recipes(prompt, n, seed, settings)
        x = torch.cat([self.muse.embed_batch(batch, on_step, self.job.flag)[0] for batch in micro_batches(recipes)])
        text = recipes[0].prompt
        return [Point(e, f"{text} (seed {seed + i})", text, seed + i) for i, e in enumerate(x)]

    def add_sound(self, source: bytes | str | Path, name: str = "sound") -> Point:
        """Put a sound on the map: its embedding conditions Stage 2. Returns its point. Raises what `like` raises."""
        self.points.append(self.like(source, name))
        return self.points[-1]

    def like(self, source: bytes | str | Path, name: str) -> Point:
        """The place of a sound, which is not put on the map.

        Only the length that the embedder was made for is decoded. Raises MuseError for a file that cannot be read.
        """
        rate = self.muse.config.codec.sample_rate
        audio = read_sound(source, name, self.muse.config.window_seconds, rate)
        embedding = self.muse.embedder.embed_audio(audio[None], rate)[0].cpu()
        return Point(embedding, name, f"like the sound {name}")

    # -- the map

    def map(self) -> Landscape:
        """The map of all points. The same points give the same map."""
        return named(landscape(self.embeddings.numpy()), self.words)

    @cached_property
    def words(self) -> dict[str, Tensor]:
        """{word that names places: the embedding (512,) of its sentence}."""
        tags = sentences()
        return dict(zip(tags, self.muse.embedder.embed_text(list(tags.values()))))

    def diversity(self) -> list[dict]:
        """For each group, and for held-out music: points, mean distance of pairs, mean angle in degrees."""
        sets = {name: self.embeddings[index] for name, index in self.groups().items()}
        with contextlib.suppress(MuseError):  # these weights come without a reference
            sets["held-out music"] = read_reference(self.muse.folder).embeddings
        rows = []
        for name, e in ((name, e) for name, e in sets.items() if len(e) > 1):
            chords = torch.pdist(e.double())
            angle = torch.rad2deg(2 * torch.arcsin(chords / 2)).mean()  # of unit vectors
            rows.append({"group": name, "n": len(e), "spread": float(chords.mean()), "angle": float(angle)})
        return rows

    # -- paths and mixes

    def path(self, stops: Sequence[Point], n: int = 7) -> list[Point]:
        """n points at equal angles along great circles through the stops.

        The ends have the very embeddings of the first and the last stop.
        """
        if len(stops) < 2 or n < 2:
            raise MuseError(f"a path needs 2 or more places and 2 or more points, not {len(stops)} and {n}")
        names = " to ".join(p.label[:60] for p in stops)
        labels = [f"{names}: {i / (n - 1):.0%}" for i in range(n)]
        rows = along(torch.stack([p.embedding for p in stops]), n)
        way = [Point(e, label, f"from {names}") for e, label in zip(rows, labels)]
        return [replace(stops[0], label=labels[0]), *way[1:-1], replace(stops[-1], label=labels[-1])]

    def mix(self, points: Sequence[Point], weights: Sequence[float] = ()) -> Point:
        """The mean of points on the sphere; weights sum to 1 (default: equal). A point of weight 1 stays as it is."""
        if not points:
            raise MuseError("a mix needs a place; add a point of the map")
        if 1.0 in weights:
            return points[list(weights).index(1.0)]
        shares = [f"{100 * w:.0f} % " for w in weights] or [""] * len(points)
        label = "mix of " + ", ".join(f"{share}{p.label[:50]}" for share, p in zip(shares, points) if share != "0 % ")
        w = torch.tensor(weights or [1 / len(points)] * len(points))
        return Point(blend(torch.stack([p.embedding for p in points]), w), label, label)

    # -- sound

    def sound(self, point: Point, on_step=None) -> RenderedPiece:
        """The sound of a place; the second time it comes from the cache.

        The micro-batch is 1, so that a place on a path sounds as it does on its own.
        """
        muse, steps = self.muse if self.steps else self.muse.draft, self.steps
        if muse is self.muse and not steps:
            steps = draft_steps(muse)
        settings = Settings(seconds=self.seconds, steps=steps, micro_batch=1)
        if self.muse.config.stage2.controls:
            settings.ends = False  # places fade into one another (`sequence`)
        recipe = muse.recipe(point.group[:MAX_PROMPT_CHARS], self.noise_seed, settings)
        key = recipe, point.embedding.numpy().tobytes()
        if key not in self._cache:
            origin = Origin(point.label[:500], point.seed is not None)
            [piece] = render(muse, point.embedding[None], [recipe], [origin], on_step, self.job.flag)
            self._cache[key] = piece
            while len(self._cache) > CACHED_SOUNDS:
                self._cache.pop(next(iter(self._cache)))
        return self._cache[key]

    def sequence(self, points: Sequence[Point]) -> RenderedPiece:
        """Places one after another, each fading into the next, as one piece."""
        names = points[0].label.rpartition(": ")[0] or points[0].label
        return sequence([self.sound(point) for point in points], names)


def read_sound(source: bytes | str | Path, name: str, seconds: float, rate: int) -> Tensor:
    """The first `seconds` of a file or of its bytes, float32 (1 or 2, N) at `rate` Hz.

    Raises MuseError for a file that is not sound, too short or silent.
    """
    import soxr

    x, own_rate = read_audio(source, name := Path(name).name[:200], seconds)
    if x.shape[1] < MIN_SECONDS * own_rate or float(np.abs(x).max()) < SILENCE:
        heard = min(seconds, x.shape[1] / own_rate)
        raise MuseError(f"the first {heard:.1f} s of {name!r} are silent or shorter than {MIN_SECONDS} s")
    return torch.from_numpy(soxr.resample(x.T, own_rate, rate).T)
