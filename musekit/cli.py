"""The command line: every option is a typed dataclass field, built by tyro; a misspelt one is told with a suggestion.

A mistake of the user's (`MuseError`) is one line on standard error and exit code 2. What takes long to import is
imported by `run`, so that help comes at once.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from musekit import arguments
from musekit.config import MuseError, home, preset, to_json


def default_cache() -> Path:
    """The cache of the embedded corpus."""
    return home() / "caches" / "scores"


def _optional(kind: str, default: str):
    """tyro's help of an option that may be left out."""
    return tyro.conf.arg(metavar=kind, help_behavior_hint=f"(default: {default})")


PRESETS_INT = _optional("INT", "the preset's")
PRESETS_FLOAT = _optional("FLOAT", "the preset's")
PRESETS_NAME = _optional("NAME", "the preset's")
CACHES = _optional("PATH", "caches/scores under MUSEKIT_HOME")


def train_config() -> type:
    """`train.TrainConfig`, imported only when it is asked for: torch comes with it."""
    from musekit.train import TrainConfig

    return TrainConfig


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
    prompts: Annotated[Path | None, _optional("FILE", "none")] = None
    """Many prompts: .txt, one a line, or .jsonl, one object a line: prompt, and any of negative_prompt, seed, n,
    seconds, name (of its files) and the options below. Ranks under torchrun share the pieces out."""
    n: int = 4
    """Number of different pieces; piece i has the seed SEED + i."""
    seed: int = 0
    """The same seed with the same options gives the same bits."""
    seconds: float = 12.0
    """Length of each piece."""
    negative_prompt: Annotated[str | None, _optional("PROMPT", "none")] = None
    """What the music should not be."""
    steps: Annotated[int | None, PRESETS_INT] = None
    """Solver steps of Stage 2: more cost more time."""
    solver: Annotated[str | None, PRESETS_NAME] = None
    """Stage 2's solver: euler, midpoint, heun, rk4, dopri5 or torchdiffeq."""
    guidance_scale: Annotated[float | None, PRESETS_FLOAT] = None
    """Stage 2's classifier-free guidance; 1 is none."""
    guidance_low: Annotated[float | None, _optional("FLOAT", "0")] = None
    """Guide only for t from here (0 is noise) ..."""
    guidance_high: Annotated[float | None, _optional("FLOAT", "1")] = None
    """... to here (1 is sound); elsewhere half the work is saved."""
    stage1_steps: Annotated[int | None, PRESETS_INT] = None
    """Solver steps of Stage 1."""
    stage1_solver: Annotated[str | None, PRESETS_NAME] = None
    """Stage 1's solver."""
    stage1_guidance_scale: Annotated[float | None, PRESETS_FLOAT] = None
    """Stage 1's classifier-free guidance; more obedient and less varied above 1."""
    micro_batch: Annotated[int | None, PRESETS_INT] = None
    """Pieces sampled together; part of the recipe."""
    threads: Annotated[int | None, _optional("INT", "torch's choice, or OMP_NUM_THREADS")] = None
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


