"""Studio: type a sentence, hear several answers, keep some, ask for variations. State only; `studio_view` shows it.

studio = Studio("mini", library=Library())
studio.generate("a sad piano melody", n=4, quality="draft")    # returns at once
studio.job.wait()
studio.more_like(studio.results[2], degrees=20)
studio.keep(studio.results[0], tags=["for the film"])
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from musekit import fewstep
from musekit.config import MuseConfig, MuseError, suggest
from musekit.entry import Entry, Origin, entry_of, flac, quantize
from musekit.lab import sphere
from musekit.lab.job import Job
from musekit.lab.rendering import render
from musekit.library import Library
from musekit.muse import Muse, Piece
from musekit.recipe import Recipe, Settings, clean_prompt, count, file_stem
from musekit.solve import SOLVERS
from musekit.solve.bespoke import evaluations

QUALITIES = {"draft": (0.5, 0.25), "good": (1.0, 1.0), "best": (2.0, 2.0)}  # factors of the preset's steps per stage
MAX_SEED = 2**31  # of a seed that is drawn here


@dataclass(frozen=True)
class Knobs:
    """What a person sets; None means the value of the quality, or of the preset."""

    prompt: str = "a sad piano melody"
    negative_prompt: str | None = None
    n: int = 4  # pieces
    seed: int | None = 0  # None: a new seed each time
    quality: str = "good"
    seconds: float | None = None
    guidance_scale: float | None = None
    steps: int | None = None  # of Stage 2
    solver: str | None = None  # of Stage 2; a bespoke solver has its own number of steps

    def settings(self, config: MuseConfig) -> Settings:
        """The sampler's settings. Raises MuseError for an unknown quality."""
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
            micro_batch=min(default.micro_batch, count(self.n)),  # no padding beyond n
        )


@dataclass(eq=False)
class Result:
    """One piece in the Studio."""

    number: int  # from 1
    piece: Piece
    note: str = ""  # "A", "B", or the result that it varies


