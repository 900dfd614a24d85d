"""`Muse`: text -> embeddings -> audio.

    muse = Muse.from_pretrained("mini")
    result = muse.generate("a sad piano melody", n=4, seed=0, seconds=12.0)

Rows are sampled in micro-batches of a fixed size, the last one padded, so that a piece's bits depend on its
recipe alone. Conditional and unconditional rows run as one batch.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from musekit import fewstep, prompts
from musekit.config import MuseError
from musekit.inference import OnStep, finish, micro_batches, padded, sample_stage1, sample_stage2
from musekit.recipe import Recipe, Settings, check, count, software
from musekit.solve.bespoke import evaluations
from musekit.system import System, in_turn, precision

__all__ = ["Generation", "Muse", "Piece", "Settings", "micro_batches", "count"]

LARGEST = 4 * 2**30  # bytes of audio that `generate` returns at once; `stream` has no such bound


@dataclass
class Piece:
    """One generated piece."""

    audio: Tensor  # (2, N) float32
    sample_rate: int  # Hz
    embedding: Tensor  # (512,) unit: what Stage 1 sampled and Stage 2 rendered
    recipe: Recipe
    similarity: float  # cosine of the text's and the *audio's* embedding
    nfe: dict[str, int]


@dataclass
class Generation:
    """The pieces of one call, stacked."""

    audio: Tensor  # (n, 2, N) float32
    sample_rate: int  # Hz
    embeddings: Tensor  # (n, 512) unit
    seeds: list[int]
    recipes: list[Recipe]
    similarity: list[float]
    nfe: dict[str, list[int]]  # {"stage1": [...], "stage2": [...]}, evaluations of each piece
    timings: dict[str, float]  # seconds spent in each stage


@dataclass
class Muse(System):
    """The system of one folder of weights (`from_pretrained`), sampled."""

    def recipe(self, prompt: str, seed: int, settings: Settings, negative_prompt: str | None = None) -> Recipe:
        """The complete, checked recipe of one piece. Raises MuseError for a value that cannot be."""
        defaults, given = self.config.sample, settings

        def value(name, default):
            return default if getattr(given, name) is None else getattr(given, name)

        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise MuseError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r}")
        guidance = [("guidance_scale", defaults.guidance_scale), ("guidance_low", 0.0), ("guidance_high", 1.0)]
        guidance = tuple(float(value(name, default)) for name, default in guidance)
        solver, steps = value("solver", defaults.stage2_solver), value("steps", defaults.stage2_steps)
        if evaluations(solver) is not None:
            solver, steps = fewstep.resolve(self.folder, solver, given.steps, guidance)
        recipe = Recipe(
            prompt=prompts.clean(prompt, notice=self.notice),
            negative_prompt=None if negative_prompt is None else prompts.clean(negative_prompt, "negative prompt"),
            seed=seed,
            seconds=float(value("seconds", defaults.seconds)),
            preset=self.config.name,
            weights=self.weights,
            stage1_solver=value("stage1_solver", defaults.stage1_solver),
            stage1_steps=value("stage1_steps", defaults.stage1_steps),
            stage1_guidance_scale=float(value("stage1_guidance_scale", defaults.stage1_guidance_scale)),
            stage2_solver=solver,
            stage2_steps=steps,
            guidance_scale=guidance[0],
            micro_batch=value("micro_batch", defaults.micro_batch),
            max_tokens=self.config.text.max_tokens,
            dtype=str(self.autocast_dtype).removeprefix("torch."),
            device=self.device.type,
            threads=torch.get_num_threads(),
            versions=software(),
            guidance_low=guidance[1],
            guidance_high=guidance[2],
            stage1_dtype=str(precision(self.stage1_dtype)).removeprefix("torch."),
            stage1_autoguidance=float(value("stage1_autoguidance", defaults.stage1_autoguidance)),
        )
        check(recipe, self.config)
        return recipe

    def frames(self, seconds: float) -> int:
        """Latent frames that cover so many seconds."""
        return math.ceil(round(seconds * self.config.codec.sample_rate) / self.config.codec.hop)

    @in_turn
    @torch.inference_mode()
    def embed_rows(
        self, recipes: Sequence[Recipe], on_step: OnStep | None = None, cancel=None
    ) -> tuple[Tensor, Tensor]:
        """Stage 1 of up to one micro-batch of recipes: embeddings (n, 512) and their NFE (n,)."""
        embeddings, nfe = sample_stage1(self.inference1, self.text, padded(recipes), on_step, cancel)
        return embeddings[: len(recipes)].cpu(), nfe[: len(recipes)]

    @in_turn
    @torch.inference_mode()
    def render_rows(
        self,
        embeddings: Tensor,
        recipes: Sequence[Recipe],
        on_step: OnStep | None = None,
        cancel=None,
        x_0: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Stage 2 and the codec for up to one micro-batch: audio (2, N) of each row and their NFE (n,).

        x_0 (n, C, frames): noise in place of what the recipes' seeds give. Raises MuseError where it becomes NaN.
        """
        rows, n, codec = padded(recipes), len(recipes), self.config.codec
        frames = self.frames(rows[0].seconds)
        samples, covered = round(rows[0].seconds * codec.sample_rate), frames * codec.hop / codec.sample_rate
        full = [min(i, n - 1) for i in range(len(rows))]
        embeddings, x_0 = embeddings[full].to(self.device), None if x_0 is None else x_0[full]
        solver = rows[0].stage2_solver
        table = None if evaluations(solver) is None else fewstep.named(self.folder, solver)
        latents, nfe = sample_stage2(
            self.inference2, embeddings, self._negatives(rows), rows, frames, covered, on_step, cancel, x_0, table
        )
        audio = []
        for i in range(n):  # one row at a time: memory does not grow, and bits depend on the row alone
            if on_step:
                on_step("codec", i, n)
            sound = self.codec.decode(latents[i : i + 1])[0, :, :samples].cpu()
            if not sound.isfinite().all():
                raise MuseError(
                    f"what seed {rows[i].seed} became is no sound (NaN); look at the weights and the guidance scales"
                )
            audio.append(finish(sound))
        return audio, nfe[:n]

    def _negatives(self, rows: Sequence[Recipe]) -> tuple[Tensor, Tensor]:
        """The negative prompts' text embeddings and which rows have one."""
        keep = torch.tensor([r.negative_prompt is not None for r in rows], device=self.device)
        if not keep.any():
            return torch.zeros(len(rows), self.config.stage2.embedding_dim, device=self.device), keep
        return self.embedder.embed_text([r.negative_prompt or "music" for r in rows]).to(self.device), keep

    def embed(self, prompt: str, n: int = 1, seed: int = 0, negative_prompt: str | None = None, **settings) -> Tensor:
        """n samples of Stage 1, (n, 512); sample i has the seed `seed + i`."""
        recipes = [self.recipe(prompt, seed + i, Settings(**settings), negative_prompt) for i in range(count(n))]
        return torch.cat([self.embed_rows(rows)[0] for rows in micro_batches(recipes)])

    def render(
        self, embeddings: Tensor, seed: int | Sequence[int] = 0, prompt: str = "an embedding", **settings
    ) -> Tensor:
        """Audio (n, 2, N) of embeddings (n, 512); row i has the seed `seed + i`, or the i-th of a list of seeds."""
        if embeddings.dim() != 2 or embeddings.shape[1] != self.config.stage2.embedding_dim:
            raise MuseError(
                f"render wants embeddings (n, {self.config.stage2.embedding_dim}), not {tuple(embeddings.shape)}"
            )
        seeds = [seed + i for i in range(len(embeddings))] if isinstance(seed, int) else list(seed)
        if len(seeds) != len(embeddings) or not seeds:
            raise MuseError(f"render wants embeddings and a seed for each, not {len(seeds)} for {len(embeddings)}")
        recipes = [self.recipe(prompt, s, Settings(**settings)) for s in seeds]
        audio, done = [], 0
        for rows in micro_batches(recipes):
            audio += self.render_rows(embeddings[done : done + len(rows)], rows)[0]
            done += len(rows)
        return torch.stack(audio)

    def stream(self, recipes: Iterable[Recipe], on_step: OnStep | None = None, cancel=None) -> Iterator[Piece]:
        """Pieces one after another as their micro-batch is done: any number of them in bounded memory."""
        for rows in micro_batches(recipes):
            with self._timed("stage1"):
                embeddings, nfe1 = self.embed_rows(rows, on_step, cancel)
            with self._timed("stage2 and codec"):
                audio, nfe2 = self.render_rows(embeddings, rows, on_step, cancel)
            for i, recipe in enumerate(rows):
                with self._timed("similarity"):
                    text = self.embedder.embed_text([recipe.prompt])[0]
                    heard = self.embedder.embed_audio(audio[i][None], self.config.codec.sample_rate)[0]
                nfe = {"stage1": int(nfe1[i]), "stage2": int(nfe2[i])}
                yield Piece(audio[i], self.config.codec.sample_rate, embeddings[i], recipe, float(text @ heard), nfe)

    def generate(
        self,
        prompt: str,
        n: int = 1,
        seed: int = 0,
        negative_prompt: str | None = None,
        on_step: OnStep | None = None,
        cancel=None,
        **settings,
    ) -> Generation:
        """n pieces for one prompt; piece i has the seed `seed + i`. Settings: see `Settings`."""
        recipes = [self.recipe(prompt, seed + i, Settings(**settings), negative_prompt) for i in range(count(n))]
        size = n * 8 * round(recipes[0].seconds * self.config.codec.sample_rate)
        if size > LARGEST:
            raise MuseError(
                f"{n:,} pieces would be {size / 2**30:.0f} GiB of audio; use Muse.stream or `musekit generate`"
            )
        self.timings = {}
        pieces = list(self.stream(recipes, on_step, cancel))
        return Generation(
            audio=torch.stack([p.audio for p in pieces]),
            sample_rate=self.config.codec.sample_rate,
            embeddings=torch.stack([p.embedding for p in pieces]),
            seeds=[r.seed for r in recipes],
            recipes=recipes,
            similarity=[p.similarity for p in pieces],
            nfe={stage: [p.nfe[stage] for p in pieces] for stage in ("stage1", "stage2")},
            timings=dict(self.timings),
        )

    @contextlib.contextmanager
    def _timed(self, name: str):
        began = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - began
