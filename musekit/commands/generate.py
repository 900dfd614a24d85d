"""`musekit generate`: pieces of music as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from musekit.arguments import PRESETS_FLOAT, PRESETS_INT, PRESETS_NAME, optional


@dataclass
class Generate:
    """Make pieces of music from a prompt.

    Each is a WAV file with its recipe beside it (.json); a picture shows them all. The same command again makes
    only what is missing, and the same options always make the same bits. For example:

        musekit generate "a sad piano melody"
        musekit generate "a fast fiddle tune" --n 8 --seed 100 --out fiddle
        musekit generate "an organ chorale" --negative-prompt "slow" --seconds 6
        musekit generate --n 1 -- "- a prompt that starts with a dash"
        torchrun --nproc-per-node 4 -m musekit generate --prompts prompts.jsonl --out many
    """

    prompt: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT", help_behavior_hint="(or --prompts)")
    ] = None
    """What to hear, for example "a sad piano melody"."""
    prompts: Annotated[Path | None, optional("FILE", "none")] = None
    """Many prompts: .txt, one a line, or .jsonl, one object a line: prompt, and any of negative_prompt, seed, n,
    seconds, name (of its files) and the options below. Ranks under torchrun share the pieces out."""
    n: int = 4
    """Number of different pieces; piece i has the seed SEED + i."""
    seed: int = 0
    """The same seed with the same options gives the same bits."""
    seconds: float = 12.0
    """Length of each piece."""
    negative_prompt: Annotated[str | None, optional("PROMPT", "none")] = None
    """What the music should not be."""
    steps: Annotated[int | None, PRESETS_INT] = None
    """Solver steps of Stage 2: more cost more time."""
    solver: Annotated[str | None, PRESETS_NAME] = None
    """Stage 2's solver: euler, midpoint, heun, rk4, dopri5 or torchdiffeq; or of few steps, learned: bespoke-8."""
    guidance_scale: Annotated[float | None, PRESETS_FLOAT] = None
    """Stage 2's classifier-free guidance; 1 is none."""
    guidance_low: Annotated[float | None, optional("FLOAT", "0")] = None
    """Guide only for t from here (0 is noise) ..."""
    guidance_high: Annotated[float | None, optional("FLOAT", "1")] = None
    """... to here (1 is sound); elsewhere half the work is saved."""
    stage1_steps: Annotated[int | None, PRESETS_INT] = None
    """Solver steps of Stage 1."""
    stage1_solver: Annotated[str | None, PRESETS_NAME] = None
    """Stage 1's solver."""
    stage1_guidance_scale: Annotated[float | None, PRESETS_FLOAT] = None
    """Stage 1's classifier-free guidance; more obedient and less varied above 1."""
    stage1_autoguidance: Annotated[float | None, PRESETS_FLOAT] = None
    """Stage 1's guidance away from a plain Gaussian; keys and instruments are sharper above 1."""
    micro_batch: Annotated[int | None, PRESETS_INT] = None
    """Pieces sampled together; part of the recipe."""
    threads: Annotated[int | None, optional("INT", "torch's choice, or OMP_NUM_THREADS")] = None
    """CPU threads of each process; part of the recipe."""
    weights: str = "mini"
    """A folder of weights, or the name of one that comes with the package."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of Stage 2's matrix products."""
    out: Path = Path("demo")
    """Folder for the WAV files, recipes and the contact sheet."""

    def folder(self) -> Path:
        """Where the pieces are."""
        return self.out

    def run(self) -> None:
        from musekit.generate.files import generate_files

        generate_files(self)