class Studio:
    """`results` are all pieces of the session, oldest first; `job` runs what was asked for last."""

    def __init__(
        self, muse: Muse | str | Path = "mini", library: Library | None = None, on_change: Callable = lambda: None
    ):
        """A system or its name. The library is opened when something is first kept (default: MUSEKIT_HOME/library)."""
        self.muse = muse if isinstance(muse, Muse) else Muse.from_pretrained(muse)
        self.library, self.job = library, Job(on_change)
        self.knobs, self.results = Knobs(), []
        self.few_step = fewstep.offered(self.muse.folder)  # {name: its steps and error}
        self.solvers = (*SOLVERS, *self.few_step)

    def generate(self, prompt: str | None = None, **knobs) -> None:
        """Start n pieces; piece i has the seed `seed + i`. Given knobs stay set; an unknown one raises MuseError."""
        self.set(**({} if prompt is None else {"prompt": prompt}), **knobs)
        knobs = replace(self.knobs, seed=self._seed())
        self.job.start(lambda: self._answer([(knobs, "")]))

    def versus(self, n: int | None = None, **changes) -> None:
        """A and B at the same seeds: A as the knobs are, B with these changes (prompt=..., guidance_scale=..., ...)."""
        a = replace(self.knobs, seed=self._seed(), n=self.knobs.n if n is None else n)
        b = self._changed(a, changes)
        changed = ", ".join(f"{name} = {value}" for name, value in changes.items())
        self.job.start(lambda: self._answer([(a, "A"), (b, f"B: {changed}"[:120])]))

    def more_like(self, result: Result, n: int = 4, degrees: float = 20.0, noise: float = 0.0) -> None:
        """n variations of one result at an exact distance.

        degrees: how far the embedding moves on the sphere, each time towards another sample of Stage 1 for the same
        prompt. noise: 0 keeps Stage 2's noise, 1 draws another, a value between interpolates. Raises MuseError where
        nothing would vary.
        """
        count(n)
        if not (0 <= degrees <= 180 and 0 <= noise <= 1) or (degrees == 0 and noise == 0):
            raise MuseError("degrees go from 0 to 180 and noise from 0 to 1, and one of them must be above 0")
        self.job.start(lambda: self._vary(result, n, degrees, noise))

    def set(self, **knobs) -> None:
        """Set knobs for the next pieces. Raises MuseError for an unknown one."""
        self.knobs = self._changed(self.knobs, knobs)

    def keep(self, result: Result, tags: Sequence[str] = (), star: bool = False) -> Entry:
        """Keep a result in the library, once; tags and star are added to those it has."""
        if self.library is None:
            self.library = Library()
        entry = self.library.add(result.piece)
        self.library.tag([entry.id], add=tags)
        if star:
            self.library.star([entry.id])
        return self.library.get(entry.id)

    def download(self, result: Result) -> tuple[str, bytes]:
        """A FLAC file of a result with its recipe inside: a plain name, and its bytes."""
        entry = entry_of(result.piece)
        name = f"{file_stem(entry.prompt)}-{result.piece.recipe.seed}.flac"
        return name, flac(quantize(result.piece.audio), result.piece.sample_rate, entry)

    # -- inside the job's thread

    def _answer(self, requests: list[tuple[Knobs, str]]) -> str:
        """Pieces for knobs, with a note for each; all recipes are checked before the first is sampled."""
        notices: list[str] = []
        lots: list[tuple[list[Recipe], str]] = []
        for knobs, note in requests:
            clean_prompt(knobs.prompt, notice=notices.append)
            settings, seeds = knobs.settings(self.muse.config), range(knobs.seed, knobs.seed + count(knobs.n))
            negative = knobs.negative_prompt or None
            recipes = [self.muse.recipe(knobs.prompt, seed, settings, negative) for seed in seeds]
            if self.muse.text.is_cut(recipes[0].prompt):
                notices.append(f"only the first {recipes[0].max_tokens} tokens of the prompt are read")
            lots.append((recipes, note))
        self.job.notice = "; ".join(dict.fromkeys(notices))
        for i, (recipes, note) in enumerate(lots):
            batches = -(-len(recipes) // recipes[0].micro_batch)
            follow = self.job.follow(batches, i / len(lots), (i + 1) / len(lots))
            self._collect(self.muse.stream(recipes, follow, self.job.flag), note)
        return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"

    def _vary(self, result: Result, n: int, degrees: float, noise: float) -> str:
        source, origin = result.piece, getattr(result.piece, "origin", None)
        first = secrets.randbelow(MAX_SEED)
        recipe = replace(source.recipe, micro_batch=min(n, self.muse.config.sample.micro_batch))
        far = f"{degrees:g}\N{DEGREE SIGN} from" if degrees else "other noise than"
        note = f"{far} no. {result.number}"
        steps, embeddings = origin.noise if origin else (), source.embedding[None].repeat(n, 1)
        if degrees:
            as_before = {"stage1_steps": recipe.stage1_steps, "stage1_solver": recipe.stage1_solver}
            negative, seconds = recipe.negative_prompt, recipe.seconds
            goals = self.muse.embed(recipe.prompt, n, first, negative, seconds=seconds, **as_before)
            embeddings = torch.stack([sphere.towards(source.embedding, goal, math.radians(degrees)) for goal in goals])
        seeds, prompted = range(first, first + n), origin.prompted if origin else True
        noises = [(*steps, (seed, noise)) if noise else steps for seed in seeds]
        origins = [Origin(f"{note}, seed {seed}", prompted, x) for seed, x in zip(seeds, noises)]
        follow = self.job.follow(-(-n // recipe.micro_batch))
        self._collect(render(self.muse, embeddings, [recipe] * n, origins, follow, self.job.flag), note)
        return f"{n} variations: {note}"

    def _collect(self, pieces: Iterable[Piece], note: str) -> None:
        """Collect pieces as they are ready; those that were finished before a cancel stay."""
        for piece in pieces:
            self.results.append(Result(len(self.results) + 1, piece, note))
            self.job.on_change()

    def _seed(self) -> int:
        return secrets.randbelow(MAX_SEED) if self.knobs.seed is None else self.knobs.seed

    def _changed(self, knobs: Knobs, changes: dict) -> Knobs:
        for name in changes:
            if name not in Knobs.__dataclass_fields__:
                raise suggest(name, Knobs.__dataclass_fields__, "knob")
        return replace(knobs, **changes)
