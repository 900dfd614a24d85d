"""A recipe names everything that decides the bits of one piece; every generated file carries its recipe.

The same recipe on the same kind of machine gives the same bits, whatever else is in the batch: every batch is padded to
the recipe's micro-batch, and a sample does not depend on its position or on the other samples. This is tested for
micro-batches of 1, 4 (the default), 8 and 16. Other sizes may change the last bits: `inference` says where.
"""

import dataclasses
import hashlib
import json
import math
import platform
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from musekit.config import MuseConfig, MuseError, Positive, Scale, Seed, Shift, suggest
from musekit.controls import LONGEST, Controls
from musekit.files import checked, decode
from musekit.prompts import read_prompt

SAMPLER = 7  # version of the sampler's arithmetic: a change of it changes the last bits, and so the recipes
MAX_PROMPT_CHARS = 2000  # the text encoder reads far fewer tokens than that
Number = Annotated[int, Meta(ge=1, le=10_000)]  # of steps
Micro = Annotated[int, Meta(ge=1, le=1024)]  # pieces in a micro-batch, or threads: files from others name them
EXAMPLE = 'describe the music, for example "a sad piano melody"'


@dataclass(frozen=True)
class Edit:
    """A recording whose music from `start` to `stop` (in s) is replaced, or which is continued from `start`."""

    source: str  # hash of its samples, and of the embedding
    start: Annotated[float, Meta(ge=0, le=LONGEST)]
    stop: Annotated[float, Meta(ge=0, le=LONGEST)]
    trained: bool = True  # False: the network is not told what is given (see `edit`)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bits of one piece; `weights` is a hash."""

    prompt: str
    negative_prompt: str | None
    seed: Seed
    seconds: Positive
    preset: str
    weights: str
    stage1_solver: str
    stage1_steps: Number
    stage1_guidance_scale: Scale
    stage2_solver: str
    stage2_steps: Number
    guidance_scale: Scale
    micro_batch: Micro
    max_tokens: Annotated[int, Meta(ge=1, le=4096)]
    dtype: str
    device: str
    threads: Micro
    versions: str
    stage1_dtype: str = "float32"
    controls: Controls | None = None  # the rest came later: a recipe without them has the JSON that it always had
    edit: Edit | None = None
    shift: Shift = 1.0  # of Stage 2's steps towards noise
    control_guidance: Scale = 0.0

    @classmethod
    def checked(cls, **values) -> "Recipe":
        """A recipe of these values. Raises MuseError for a wrong type, or a value out of range."""
        return checked(values, cls)

    @property
    def sentence(self) -> str:
        """The prompt, with the key that is asked for beside it: Stage 1's embedding has a key, which would win."""
        asked = self.controls or Controls()
        said = asked.key is None or "key" in read_prompt(self.prompt)
        return self.prompt if said else f"{self.prompt} in {asked.key} {asked.mode}"

    def as_dict(self) -> dict:
        """The fields of the recipe's JSON."""
        later = {"controls": None, "edit": None, "shift": 1.0, "control_guidance": 0.0}
        return {k: v for k, v in dataclasses.asdict(self).items() if later.get(k, ...) != v}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Inverse of `to_json`. Raises MuseError when the text is not a recipe."""
        return decode(text, cls, "the recipe", known_only=True)


@dataclass(kw_only=True)
class Settings:
    """How to sample; None means the preset's default. These are options of `musekit generate`, too."""

    seconds: float | None = None  # Length of each piece
    steps: int | None = None  # Solver steps of Stage 2
    shift: float | None = None  # Above 1, more of Stage 2's steps lie near noise; at 1 they are equal
    solver: str | None = None  # Stage 2's solver: euler, midpoint, heun, rk4 or dopri5
    guidance_scale: float | None = None  # Stage 2's classifier-free guidance; 1 is none
    control_guidance: float | None = None  # Further guidance by tempo, key, chords and melody; 0 is none
    stage1_steps: int | None = None  # Solver steps of Stage 1
    stage1_solver: str | None = None  # Stage 1's solver
    stage1_guidance_scale: float | None = None  # Stage 1's guidance; above 1 (with a negative prompt: 2) less variety
    micro_batch: int | None = None  # Pieces per batch; part of the recipe
    bpm: float | None = None  # Tempo in beats per minute, 30 to 300; the default is drawn, as the embedding suggests
    metre: int | None = None  # Beats per bar; the default is drawn, too
    key: str | None = None  # Key, such as "D minor" or F#
    chords: str | None = None  # Chords, one per bar, such as "Am F C G"; or bars of several chords: "Am F | C G |"
    melody: str | None = None  # A MIDI file, whose upper line the music follows
    ends: bool | None = None  # Whether the piece ends (the default), or goes on beyond what is heard


CONTROLS = ("bpm", "metre", "key", "chords", "melody", "ends")  # fields of `Settings` and of `Controls`


def software() -> str:
    """The versions and the CPU's instruction set, which decide the last bits."""
    import torch

    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"musekit-0.1 sampler-{SAMPLER} torch-{torch.__version__} {machine}"


def check(recipe: Recipe, config: MuseConfig) -> None:
    """Raise MuseError for a recipe that this system cannot sample."""
    from musekit import solve  # imports torch, which prompts do not need

    longest = math.floor(config.window_seconds * 100) / 100
    if recipe.edit and recipe.seconds > LONGEST:
        raise MuseError(f"the piece would last {recipe.seconds:g} s; at most {LONGEST:g} s are edited")
    if recipe.controls and not config.stage2.controls and recipe.controls != Controls():
        raise MuseError(f"{config.name}'s Stage 2 knows no tempo, key, metre, chords, melody or ends: leave them out")
    if recipe.seconds > config.window_seconds and not recipe.edit:
        raise MuseError(f"seconds = {recipe.seconds:g} is above the {config.name} preset's window of {longest:g} s")
    if recipe.seconds * config.codec.sample_rate < config.codec.n_fft:
        raise MuseError(f"seconds = {recipe.seconds:g} is too short; choose at least 0.1")
    for solver in (recipe.stage1_solver, recipe.stage2_solver):
        if solver not in solve.SOLVERS:
            raise suggest(solver, solve.SOLVERS, "solver")


def count(n: int) -> int:
    """Returns n. Raises MuseError unless n is a possible number of pieces."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise MuseError(f"n, the number of pieces, must be 1 or more, not {n!r}")
    return n


def clean_prompt(prompt: str, what: str = "prompt", notice: Callable[[str], None] = lambda text: None) -> str:
    """A prompt in Unicode's NFC form, with control characters and runs of white space replaced by one space.

    notice(text): called for what the user should know. Raises MuseError when the prompt has no Latin letter.
    """
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
