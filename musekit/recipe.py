"""A recipe names everything that decides a piece's bits; every kept file carries its own.

The same recipe on the same kind of machine gives the same bits, alone or beside other prompts: work is padded to
the recipe's micro-batch, and a row does not depend on its position or its mates.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from dataclasses import dataclass

from musekit import solve
from musekit.config import MuseConfig, MuseError, from_dict, suggest
from musekit.solve.bespoke import evaluations

SAMPLER = 2  # counts the changes of the sampler's arithmetic: each gives other last bits, and so another recipe


@dataclass(frozen=True)
class Recipe:
    """One piece."""

    prompt: str
    negative_prompt: str | None
    seed: int
    seconds: float
    preset: str
    weights: str  # hash
    stage1_solver: str
    stage1_steps: int
    stage1_guidance_scale: float
    stage2_solver: str
    stage2_steps: int
    guidance_scale: float
    micro_batch: int
    max_tokens: int
    dtype: str
    device: str
    threads: int
    versions: str
    guidance_low: float = 0.0  # Stage 2's guidance acts for t in [low, high]; recipes from before that have all of it
    guidance_high: float = 1.0
    stage1_dtype: str = "float32"
    stage1_autoguidance: float = 1.0

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Inverse of `to_json`. Raises MuseError when the text is no recipe."""
        try:
            return from_dict(cls, json.loads(text), "recipe")
        except (ValueError, TypeError, AttributeError) as error:
            raise MuseError(f"this is not a MUSE recipe ({error})") from error


def software() -> str:
    """Versions and instruction set that bits depend on."""
    import torch

    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"musekit-0.1 sampler-{SAMPLER} torch-{torch.__version__} {machine}"


@dataclass
class Settings:
    """How to sample; None means the preset's default."""

    seconds: float | None = None
    steps: int | None = None
    solver: str | None = None
    guidance_scale: float | None = None
    stage1_steps: int | None = None
    stage1_solver: str | None = None
    stage1_guidance_scale: float | None = None
    stage1_autoguidance: float | None = None
    micro_batch: int | None = None
    guidance_low: float | None = None
    guidance_high: float | None = None


def check(recipe: Recipe, config: MuseConfig) -> None:
    """Raise MuseError for a value that cannot be sampled."""
    if not (math.isfinite(recipe.seconds) and 0 < recipe.seconds):
        raise MuseError(f"seconds must be more than 0, not {recipe.seconds:g}")
    if recipe.seconds > config.window_seconds:
        raise MuseError(
            f"seconds = {recipe.seconds:g} is above the {config.name} preset's window of {config.window_seconds:.2f} s;"
            f" ask for at most {math.floor(config.window_seconds * 100) / 100:g}"
        )
    if recipe.seconds * config.codec.sample_rate < config.codec.n_fft:
        raise MuseError(f"seconds = {recipe.seconds:g} is too short; ask for at least 0.1")
    for name in ("stage1_solver", "stage2_solver"):
        solver = getattr(recipe, name)
        learned = name == "stage2_solver" and evaluations(solver) is not None  # `Muse` looks for its file
        if not learned and solver not in solve.SOLVERS:
            raise suggest(solver, solve.SOLVERS, "solver")
    for name in ("stage1_steps", "stage2_steps", "micro_batch"):
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
            raise MuseError(f"{name} must be a whole number from 1 to 10000, not {value!r}")
    for name in ("guidance_scale", "stage1_guidance_scale", "stage1_autoguidance"):
        if not 0 <= getattr(recipe, name) <= 100:
            raise MuseError(f"{name} must be from 0 to 100, not {getattr(recipe, name):g}")
    if recipe.stage1_autoguidance != 1.0 and not config.stage1.gaussian_rank:
        raise MuseError(f"{config.name}'s Stage 1 has no Gaussian to guide by; leave stage1_autoguidance at 1")
    if not 0 <= recipe.guidance_low <= recipe.guidance_high <= 1:
        raise MuseError(
            f"guidance acts for t from guidance_low to guidance_high, between 0 (noise) and 1 (sound), not"
            f" from {recipe.guidance_low:g} to {recipe.guidance_high:g}"
        )


def count(n: int) -> int:
    """n, if it is a number of pieces."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise MuseError(f"n, the number of pieces, must be 1 or more, not {n!r}")
    return n
