"""Studio: type a sentence, hear several answers, keep some, ask for variations. State only; `studio_view` shows it.

studio = Studio("mini", library=Library())
studio.generate("a sad piano melody", n=4, steps=20)  # returns at once
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

from musekit.config import MuseError
from musekit.entry import Entry, Origin, entry_of, flac, quantize
from musekit.lab.job import Job
from musekit.lab.rendering import angle, render, slerp
from musekit.library import Library
from musekit.muse import Muse, Piece
from musekit.recipe import Settings, count, file_stem

MAX_SEED = 2**31  # of a seed that is drawn here


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
        """A system or its name. The library is by default MUSEKIT_HOME/library."""
        self.muse = muse if isinstance(muse, Muse) else Muse.from_pretrained(muse)
        self.library = Library() if library is None else library
        self.job, self.results = Job(on_change), []

    def generate(self, prompt: str, **options) -> None:
        """Start pieces. Options: n, seed, negative_prompt and the fields of `recipe.Settings`, as `Muse.generate`."""
        self.job.start(lambda: self._answer({"": {"prompt": prompt} | options}))

    def versus(self, a: dict, **changes) -> None:
        """A and B at the same seeds: A with the options of `generate`, B with these changes of them."""
        changed = ", ".join(f"{name} = {value}" for name, value in changes.items())
        self.job.start(lambda: self._answer({"A": a, f"B: {changed}"[:120]: a | changes}))

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

    def keep(self, result: Result, tags: Sequence[str] = ()) -> Entry:
        """Keep a result in the library, once; tags are added to those it has."""
        return self.library.add(result.piece, tags=tags)

    def download(self, result: Result) -> tuple[str, bytes]:
        """A FLAC file of a result with its recipe inside: a plain name, and its bytes."""
        entry = entry_of(result.piece)
        name = f"{file_stem(entry.prompt)}-{result.piece.recipe.seed}.flac"
        return name, flac(quantize(result.piece.audio), result.piece.sample_rate, entry)

    # -- inside the job's thread

    def _answer(self, requests: dict[str, dict]) -> str:
        """Pieces for the options of each note; all recipes are checked before the first piece is sampled."""
        lots = {note: self._recipes(**options) for note, options in requests.items()}
        for i, (note, recipes) in enumerate(lots.items()):
            batches = -(-len(recipes) // recipes[0].micro_batch)
            follow = self.job.follow(batches, i / len(lots), (i + 1) / len(lots))
            self._collect(self.muse.stream(recipes, follow, self.job.flag), note)
        message = f"seeds {recipes[0].seed} to {recipes[-1].seed}" if len(recipes) > 1 else f"seed {recipes[0].seed}"
        if any(self.muse.text.is_cut(recipes[0].prompt) for recipes in lots.values()):
            message += f"; only the first {recipes[0].max_tokens} tokens of the prompt are read"
        return message

    def _recipes(self, prompt: str, n: int = 4, seed: int = 0, negative_prompt: str | None = None, **settings):
        batch = min(self.muse.config.sample.micro_batch, count(n))  # no padding beyond n
        return self.muse.recipes(prompt, n, seed, Settings(micro_batch=batch, **settings), negative_prompt)

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
            positions = (math.radians(degrees) / angle(source.embedding, goals)).tolist()
            embeddings = torch.stack([slerp(source.embedding, *to) for to in zip(goals, positions)])
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
