"""The sub-commands of `musekit`: a dataclass each, whose fields are the options and whose `run` does the work.

`run` imports what it needs, so that help texts do not wait for torch.
"""

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from musekit.config import MINI_TRAINING, MuseError, TrainConfig, home, preset, suggest, to_json, train_config
from musekit.evaluate import MEASUREMENTS as EVALUATIONS
from musekit.recipe import Settings


def optional(kind: str, default: str):
    """How tyro's help shows an option whose default is None: the kind of its value, and what is used instead."""
    return arg(metavar=kind, help_behavior_hint=f"(default: {default})")


CACHES = optional("PATH", "caches/scores under MUSEKIT_HOME")


@dataclass(kw_only=True)
class Generate(Settings):
    """Generate pieces of music from a prompt.

    Each piece is a WAV file with its recipe (.json); one picture shows all of them. The same command makes only
    what is missing, and the same options give the same bits. A default of None
    stands for the preset's own value. For example:

        musekit generate "a sad piano melody"
        musekit generate "a fast fiddle tune" --n 8 --seed 100 --out fiddle
        musekit generate "an organ chorale" --negative-prompt "slow" --seconds 6
        musekit generate "a jazz trio" --seconds 47.5 --bpm 120 --chords "Dm7 G7 C C" --metre 4
        musekit generate --continue-from demo/a-sad-piano-melody-0.wav --seconds 20
        musekit generate "a flute" --repaint demo/a-sad-piano-melody-0.wav --start 4 --stop 8
        musekit generate --n 1 -- "- a prompt that starts with a dash"
        torchrun --nproc-per-node 4 -m musekit -- generate --prompts prompts.jsonl --out many
    """

    prompt: Annotated[str | None, Positional, arg(metavar="PROMPT", help_behavior_hint="(or --prompts)")] = None
    """The music, for example "a sad piano melody"."""
    continue_from: Annotated[Path | None, optional("FILE", "none")] = None
    """A sound file that the music continues, for --seconds more; without a prompt, in its own manner. A piece
    that is to go on is best made with --ends False. Edits are always made again."""
    repaint: Annotated[Path | None, optional("FILE", "none")] = None
    """A sound file in which the music from --start to --stop is made again."""
    start: Annotated[float | None, optional("FLOAT", "none")] = None  # Seconds at which --repaint begins
    stop: Annotated[float | None, optional("FLOAT", "none")] = None  # Seconds at which it stops
    prompts: Annotated[Path | None, optional("FILE", "none")] = None
    """Many prompts: .txt, one per line, or .jsonl, one object per line: prompt, and any of negative_prompt, seed, n,
    seconds, name (of its files) and the settings of sampling. Ranks under torchrun share the pieces."""
    n: int = 4  # Number of different pieces; piece i has the seed SEED + i
    seed: int = 0  # The same seed with the same options gives the same bits
    seconds: float = 12.0  # Length of each piece, or of what --continue-from adds
    melody: Annotated[str | None, optional("FILE", "none")] = None
    """A MIDI file, whose upper line the music follows, or a recording of one voice."""
    negative_prompt: Annotated[str | None, optional("PROMPT", "none")] = None  # What the music should not be
    threads: Annotated[int | None, optional("INT", "torch's choice, or OMP_NUM_THREADS")] = None
    """CPU threads of each process; part of the recipe."""
    weights: str = "mini"  # A folder of weights, or the name of a packaged preset
    lora: Annotated[Path | None, optional("FILE", "none")] = None  # A stage's fine-tuning: `musekit train --train.lora`
    draft: bool = False  # A few quick steps by Stage 2's student, which are fixed: nearly the same pieces, sooner
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # Precision of Stage 2's matrix products
    out: Path = Path("demo")  # Folder for the WAV files, recipes and the contact sheet

    def run(self) -> None:
        """Generate the files."""
        from musekit.generate import edit_files, generate_files

        if self.continue_from or self.repaint:
            from musekit.lab.lab import read_sound

            edit_files(self, read_sound)
        else:
            generate_files(self)


