"""Lab: walk the space between answers. State only: methods take and give arrays and records; `widgets` shows it.

    lab = Lab("mini")
    lab.sample("a sad piano melody", n=200); lab.sample("a happy flute tune", n=200)
    land = lab.map()                                      # UMAP, density, labelled peaks
    lab.sound(lab.points[land.peaks[0].points[0]]).audio  # hear a place; again: from the cache
    way = lab.path([lab.points[3], "a happy flute tune"], n=7)
    audio, rate = lab.sequence(way)                       # the way as one sound

All sounds of a lab share one noise (`noise_seed`), so that what differs between two of them is their embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from musekit.config import MuseError, suggest
from musekit.explore import points, sphere
from musekit.explore.job import Job
from musekit.explore.landscape import Landscape, landscape
from musekit.explore.points import Point
from musekit.explore.recent import Recent
from musekit.explore.sequence import crossfade
from musekit.explore.studio import Knobs
from musekit.explore.take import Origin, Take, takes
from musekit.explore.trajectory import Flow, stage1_path
from musekit.explore.uploads import read_sound
from musekit.explore.vocabulary import Vocabulary
from musekit.inference import micro_batches
from musekit.library import Library
from musekit.muse import Muse
from musekit.recipe import Recipe, Settings, count

TOGETHER = 64  # embeddings that Stage 1 samples at once
CACHED = 120  # sounds that stay at hand: 250 MB of 6 s
MOST = 5000  # points of a lab
STRATEGIES = ("peaks", "diverse", "medoids")
COLOURS = ("prompt", "similarity", "tag")


class Lab:
    """`points` are on the map, in the order of coming; `job` runs what takes long."""

    def __init__(
        self,
        muse: Muse | str | Path = "mini",
        library: Library | None = None,
        seconds: float = 6.0,
        quality: str = "draft",
        noise_seed: int = 0,
        on_change: Callable[[], None] = lambda: None,
    ):
        """A system or its name; seconds and quality of what is heard (see `studio.QUALITIES`)."""
        self.muse = muse if isinstance(muse, Muse) else Muse.from_pretrained(muse)
        self.library, self.job = library, Job(on_change)
        self.seconds, self.quality, self.noise_seed = seconds, quality, noise_seed
        self.points: list[Point] = []
        self._land: Landscape | None = None
        self._heard = Recent(CACHED)

    # -- points

    @property
    def embeddings(self) -> Tensor:
        """Of all points, (n, 512)."""
        return torch.stack([p.embedding for p in self.points]) if self.points else torch.zeros(0, self.dim)

    @property
    def dim(self) -> int:
        """Of an embedding."""
        return self.muse.config.stage2.embedding_dim

    def groups(self) -> dict[str, list[int]]:
        """{group: indices of its points}."""
        found: dict[str, list[int]] = {}
        for i, point in enumerate(self.points):
            found.setdefault(point.group, []).append(i)
        return found

    def sample(
        self, prompt: str, n: int = 200, seed: int = 0, negative_prompt: str | None = None, on_step=None
    ) -> range:
        """Put n samples of Stage 1 for a prompt on the map; returns their indices. Seeds are seed, seed + 1, ..."""
        if len(self.points) + count(n) > MOST:
            raise MuseError(f"a map holds at most {MOST:,} points; sample fewer, or `clear` first")
        drawn = self.draw(prompt, n, seed, negative_prompt, on_step)
        first = len(self.points)
        self.points += drawn
        return range(first, len(self.points))

    def draw(
        self, prompt: str, n: int = 1, seed: int = 0, negative_prompt: str | None = None, on_step=None
    ) -> list[Point]:
        """n samples of Stage 1 for a prompt, not put on the map."""
        settings = Settings(micro_batch=min(TOGETHER, count(n)), seconds=self.seconds)
        recipes = [self.muse.recipe(prompt, seed + i, settings, negative_prompt) for i in range(n)]
        rows = torch.cat([self.muse.embed_rows(part, on_step, self.job.flag)[0] for part in micro_batches(recipes)])
        text = recipes[0].prompt
        return [Point(row, f"{text} (seed {seed + i})", text, prompt=text, seed=seed + i) for i, row in enumerate(rows)]

    def add_sound(self, source: bytes | str | Path, name: str = "") -> tuple[Point, list[str]]:
        """Put a sound on the map: its embedding drives Stage 2. Returns its point and notes (cut, mixed, resampled).

        Only the length that the embedder was made for is decoded. Raises MuseError for what cannot be read.
        """
        sound = read_sound(source, name, self.muse.config.window_seconds, self.muse.config.codec.sample_rate)
        heard = self.muse.embedder.embed_audio(torch.from_numpy(sound.audio)[None], sound.sample_rate)[0]
        self.points.append(points.of_sound(heard, name or sound.name))
        return self.points[-1], sound.notes

    def add_kept(self, identity: str) -> Point:
        """Put a piece of the library on the map, as it sounds."""
        if self.library is None:
            raise MuseError("this lab has no library; make it with Lab(..., library=Library())")
        entry = self.library.get(identity)
        return self.add_sound(entry.path, entry.name)[0]

    def clear(self, group: str | None = None) -> None:
        """Take a group's points off the map (None: all)."""
        self.points = [] if group is None else [p for p in self.points if p.group != group]
        self._land = None

    # -- the map

    def map(self, refit: bool = False, seed: int = 0) -> Landscape:
        """The map of all points. Those that came after it was laid out are placed beside their like (`refit`: anew)."""
        x = self.embeddings.numpy()
        land = self._land
        if refit or land is None or len(land.xy) > len(x) or len(x) > 1.5 * len(land.xy):
            land = self.vocabulary.named(landscape(x, seed))
        elif len(land.xy) < len(x):
            land = replace(land, embeddings=x, xy=np.concatenate([land.xy, land.place(x[len(land.xy) :])]))
        self._land = land
        return land

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tags that places are named by."""
        return Vocabulary(self.muse.embedder)

    def colours(self, by: str = "prompt", text: str = "") -> list[str] | np.ndarray:
        """What to colour each point by: its group, its cosine with `text` (default: its own prompt), or its tag."""
        if by not in COLOURS:
            raise suggest(by, COLOURS, "colour")
        if by == "prompt":
            return [p.group for p in self.points]
        if by == "tag":
            return self.vocabulary.of_each(self.embeddings)
        return points.cosines(self.points, self.muse.embedder.embed_text, text)

    def flow(self, prompt: str, n: int = 40, seed: int = 0, steps: int = 24) -> Flow:
        """Stage 1's ordinary differential equation at work: n samples at steps + 1 times, on the present map."""
        land = self.map()
        times, states = stage1_path(self.muse, prompt, count(n), seed, steps, self.job.flag)
        return Flow(times, land.place(states), states[-1])

    # -- ways and mixes

    def path(self, stops: Sequence[Point | str | int], n: int = 7) -> list[Point]:
        """n points at equal angles through the stops: points, indices, or prompts (a sample of each); `points.path`."""
        return points.path([self._stop(stop) for stop in stops], n)

    def noise_path(self, point: Point | str | int, seed: int, n: int = 7) -> list[Point]:
        """n points of one embedding whose noise goes from the lab's to that of `seed`."""
        return points.noise_path(self._stop(point), seed, n)

    def mix(self, parts: Sequence[tuple[Point | str | int, float]]) -> Point:
        """The mean direction of points, indices or prompts by their weights (0 or more, not all 0)."""
        return points.mix([self._stop(source) for source, _ in parts], [weight for _, weight in parts])

    def _stop(self, stop: Point | str | int) -> Point:
        if isinstance(stop, Point):
            return stop
        if isinstance(stop, str):
            return self.draw(stop, 1, self.noise_seed)[0]
        if not 0 <= stop < len(self.points):
            raise MuseError(f"there is no point {stop}; the map has {len(self.points)}")
        return self.points[stop]

    # -- sound

    def settings(self) -> Settings:
        """How sounds are rendered: one at a time, so that a point sounds the same alone and on a way."""
        return replace(Knobs(quality=self.quality, seconds=self.seconds).settings(self.muse.config), micro_batch=1)

    def sound(self, point: Point | str | int, on_step=None) -> Take:
        """What a place sounds like; the second time it is at hand at once."""
        point = self._stop(point)
        recipe, key = self._asked(point)
        there = self.at_hand(point)
        if there is not None:
            return there
        origin = Origin(point.label[:500], point.kind == "sample", point.noise)
        [take] = takes(self.muse, point.embedding[None], [recipe], [origin], on_step, self.job.flag)
        self._heard.put(key, take)
        return take

    def at_hand(self, point: Point) -> Take | None:
        """The sound of a place that was rendered before with the present settings."""
        return self._heard.get(self._asked(point)[1])

    def _asked(self, point: Point) -> tuple[Recipe, str]:
        """The recipe of a place, and the key of its sound."""
        recipe = self.muse.recipe(point.prompt or point.label, self.noise_seed, self.settings())
        told = f"{recipe.to_json()} {point.noise}".encode()
        return recipe, hashlib.sha256(told + point.embedding.numpy().tobytes()).hexdigest()

    def sequence(self, places: Iterable[Point | str | int], fade: float = 1.0, on_step=None) -> tuple[Tensor, int]:
        """Places one after another, each fading into the next: audio (2, N) and its rate in Hz."""
        made = []
        for place in places:
            self.job.check()
            made.append(self.sound(place, on_step))
        return crossfade([take.audio for take in made], self.muse.config.codec.sample_rate, fade), made[0].sample_rate

    # -- numbers and picks

    def diversity(self) -> list[dict]:
        """A row a group: points, mean distance of pairs (`spread`), mean angle in degrees; and of held-out music."""
        from musekit.heldout import read_reference

        x = self.embeddings
        sets = {name: x[index] for name, index in self.groups().items()}
        try:
            sets["held-out music"] = read_reference(self.muse.folder).embeddings
        except MuseError:
            pass  # these weights have none beside them
        return points.diversity(sets)

    def pick(self, strategy: str = "diverse", k: int = 4, group: str | None = None) -> list[int]:
        """Indices of k points: "peaks" (one a hill), "diverse" (farthest point first), "medoids" (of clusters)."""
        if strategy not in STRATEGIES:
            raise suggest(strategy, STRATEGIES, "strategy")
        index = [i for i, p in enumerate(self.points) if group is None or p.group == group]
        if strategy == "peaks":
            allowed = set(index)
            tops = [next((i for i in peak.points if i in allowed), None) for peak in self.map().peaks]
            return list(dict.fromkeys(i for i in tops if i is not None))[: count(k)]
        chosen = {"diverse": sphere.spread_out, "medoids": sphere.medoids}[strategy](self.embeddings[index], count(k))
        return [index[i] for i in chosen]
