"""The command line: every option is a typed dataclass field, built by tyro; a misspelt one is told with a suggestion.

A mistake of the user's (`MuseError`) is one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from musekit.config import MuseError, home, preset, to_json
from musekit.train import TrainConfig


def default_cache() -> Path:
    """The cache of the embedded corpus."""
    return home() / "caches" / "scores"


@dataclass
class Generate:
    """Make pieces of music from a prompt."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What to hear, for example "a sad piano melody"."""
    n: int = 4
    """Number of different pieces; piece i has the seed SEED + i."""
    seed: int = 0
    """The same seed with the same options gives the same bits."""
    seconds: float = 12.0
    """Length of each piece."""
    negative_prompt: str | None = None
    """What the music should not be."""
    steps: int | None = None
    """Solver steps of Stage 2 (default: the preset's)."""
    solver: str | None = None
    """Stage 2's solver: euler, midpoint, heun, rk4, dopri5 or torchdiffeq."""
    guidance_scale: float | None = None
    """Stage 2's classifier-free guidance; 1 is none."""
    stage1_steps: int | None = None
    """Solver steps of Stage 1."""
    stage1_solver: str | None = None
    """Stage 1's solver."""
    stage1_guidance_scale: float | None = None
    """Stage 1's classifier-free guidance; more obedient and less varied above 1."""
    micro_batch: int | None = None
    """Pieces sampled together; part of the recipe."""
    weights: str = "mini"
    """A folder of weights, or the name of one that comes with the package."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of Stage 2's matrix products."""
    out: Path = Path("demo")
    """Folder for the WAV files, recipes and the contact sheet."""

    def run(self) -> None:
        from musekit.studio import generate_files

        generate_files(self)


@dataclass
class Cache:
    """Build or complete a cache: clips, captions, and what networks read of them. The same command resumes."""

    corpus: str = "scores"
    """"scores" (music21's scores, rendered), or a folder of audio with captions (CSV, JSONL or sidecar .txt)."""
    out: Path | None = None
    """The cache's folder (default: caches/<corpus> under MUSEKIT_HOME)."""
    n: int = 4000
    """Clips of 12 s to render from the scores."""
    kinds: tuple[Literal["clips", "tokens", "spectra", "views", "latents", "embeddings"], ...] = (
        "clips",
        "tokens",
    )
    """What to make: clips first, latents and embeddings only with trained weights."""
    preset: str = "mini"
    """Whose front ends and encoders to use."""
    weights: str = "mini"
    """Folder of trained weights, for latents and embeddings."""
    workers: int = 2
    """Processes."""
    seed: int = 0
    """Of the plan of clips."""

    def run(self) -> None:
        from musekit.precompute import build_cache

        build_cache(self)


@dataclass
class Train:
    """Train one part of the system. The same command resumes."""

    part: Annotated[Literal["codec", "embedder", "stage1", "regression", "stage2"], tyro.conf.Positional]
    """What to train."""
    preset: str = "mini"
    """Its shape."""
    cache: Path | None = None
    """The cache to learn from (default: caches/scores under MUSEKIT_HOME)."""
    run_folder: Path | None = None
    """Where metrics and checkpoints go (default: runs/<preset>-<part> under MUSEKIT_HOME)."""
    out: Path | None = None
    """Folder that receives the trained weights, in half precision (default: the run folder's weights/)."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def run(self) -> None:
        from musekit.fitting import train_part

        train_part(self)


@dataclass
class Evaluate:
    """Measure the system on held-out works and wordings; writes results/<what>.json with provenance."""

    what: Annotated[
        Literal["all", "codec", "embedder", "judge", "prompts", "diversity", "regression", "memorisation"],
        tyro.conf.Positional,
    ] = "all"
    """Which measurement."""
    weights: str = "mini"
    """Folder of weights, or a packaged name."""
    cache: Path | None = None
    """The cache with the held-out clips."""
    results: Path = Path("results")
    """Where the result files go."""
    n: int = 240
    """Generated clips of the measurements that generate."""

    def run(self) -> None:
        from musekit.evaluate import evaluate

        evaluate(self.what, self.weights, self.cache or default_cache(), self.results, self.n)


@dataclass
class Bench:
    """Time the system on this machine; writes results/bench.json with provenance."""

    weights: str = "mini"
    """Folder of weights, or a packaged name."""
    results: Path = Path("results")
    """Where the result file goes."""

    def run(self) -> None:
        from musekit.bench import bench

        bench(self.weights, self.results)


@dataclass
class Info:
    """Print a preset's configuration and parameter counts."""

    preset: Annotated[str, tyro.conf.Positional] = "mini"
    """mini or smoke."""

    def run(self) -> None:
        import torch

        from musekit.pretrained import BASELINE, PARTS, build

        config = preset(self.preset)
        print(to_json(config), end="")
        with torch.device("meta"):
            for part in (*PARTS, BASELINE):
                print(f"{part:10s} {sum(p.numel() for p in build(part, config).parameters()) / 1e6:9.3f} M parameters")


Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Cache, tyro.conf.subcommand("cache")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("eval")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, and turn a MuseError into one line and exit code 2."""
    try:
        tyro.cli(Command, prog="musekit", args=arguments, description=sys.modules["musekit"].__doc__).run()
    except MuseError as error:
        print(f"musekit: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("musekit: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