@dataclass
class Cache:
    """Build or complete a cache of clips, captions and network inputs. The same command resumes.

    For example: the scores of music21, rendered, and the inputs of the mini networks; your own folder; a published
    dataset; the same with four processes, each on its GPU (slurm/cache.sh: with an array of jobs):

        musekit cache --kinds clips tokens views
        musekit cache --kinds latents embeddings --weights my-weights --remake
        musekit cache --data my-music --out my-cache
        musekit cache --corpus musicbench --data /data/MusicBench --preset paper
        torchrun --nproc-per-node 4 -m musekit -- cache --corpus musicbench --preset paper --kinds latents embeddings

    A folder's content shows which dataset it is. Audio is not copied. A table at the end says what was taken, and what
    not, and why; the exit code is 2 where nothing was. After SIGUSR1, SIGTERM or Ctrl-C the current shard is finished
    and saved; the exit code is 75 (Ctrl-C: 130).
    """

    corpus: Annotated[str | None, optional("NAME", "the dataset in --data, else scores")] = None
    """scores (music21's, rendered), musicbench, music4all, folder, or a folder's path."""
    data: Annotated[Path | None, optional("FOLDER", "none")] = None
    """The unpacked dataset, or a folder of audio with captions (tables, or text files beside it)."""
    out: Annotated[Path | None, optional("PATH", "caches/<corpus> under MUSEKIT_HOME")] = None  # The cache's folder
    n: int = 5_400  # Clips to render from the scores; the packaged weights learned from 5,400
    seconds: Annotated[float | None, optional("FLOAT", "the preset's window")] = None
    """Longest clip; longer recordings are cut into several clips."""
    kinds: tuple[Literal["clips", "tokens", "views", "latents", "embeddings"], ...] = ("clips", "tokens")
    """What to compute. Latents and embeddings need trained weights."""
    preset: str = "mini"  # The preset whose inputs and encoders are used
    weights: str = "mini"  # Folder of trained weights, for latents and embeddings
    workers: int = 2  # Processes; with a GPU there is one
    share: str = "0/1"
    """INDEX/COUNT: this command computes one of COUNT shares of the rows; slurm/cache.sh sets it in an array."""
    seed: int = 0  # Seed of the choice of clips
    remake: bool = False  # Replace rows of other weights or settings; without this option they are an error
    verify: bool = False  # Hash every finished shard, and replace those that differ from their hash

    def folder(self) -> Path:
        """The cache's folder."""
        name = Path(self.corpus or self.data or "scores")
        return self.out or home() / "caches" / name.expanduser().resolve().name  # resolved, since "." has no name

    def run(self) -> None:
        """Build the cache."""
        from musekit.cache.precompute import build_cache

        build_cache(self)


@dataclass
class Train:
    """Train one component of the system. The same command resumes.

    The codec and the embedder come first; both stages learn from what these two make of the corpus. For example:

        musekit train codec --out my-weights
        musekit train stage2 --out my-weights --train.samples 200000 --train.batch 32
        torchrun --nproc-per-node 4 -m musekit train stage2 --require-gpus 4

    After SIGUSR1, SIGTERM, a hang-up or Ctrl-C the current step is finished and saved; the exit code is 75, or after
    Ctrl-C 130.
    """

    part: Annotated[str | None, Positional, arg(metavar="PART", help_behavior_hint="(required)")] = None
    """codec, embedder, stage1, regression or stage2."""
    preset: str = "mini"  # The preset that gives the network's shape and the training settings
    cache: Annotated[Path | None, CACHES] = None  # The cache with the training data
    run_folder: Annotated[Path | None, optional("PATH", "runs/<preset>-<part> under MUSEKIT_HOME")] = None
    """Folder of metrics and checkpoints."""
    out: Annotated[Path | None, optional("PATH", "weights/ in the run's folder")] = None
    """Folder for the trained weights."""
    init: Annotated[Path | None, optional("FOLDER", "random weights")] = None
    """Initial weights: a folder, a packaged preset, or for paper's Stage 2 stabilityai/stable-audio-open-1.0."""
    require_gpus: int = 0
    """Refuse to start on a machine with fewer GPUs. Each process uses one GPU: start several with torchrun."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train. The defaults depend on the part and the preset: `musekit train stage2 --help` shows Stage 2's."""

    def __post_init__(self):
        if self.part is None:
            raise MuseError(f"a PART to train is required: {', '.join(MINI_TRAINING)}")
        if self.part not in MINI_TRAINING:
            raise suggest(self.part, MINI_TRAINING, "part to train")

    def with_own_defaults(self) -> "Train":
        """This command with the training settings of its part and preset as defaults."""
        init, lora, distil = self.init is not None, self.train.lora, self.train.distil
        return replace(self, train=train_config(self.preset, self.part, init, lora, distil))

    def run(self) -> None:
        """Train, and write the weights."""
        from musekit.train.command import train_part

        train_part(self)


MEASUREMENTS = f"{', '.join(EVALUATIONS)}; all: these. gallery: the poster's pictures. summary: stale results."


