"""Studio: type a sentence, hear several answers, keep some, ask for more like one. State only; `widgets` shows it.

studio = Studio("mini", library=Library())
studio.generate("a sad piano melody", n=4, quality="draft")    # returns at once
studio.job.wait()
studio.more_like(studio.results[2], degrees=20)
studio.keep(studio.results[0], tags=["for the film"])
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from musekit import fewstep, prompts
from musekit.config import MuseConfig, MuseError, suggest
from musekit.explore import sphere
from musekit.explore.job import Job
from musekit.explore.take import Origin, takes
from musekit.library import Entry, Library
from musekit.library.store import sound_file
from musekit.muse import Muse, Piece
from musekit.recipe import Recipe, Settings, count
from musekit.solve import SOLVERS, Cancelled
from musekit.solve.bespoke import evaluations

QUALITIES = {"draft": (0.5, 0.25), "good": (1.0, 1.0), "best": (2.0, 2.0)}  # times the preset's steps of each stage


@dataclass(frozen=True)
class Knobs:
    """What a person sets; None means what the quality, or the preset, says."""

    prompt: str = "a sad piano melody"
    negative_prompt: str | None = None
    n: int = 4
    seed: int | None = 0  # None: a new one each time
    quality: str = "good"
    seconds: float | None = None
    guidance_scale: float | None = None
    steps: int | None = None  # of Stage 2
    solver: str | None = None  # of Stage 2; a bespoke one brings its own number of steps

    def settings(self, config: MuseConfig) -> Settings:
        """As the sampler wants them. Raises MuseError for an unknown quality."""
        if self.quality not in QUALITIES:
            raise suggest(self.quality, QUALITIES, "quality")
        first, second = QUALITIES[self.quality]
        default, steps = config.sample, self.steps
        if steps is None and evaluations(self.solver) is None:
            steps = max(1, round(second * default.stage2_steps))
        return Settings(
            seconds=self.seconds,
            steps=steps,
            stage1_steps=max(1, round(first * default.stage1_steps)),
            solver=self.solver,
            guidance_scale=self.guidance_scale,
            micro_batch=min(default.micro_batch, count(self.n)),  # no work is wasted on rows that nobody asked for
        )


@dataclass(eq=False)
class Result:
    """One piece in the Studio."""

    number: int  # from 1, in the order of making
    piece: Piece
    note: str = ""  # "A", "B", or what it is a variation of
    kept: Entry | None = None

    @property
    def seed(self) -> int:
        """Of its recipe."""
        return self.piece.recipe.seed


class Studio:
    """`results` are all pieces of the session, in the order of making; `job` tells how far the present ones are."""

    def __init__(
        self, muse: Muse | str | Path = "mini", library: Library | None = None, on_change: Callable = lambda: None
    ):
        """A system or its name. The library is opened when something is first kept (default: MUSEKIT_HOME/library)."""
        self.muse = muse if isinstance(muse, Muse) else Muse.from_pretrained(muse)
        self._library, self.job = library, Job(on_change)
        self.knobs, self.results = Knobs(), []
        self.few_step = fewstep.offered(self.muse.folder)  # {name: what it takes and costs}

    @property
    def solvers(self) -> tuple[str, ...]:
        """What Stage 2 may be solved with: the plain ones, and those of few steps that came with the weights."""
        return *SOLVERS, *self.few_step

    @property
    def library(self) -> Library:
        """Where `keep` keeps."""
        if self._library is None:
            self._library = Library()
        return self._library

    def generate(self, prompt: str | None = None, **knobs) -> None:
        """Begin to answer; piece i has the seed `seed + i`. Knobs given here stay; an unknown one raises MuseError."""
        self.set(**({} if prompt is None else {"prompt": prompt}), **knobs)
        asked = replace(self.knobs, seed=self._seed())
        self.job.start(lambda: self._answer([(asked, "")]))

    def versus(self, n: int | None = None, **changes) -> None:
        """A and B at the same seeds: A as the knobs are, B with these changes (prompt=..., guidance_scale=..., ...)."""
        a = replace(self.knobs, seed=self._seed(), n=self.knobs.n if n is None else n)
        b = self._changed(a, changes)
        told = ", ".join(f"{name} = {value}" for name, value in changes.items())
        self.job.start(lambda: self._answer([(a, "A"), (b, f"B: {told}"[:120])]))

    def more_like(self, result: Result, n: int = 4, degrees: float = 20.0, noise: float = 0.0) -> None:
        """n variations of one result at an exact distance.

        degrees: how far its embedding moves on the sphere, each time towards another sample of Stage 1 for the same
        prompt, so that it stays where music is; 0: it stays. noise: 0 keeps Stage 2's noise, so that notes stay alike
        where the embedding does; 1 draws another; between, the two are mixed. Raises MuseError where nothing varies.
        """
        count(n)
        if not (0 <= degrees <= 180 and 0 <= noise <= 1) or (degrees == 0 and noise == 0):
            raise MuseError("degrees go from 0 to 180 and noise from 0 to 1, and one of them must be above 0")
        self.job.start(lambda: self._vary(result, n, degrees, noise))

    def set(self, **knobs) -> None:
        """Turn knobs for what comes. Raises MuseError for an unknown one."""
        self.knobs = self._changed(self.knobs, knobs)

    def keep(self, result: Result, tags: Sequence[str] = (), star: bool = False) -> Entry:
        """Keep a result in the library, once; tags and star come on top of those it has."""
        if result.kept is None:
            result.kept = self.library.add(result.piece)
        if tags:
            self.library.tag([result.kept.id], add=tags)
        if star:
            self.library.star([result.kept.id])
        result.kept = self.library.get(result.kept.id)
        return result.kept

    def unstar(self, result: Result) -> None:
        """Take its star; it stays kept."""
        if result.kept is not None:
            self.library.star([result.kept.id], on=False)
            result.kept = self.library.get(result.kept.id)

    def download(self, result: Result, kind: str = "flac") -> tuple[str, bytes]:
        """A file to take away, "flac" or "wav": its name and its bytes; the recipe is inside."""
        return sound_file(result.piece, kind)

    # -- inside the job's thread

    def _answer(self, asked: list[tuple[Knobs, str]]) -> str:
        notices: list[str] = []
        lots: list[tuple[list[Recipe], str]] = []
        for knobs, note in asked:
            settings = knobs.settings(self.muse.config)
            seeds = range(knobs.seed, knobs.seed + count(knobs.n))
            negative = knobs.negative_prompt or None
            prompts.clean(knobs.prompt, notice=notices.append)
            lots.append(([self.muse.recipe(knobs.prompt, seed, settings, negative) for seed in seeds], note))
        for recipes, _ in lots:
            if self.muse.text.is_cut(recipes[0].prompt):
                notices.append(f"only the first {recipes[0].max_tokens} tokens of the prompt are read")
        self.job.notice = "; ".join(dict.fromkeys(notices))
        before = len(self.results)
        self._collect(self._stream(lots), sum(len(recipes) for recipes, _ in lots))
        seeds = [result.seed for result in self.results[before:]]
        return f"{len(seeds)} pieces, seeds {min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}"

    def _stream(self, lots: list[tuple[list[Recipe], str]]) -> Iterator[tuple[Piece, str]]:
        """The pieces of all lots, each with its lot's note."""
        for i, (recipes, note) in enumerate(lots):
            batches = -(-len(recipes) // recipes[0].micro_batch)
            follow = self.job.follow(batches, i / len(lots), (i + 1) / len(lots))
            for piece in self.muse.stream(recipes, follow, self.job.flag):
                yield piece, note

    def _vary(self, result: Result, n: int, degrees: float, noise: float) -> str:
        source, origin = result.piece, getattr(result.piece, "origin", None)
        first = secrets.randbelow(2**31)
        recipe = replace(source.recipe, micro_batch=min(n, self.muse.config.sample.micro_batch))
        far = f"{degrees:g}\N{DEGREE SIGN} from" if degrees else "other noise than"
        told = f"{far} no. {result.number}"
        steps, embeddings = origin.noise if origin else (), source.embedding[None].repeat(n, 1)
        if degrees:
            as_before = {"stage1_steps": recipe.stage1_steps, "stage1_solver": recipe.stage1_solver}
            goals = self.muse.embed(
                recipe.prompt, n, first, recipe.negative_prompt, seconds=recipe.seconds, **as_before
            )
            embeddings = torch.stack([sphere.towards(source.embedding, goal, math.radians(degrees)) for goal in goals])
        seeds, prompted = range(first, first + n), origin.prompted if origin else True
        noises = [(*steps, (seed, noise)) if noise else steps for seed in seeds]
        origins = [Origin(f"{told}, seed {seed}", prompted, x) for seed, x in zip(seeds, noises)]
        follow = self.job.follow(-(-n // recipe.micro_batch))
        made = takes(self.muse, embeddings, [recipe] * n, origins, follow, self.job.flag)
        self._collect(((take, told) for take in made), n)
        return f"{n} variations: {told}"

    def _collect(self, pieces: Iterable[tuple[Piece, str]], n: int) -> None:
        """Take pieces in as they are ready; what was finished before a cancel stays."""
        done = 0
        try:
            for piece, note in pieces:
                self.results.append(Result(len(self.results) + 1, piece, note))
                done += 1
                self.job.on_change()
        except Cancelled as error:
            raise Cancelled(f"cancelled; {done} of {n} pieces were finished") from error

    def _seed(self) -> int:
        return secrets.randbelow(2**31) if self.knobs.seed is None else self.knobs.seed

    def _changed(self, knobs: Knobs, changes: dict) -> Knobs:
        for name in changes:
            if name not in Knobs.__dataclass_fields__:
                raise suggest(name, Knobs.__dataclass_fields__, "knob")
        return replace(knobs, **changes)