@dataclass
class Cache:
    """Build or complete a cache: clips, captions, and what networks read of them. The same command resumes.

    For example, the scores of music21 as sound, then what each network learns from; a folder of your own; a data set
    as it was published; the same by four processes, each on its GPU, or by a Slurm array:

        musekit cache --n 4000 --kinds clips tokens spectra views
        musekit cache --kinds latents embeddings --weights my-weights --remake
        musekit cache --data my-music --out my-cache
        musekit cache --corpus musicbench --data /data/MusicBench --preset paper
        torchrun --nproc-per-node 4 -m musekit cache --corpus musicbench --preset paper --kinds latents embeddings
        musekit cache --preset paper --estimate

    Data sets: musicbench, music4all, musiccaps, songdescriber; a folder's content says which it holds. Audio stays
    where it is. SIGUSR1, SIGTERM or Ctrl-C: the shard in hand is finished and saved; exit code 75 (Ctrl-C: 130); the
    same command goes on.
    """

    corpus: Annotated[str | None, _optional("NAME", "what --data holds, else scores")] = None
    """scores (music21's, rendered), musicbench, music4all, musiccaps, songdescriber, folder, or a folder's path."""
    data: Annotated[Path | None, _optional("FOLDER", "none")] = None
    """The data set's folder as unpacked, or audio with captions (CSV, JSONL or sidecar .txt)."""
    out: Annotated[Path | None, _optional("PATH", "caches/<corpus> under MUSEKIT_HOME")] = None
    """The cache's folder."""
    n: int = 4000
    """Clips of 12 s to render from the scores."""
    seconds: Annotated[float | None, _optional("FLOAT", "the preset's window")] = None
    """Longest clip; longer recordings are cut into several."""
    keep_apart: bool = True
    """Keep clips of AudioSet's evaluation set, which is MusicCaps' test set, out of MusicBench's training split."""
    kinds: tuple[Literal["clips", "tokens", "spectra", "views", "latents", "embeddings", "transposed"], ...] = (
        "clips",
        "tokens",
    )
    """What to make: clips first, latents and embeddings (transposed: in ten other keys) only with trained weights."""
    preset: str = "mini"
    """Whose front ends and encoders to use."""
    weights: str = "mini"
    """Folder of trained weights, for latents and embeddings."""
    workers: int = 2
    """Processes; beside a GPU, threads that read ahead."""
    seed: int = 0
    """Of the plan of clips."""
    remake: bool = False
    """Make again what other weights or settings have made; without it that is a mistake, told before any work."""
    verify: bool = False
    """Look at every finished shard, and make those again that differ from their hash."""
    estimate: bool = False
    """Make nothing: measure this machine for some minutes, tell hours, GB and files for MusicBench and Music4All."""
    results: Path = Path("results")
    """Where --estimate writes cache-estimate-<preset>.json."""

    def folder(self) -> Path:
        """The cache's folder."""
        name = self.corpus or (self.data.expanduser().resolve().name if self.data else "scores")
        return self.out or home() / "caches" / Path(name).name

    def run(self) -> None:
        if self.estimate:
            from musekit.cache.estimate import estimate

            estimate(self.preset, self.results)
            return
        from musekit.cache.build import build_cache

        build_cache(self)


@dataclass
class Train:
    """Train one part of the system. The same command resumes.

    The codec and the embedder learn first; both stages learn from what these make of the corpus. For example:

        musekit train codec --out my-weights
        musekit train stage2 --out my-weights --train.samples 200000 --train.batch 32
        torchrun --nproc-per-node 4 -m musekit train stage2 --gpus 4 --train.samples-every 20000

    SIGUSR1, SIGTERM or Ctrl-C: the step is finished and saved; exit code 75 (Ctrl-C: 130); the same command goes on.
    """

    part: Annotated[Literal["codec", "embedder", "stage1", "regression", "stage2"], tyro.conf.Positional]
    """What to train."""
    preset: str = "mini"
    """Its shape."""
    cache: Annotated[Path | None, CACHES] = None
    """The cache to learn from."""
    run_folder: Annotated[Path | None, _optional("PATH", "runs/<preset>-<part> under MUSEKIT_HOME")] = None
    """Where metrics and checkpoints go."""
    out: Annotated[Path | None, _optional("PATH", "weights/ in the run's folder")] = None
    """Folder that receives the trained weights, in half precision."""
    init: Annotated[Path | None, _optional("FOLDER", "random weights")] = None
    """Folder of weights to start from, or the name of one that comes with the package. Stage 2 of the paper preset also
    starts from Stable Audio Open: its diffusers folder, or stabilityai/stable-audio-open-1.0."""
    codec: Annotated[str | None, _optional("FOLDER", "the preset's packaged one")] = None
    """Folder of weights whose codec decodes the pieces of --train.samples-every."""
    gpus: int = 0
    """GPUs that each machine must have; with fewer nothing starts."""
    train: Annotated[object, tyro.conf.arg(constructor_factory=train_config)] = field(
        default_factory=lambda: train_config()()
    )
    """How to train; what is left out is what trained that part's packaged weights."""

    @classmethod
    def prepared(cls, words: Sequence[str]) -> Train:
        """Options left out: the recommended ones of the first part that is named."""
        from musekit.train.fitting import RECOMMENDED

        part = next((word for word in words if word in RECOMMENDED), None)
        return cls(part=tyro.MISSING, train=RECOMMENDED[part] if part else train_config()())

    def folder(self) -> Path:
        """Where the run's metrics and checkpoints are."""
        from musekit.train.fitting import run_folder

        return run_folder(self)

    def run(self) -> None:
        from musekit.train.fitting import train_part

        train_part(self)