@dataclass
class Evaluate:
    """Measure the system on held-out works and wordings; writes results/<what>-valid.json with provenance.

    With --split test it writes results/<what>.json, which the pages show.

    The same command resumes. For example:

        musekit eval codec --codecs runs/codec/weights
        musekit eval one-to-many --split test
        musekit eval prompts --n 24 --results quick
    """

    what: Annotated[str | None, Positional, arg(metavar="[WHAT]", help=MEASUREMENTS, help_behavior_hint="")] = None
    weights: str = "mini"  # Folder of weights, or the name of a packaged preset
    cache: Annotated[Path | None, CACHES] = None  # The cache with the held-out clips
    results: Path = Path("results")  # Folder of the result files
    n: int = 240  # Number of generated clips, in measurements that generate
    split: Literal["valid", "test"] = "valid"
    """The held-out clips to measure on. Choices are made on valid; the result file counts the openings of test."""
    codecs: list[str] = field(default_factory=list)  # For codec: other folders of weights, measured beside this one
    quick: bool = False  # Tiny sizes, to test that everything runs

    def run(self) -> None:
        """Make the measurement, or list all of them."""
        if self.what is None:
            print(f"musekit eval WHAT, where WHAT is {MEASUREMENTS}")
            return
        from musekit.evaluate import evaluate

        cache = self.cache or home() / "caches" / "scores"
        evaluate(self.what, self.weights, cache, self.results, self.n, self.quick, self.split, self.codecs)


@dataclass
class Bench:
    """Time the system on this machine; writes results/bench-<what>.json (end-to-end: bench.json) with provenance.

    Run nothing else meanwhile: it would be measured too. For example:

        musekit bench
        musekit bench stage1
        musekit bench sizes --quick
        musekit bench lab --against ../an-older-checkout
    """

    what: Annotated[str, Positional, arg(metavar="[WHAT]")] = "end-to-end"
    """end-to-end, stage1, stage2, full, train, paper, sizes, lab or ddp."""
    weights: Annotated[str | None, optional("FOLDER", "mini")] = None
    """Folder of weights, or a packaged preset, for end-to-end and lab."""
    results: Path = Path("results")  # Folder of the result file
    quick: bool = False  # Tiny networks and single runs, to test that everything runs
    budget: float = 600.0  # Seconds for `paper`: rows that would not fit into what is left are left out
    against: Annotated[Path | None, optional("FOLDER", "none")] = None
    """Another checkout of MUSE, for lab: the same is measured there, in turn."""

    def run(self) -> None:
        """Run the benchmark."""
        from musekit.bench import bench

        bench(self.what, self.weights, self.results, self.quick, self.budget, self.against)


@dataclass
class Info:
    """Print a preset's configuration and parameter counts, and the licences of its public models; or check machines.

    For example (slurm/check.sh: the last one as a job):

        musekit info paper
        musekit info --devices
        torchrun --nproc-per-node 2 -m musekit -- info --cluster
    """

    preset: Annotated[str, Positional, arg(metavar="[PRESET]")] = "mini"  # mini, smoke or paper
    devices: bool = False  # Print what this machine computes with, and in which precision, instead
    cluster: bool = False  # Check GPUs, their driver and network, the disk of MUSEKIT_HOME and the clocks instead

    def run(self) -> None:
        """Print the preset, or the check."""
        if self.cluster or self.devices:
            from musekit.cluster import check_cluster, print_devices

            return check_cluster() if self.cluster else print_devices()
        config = preset(self.preset)
        from musekit.pretrained import sizes

        print(to_json(config), end="")
        for part, size in sizes(config).items():
            print(f"{part:10s} {size}")


@dataclass
class App:
    """Serve notebook 05 as a web page, from a clone of the repository.

    Its options: --weights, --n, --seconds and --steps, as the page has them at first, then Voila's. For example:

        musekit app --weights my-weights --port=9000 --theme=dark
    """

    options: Annotated[tuple[str, ...], Positional, arg(metavar="[OPTIONS]")] = ()  # As above

    def run(self) -> None:
        """Become the server."""
        script = Path(__file__).resolve().parent.parent / "scripts" / "app.py"
        if not script.exists():
            raise MuseError("the page is notebook 05, which is in the repository only: run this in a clone of it")
        os.execv(sys.executable, [sys.executable, str(script), *self.options])


COMMANDS = dict(generate=Generate, cache=Cache, train=Train, eval=Evaluate, bench=Bench, info=Info, app=App)
SUBCOMMANDS = tuple(
    Annotated[command, tyro.conf.subcommand(name, description=command.__doc__.split("\n\n")[0])]
    for name, command in COMMANDS.items()
)
