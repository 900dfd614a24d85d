"""A recipe names everything that decides the bits of one piece; every generated file carries its recipe.

The same recipe on the same kind of machine gives the same bits, whatever else is in the batch: every batch is padded to
the recipe's micro-batch, and a sample does not depend on its position or on the other samples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from musekit.config import MuseConfig, MuseError, suggest
from musekit.files import decode

SAMPLER = 2  # version of the sampler's arithmetic: a change of it changes the last bits, and so the recipes
MAX_PROMPT_CHARS = 2000  # the text encoder reads far fewer tokens than that
EXAMPLE = 'describe the music, for example "a sad piano melody"'


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bits of one piece; `weights` is a hash."""

    prompt: str
    negative_prompt: str | None
    seed: int
    seconds: float
    preset: str
    weights: str
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
    guidance_low: float = 0.0  # Stage 2's guidance applies for t in [low, high]; the first recipes lack both fields
    guidance_high: float = 1.0
    stage1_dtype: str = "float32"
    stage1_autoguidance: float = 1.0

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Inverse of `to_json`. Raises MuseError when the text is not a recipe."""
        return decode(text, cls, "the recipe", known_only=True)


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


def software() -> str:
    """The versions and the CPU's instruction set, which decide the last bits."""
    import torch

    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"musekit-0.1 sampler-{SAMPLER} torch-{torch.__version__} {machine}"


def check(recipe: Recipe, config: MuseConfig) -> None:
    """Raise MuseError for a value that is out of range."""
    from musekit import solve  # imports torch, which prompts do not need
    from musekit.solve.bespoke import evaluations

    window = config.window_seconds
    if not (math.isfinite(recipe.seconds) and 0 < recipe.seconds):
        raise MuseError(f"seconds must be more than 0, not {recipe.seconds:g}")
    if recipe.seconds > window:
        raise MuseError(
            f"seconds = {recipe.seconds:g} is above the {config.name} preset's window of {window:.2f} s; choose at most"
            f" {math.floor(window * 100) / 100:g}"
        )
    if recipe.seconds * config.codec.sample_rate < config.codec.n_fft:
        raise MuseError(f"seconds = {recipe.seconds:g} is too short; choose at least 0.1")
    for name in ("stage1_solver", "stage2_solver"):
        solver = getattr(recipe, name)
        if solver not in solve.SOLVERS and not (name == "stage2_solver" and evaluations(solver) is not None):
            raise suggest(solver, solve.SOLVERS, "solver")
    for name in ("stage1_steps", "stage2_steps", "micro_batch"):
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
            raise MuseError(f"{name} must be a whole number from 1 to 10000, not {value!r}")
    for name in ("guidance_scale", "stage1_guidance_scale", "stage1_autoguidance"):
        if not 0 <= getattr(recipe, name) <= 100:
            raise MuseError(f"{name} must be from 0 to 100, not {getattr(recipe, name):g}")
    if recipe.stage1_autoguidance != 1.0 and not config.stage1.gaussian_rank:
        raise MuseError(f"{config.name}'s Stage 1 has no Gaussian for guidance; leave stage1_autoguidance at 1")
    if not 0 <= recipe.guidance_low <= recipe.guidance_high <= 1:
        raise MuseError(
            f"guidance applies for t from guidance_low to guidance_high, between 0 (noise) and 1 (audio), not"
            f" from {recipe.guidance_low:g} to {recipe.guidance_high:g}"
        )


def count(n: int) -> int:
    """Returns n. Raises MuseError unless n is a possible number of pieces."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise MuseError(f"n, the number of pieces, must be 1 or more, not {n!r}")
    return n


def clean_prompt(prompt: str, what: str = "prompt", notice: Callable[[str], None] = lambda text: None) -> str:
    """A prompt in Unicode's NFC form, with control characters and runs of white space replaced by one space.

    notice(text): called for what the user should know. Raises MuseError when the prompt has no Latin letter: the text
    encoder was trained on English.
    """
    if not isinstance(prompt, str):
        raise MuseError(f"the {what} must be text, not {type(prompt).__name__}")
    if len(prompt) > MAX_PROMPT_CHARS:
        notice(f"the {what} has {len(prompt):,} characters; only the first {MAX_PROMPT_CHARS:,} are read")
        prompt = prompt[:MAX_PROMPT_CHARS]
    text = unicodedata.normalize("NFC", prompt.encode("utf-8", "replace").decode())
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    text = re.sub(r"\s+", " ", text).strip()
    if not text:
        raise MuseError(f"the {what} is empty; {EXAMPLE}")
    latin = ["LATIN" in unicodedata.name(c, "") for c in text if c.isalpha()]
    if not any(latin):
        raise MuseError(f"the {what} has no English words; {EXAMPLE}")
    if not all(latin):
        notice(f"the {what} has letters of other scripts; the text encoder was trained on English and ignores them")
    return text


def file_stem(prompt: str, length: int = 40) -> str:
    """A safe file name for a prompt: lower-case ASCII letters, digits and dashes.

    Eight digits of the prompt's hash are added where the name does not contain the whole prompt.
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    if len(name) <= length and name.replace("-", " ") == prompt.lower():
        return name
    return f"{name[:length].strip('-') or 'piece'}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