@dataclass
class Evaluate:
    """Measure the system on held-out works and wordings; writes results/<what>.json with provenance.

    Or measure any folder of audio against another one, or against held-out clips. The same command goes on where it
    was stopped. For example:

        musekit eval codec
        musekit eval one-to-many
        musekit eval folder --audio my-music --reference their-music
        musekit eval ablation-ema
        musekit eval prompts --n 24 --results quick
    """

    what: Annotated[str, tyro.conf.Positional] = "all"
    """corpus, judge, codec, embedder, prompts, render-true, diversity, regression, memorisation, distances, one-to-many
    or guidance, or all of them; folder; ablations, or one of them: ablation-guidance, -solver, -ema, -cache, -noise,
    -data; gallery, the poster's pictures."""
    weights: str = "mini"
    """Folder of weights, or a packaged name."""
    cache: Annotated[Path | None, CACHES] = None
    """The cache with the held-out clips."""
    results: Path = Path("results")
    """Where the result files go."""
    n: int = 240
    """Generated clips of the measurements that generate."""
    audio: Annotated[Path | None, _optional("DIR", "none")] = None
    """The folder of audio that `folder` measures."""
    reference: Annotated[Path | None, _optional("DIR", "the cache's held-out clips")] = None
    """What `folder` compares it with: a folder of audio, or a cache."""
    seconds: Annotated[float | None, _optional("FLOAT", "the folder's median, at most 12")] = None
    """How much of each file `folder` measures."""
    quick: bool = False
    """Tiny sizes that only test the machinery."""

    def run(self) -> None:
        from musekit.evaluate import evaluate

        cache, of_folder = self.cache or default_cache(), (self.audio, self.reference, self.seconds)
        evaluate(self.what, self.weights, cache, self.results, self.n, *of_folder, self.quick)


@dataclass
class Bench:
    """Time the system on this machine; writes results/bench-<what>.json with provenance.

    Give it the machine for itself: whatever else runs is measured too. For example:

        musekit bench
        musekit bench stage1
        musekit bench sizes --quick
    """

    what: Annotated[str, tyro.conf.Positional] = "end-to-end"
    """end-to-end, stage1, stage2, batch, sizes, memory, ddp or lab."""
    weights: str = "mini"
    """Folder of weights, or a packaged name."""
    results: Path = Path("results")
    """Where the result file goes."""
    quick: bool = False
    """Tiny networks and single runs, only to see that everything runs."""

    def run(self) -> None:
        from musekit.bench import bench

        bench(self.what, self.weights, self.results, self.quick)


@dataclass
class Info:
    """Print a preset's configuration and parameter counts; public models are named with their licence.

    For example:

        musekit info mini
        musekit info paper
    """

    preset: Annotated[str, tyro.conf.Positional] = "mini"
    """mini, smoke or paper."""

    def run(self) -> None:
        from musekit.sizes import sizes

        config = preset(self.preset)
        print(to_json(config), end="")
        for part, told in sizes(config).items():
            print(f"{part:10s} {told}")


@dataclass
class Lab:
    """Open the latent lab, notebook 05, in JupyterLab.

    For example, on a machine without a screen (JupyterLab then prints the address to open):

        musekit lab --no-browser
    """

    browser: bool = True
    """Open a browser window."""

    def run(self) -> None:
        from importlib.util import find_spec

        places = [Path(__file__).resolve().parent.parent / "notebooks", Path("notebooks").resolve()]
        notebook = next((p / "05_latent_lab.ipynb" for p in places if (p / "05_latent_lab.ipynb").exists()), None)
        if notebook is None:
            raise MuseError(
                "notebooks/05_latent_lab.ipynb is neither beside this package nor in this folder; the notebooks"
                " come with the source, not with the package: run `musekit lab` or `make lab` in a checkout"
            )
        if find_spec("jupyterlab") is None:
            raise MuseError("JupyterLab is not installed; install it with: pip install jupyterlab")
        quiet = [] if self.browser else ["--no-browser"]
        sys.exit(subprocess.run([sys.executable, "-m", "jupyterlab", *quiet, str(notebook)]).returncode)


COMMANDS = {
    "generate": Generate,
    "cache": Cache,
    "train": Train,
    "eval": Evaluate,
    "bench": Bench,
    "info": Info,
    "lab": Lab,
}

ABOUT = """A sentence becomes many different pieces of music. For example:

    musekit generate "a sad piano melody"
    musekit generate --help
"""


def main(argv: list[str] | None = None) -> None:
    """Parse, run, and turn a MuseError into one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a prompt may hold what the terminal cannot show
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")
    try:
        arguments.parse(COMMANDS, "musekit", ABOUT, sys.argv[1:] if argv is None else argv).run()
    except MuseError as error:
        print(f"musekit: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("musekit: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `musekit ... | head`: the reader has seen enough, and no more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # the machine said no: a full disk, a folder that may not be read
        print(f"musekit: {error}", file=sys.stderr)
        sys.exit(2)
