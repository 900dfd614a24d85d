"""`Muse`: text -> embeddings -> audio.

    muse = Muse.from_pretrained("mini")
    result = muse.generate("a sad piano melody", n=4, seed=0, seconds=12.0)

Rows are sampled in micro-batches of a fixed size, the last one padded, so that a piece's bits depend on its
recipe alone. Conditional and unconditional rows run as one batch.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from musekit import dist, pretrained, prompts
from musekit.config import MuseConfig, MuseError
from musekit.encoders import JointEmbedder, MuQ, joint, text_encoder
from musekit.prepared.stage1 import Prepared1
from musekit.prepared.stage2 import Prepared2
from musekit.pretrained import load_part
from musekit.recipe import Recipe, Settings, check, count, software
from musekit.rows import OnStep, chunks, finish, padded, stage1_rows, stage2_rows

__all__ = ["Generation", "Muse", "Piece", "Settings", "count", "load_part"]

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


def precision(name: str) -> torch.dtype:
    """The dtype of that name. Raises MuseError for one that is not computed in."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise MuseError(f"unknown dtype {name!r} (known: auto, float32, bfloat16)")
    return known[name]


@dataclass
class Muse:
    """Both stages, the codec and the encoders of one folder of weights."""

    folder: Path
    config: MuseConfig
    dtype: str = "auto"  # of Stage 2's matrix products: "float32", "bfloat16", or what this machine does best
    stage1_dtype: str = "float32"  # of Stage 1's: "bfloat16" halves what a step reads, and rounds the embedding
    notice: Callable[[str], None] = lambda text: None
    timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path = "mini", **options) -> Muse:
        """The system of a folder, or of a name that comes with the package. Raises MuseError on bad weights."""
        folder = pretrained.find(name_or_folder)
        return cls(folder, pretrained.read_config(folder), **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy this system's folder of weights: safetensors, hashes and config."""
        for path in sorted(self.folder.glob("*")):
            if path.suffix in (".safetensors", ".json", ".md"):
                Path(folder).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, Path(folder) / path.name)

    @cached_property
    def device(self) -> torch.device:
        """A GPU if there is one."""
        return dist.device()

    @cached_property
    def text(self):
        """The frozen text encoder."""
        return text_encoder(self.config.text)

    @cached_property
    def embedder(self) -> JointEmbedder | MuQ:
        """The joint text-audio embedding."""
        return joint(load_part(self.folder, "embedder")[0], self.text)

    @cached_property
    def codec(self):
        """Audio <-> latents."""
        return load_part(self.folder, "codec")[0].to(self.device)

    @cached_property
    def stage1(self):
        """Text -> embedding."""
        return load_part(self.folder, "stage1")[0].to(self.device)

    @cached_property
    def prepared1(self) -> Prepared1:
        """Stage 1 prepared for sampling."""
        return Prepared1(self.stage1, precision(self.stage1_dtype))

    @cached_property
    def stage2(self):
        """Embedding -> latents."""
        return load_part(self.folder, "stage2")[0].to(self.device)

    @cached_property
    def prepared2(self) -> Prepared2:
        """Stage 2 prepared for sampling, in this machine's precision."""
        return Prepared2(self.stage2, self.autocast_dtype)

    @cached_property
    def regression(self):
        """The baseline that predicts one embedding; not needed to generate."""
        return load_part(self.folder, pretrained.BASELINE)[0].to(self.device)

    @cached_property
    def weights(self) -> str:
        """Hash of the weights, part of every recipe."""
        return pretrained.weights_hash(self.folder)

    @cached_property
    def autocast_dtype(self) -> torch.dtype:
        """bf16 where there is hardware for its products (GPU, AMX, AVX512-BF16), else float32."""
        if self.dtype != "auto":
            return precision(self.dtype)
        fast = self.device.type == "cuda" or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32

    def recipe(self, prompt: str, seed: int, settings: Settings, negative_prompt: str | None = None) -> Recipe:
        """The complete, checked recipe of one piece. Raises MuseError for a value that cannot be."""
        defaults, given = self.config.sample, settings

        def value(name, default):
            return default if getattr(given, name) is None else getattr(given, name)

        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise MuseError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r}")
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
            stage2_solver=value("solver", defaults.stage2_solver),
            stage2_steps=value("steps", defaults.stage2_steps),
            guidance_scale=float(value("guidance_scale", defaults.guidance_scale)),
            micro_batch=value("micro_batch", defaults.micro_batch),
            max_tokens=self.config.text.max_tokens,
            dtype=str(self.autocast_dtype).removeprefix("torch."),
            device=self.device.type,
            threads=torch.get_num_threads(),
            versions=software(),
            guidance_low=float(value("guidance_low", 0.0)),
            guidance_high=float(value("guidance_high", 1.0)),
            stage1_dtype=str(precision(self.stage1_dtype)).removeprefix("torch."),
        )
        check(recipe, self.config)
        return recipe

    def frames(self, seconds: float) -> int:
        """Latent frames that cover so many seconds."""
        return math.ceil(round(seconds * self.config.codec.sample_rate) / self.config.codec.hop)

    @torch.inference_mode()
    def embed_rows(
        self, recipes: Sequence[Recipe], on_step: OnStep | None = None, cancel=None
    ) -> tuple[Tensor, Tensor]:
        """Stage 1 of up to one micro-batch of recipes: embeddings (n, 512) and their NFE (n,)."""
        embeddings, nfe = stage1_rows(self.prepared1, self.text, padded(recipes), on_step, cancel)
        return embeddings[: len(recipes)].cpu(), nfe[: len(recipes)]

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

        x_0 (n, C, frames): noise in place of what the recipes' seeds give.
        """
        rows, n, codec = padded(recipes), len(recipes), self.config.codec
        frames = self.frames(rows[0].seconds)
        samples, covered = round(rows[0].seconds * codec.sample_rate), frames * codec.hop / codec.sample_rate
        full = [min(i, n - 1) for i in range(len(rows))]
        embeddings, x_0 = embeddings[full].to(self.device), None if x_0 is None else x_0[full]
        latents, nfe = stage2_rows(
            self.prepared2, embeddings, self._negatives(rows), rows, frames, covered, on_step, cancel, x_0
        )
        audio = []
        for i in range(n):  # one row at a time: memory does not grow, and bits depend on the row alone
            if on_step:
                on_step("codec", i, n)
            audio.append(finish(self.codec.decode(latents[i : i + 1])[0, :, :samples].cpu()))
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
        return torch.cat([self.embed_rows(rows)[0] for rows in chunks(recipes)])

    def render(
        self, embeddings: Tensor, seed: int | Sequence[int] = 0, prompt: str = "an embedding", **settings
    ) -> Tensor:
        """Audio (n, 2, N) of embeddings (n, 512); row i has the seed `seed + i`, or the i-th of a list of seeds."""
        if embeddings.dim() != 2 or embeddings.shape[1] != self.config.stage2.embedding_dim:
            raise MuseError(
                f"render wants embeddings (n, {self.config.stage2.embedding_dim}), not {tuple(embeddings.shape)}"
            )
        seeds = [seed + i for i in range(len(embeddings))] if isinstance(seed, int) else list(seed)
        recipes = [self.recipe(prompt, s, Settings(**settings)) for s in seeds]
        audio, done = [], 0
        for rows in chunks(recipes):
            audio += self.render_rows(embeddings[done : done + len(rows)], rows)[0]
            done += len(rows)
        return torch.stack(audio)

    def stream(self, recipes: Iterable[Recipe], on_step: OnStep | None = None, cancel=None) -> Iterator[Piece]:
        """Pieces one after another as their micro-batch is done: any number of them in bounded memory."""
        for rows in chunks(recipes):
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
