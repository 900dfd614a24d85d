"""Configuration: one frozen dataclass per component, `MuseConfig` of all of them, and the presets.

mini   runs on a laptop CPU, offline; its weights are part of the package
paper  the full-size system (238M + 1.06B); its weights are trained on a cluster
smoke  tiny and random, for tests; its audio is noise

The types carry the ranges that `files.decode` checks when a config is read from a file.
"""

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, convert

Count = Annotated[int, Meta(ge=1, le=2**20)]
CountOrNone = Annotated[int, Meta(ge=0, le=2**20)]
Samples = Annotated[int, Meta(ge=1, le=2**60)]
SamplesOrNone = Annotated[int, Meta(ge=0, le=2**60)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Width = Annotated[int, Meta(ge=1, le=2**14)]  # of a layer
Depth = Annotated[int, Meta(ge=0, le=256)]
Feeders = Annotated[int, Meta(ge=0, le=256)]
Small = Annotated[int, Meta(ge=1, le=64)]
Hertz = Annotated[int, Meta(ge=8000, le=384_000)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]
Nonnegative = Annotated[float, Meta(ge=0, le=1e6)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Scale = Annotated[float, Meta(ge=0, le=100)]
Shift = Annotated[float, Meta(ge=0.1, le=100)]

TABLES = tomllib.loads(Path(__file__).with_name("presets.toml").read_text(encoding="utf-8"))
TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # as metadata and prompts spell them


class MuseError(Exception):
    """A user error; the CLI prints it in one line and exits with code 2."""


def suggest(word: str, known: Iterable, what: str) -> MuseError:
    """The error for an unknown name, with the nearest known one as a suggestion; the caller raises it."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = str(word) if len(str(word)) <= 60 else str(word)[:57] + "..."
    return MuseError(f"unknown {what} {shown!r}{hint} (known: {', '.join(map(str, known))})")


def later(default):
    """A field that was added after the first weights and caches: at its default it is not part of hashes or of repr."""
    return field(default=default, repr=False)


@dataclass(frozen=True)
class CodecConfig:
    """Magnitude-spectrogram VAE (`codec.SpectralVAE`): `frames` STFT frames make one latent frame."""

    kind: Literal["spectral", "oobleck"] = "spectral"  # trained here, or Stable Audio Open's
    sample_rate: Hertz = 44100  # Hz
    latent_dim: Annotated[int, Meta(ge=1, le=4096)] = 64  # channels C
    n_fft: Annotated[int, Meta(ge=16, le=2**17)] = 2048  # samples
    stft_hop: Count = 512  # samples, a quarter of the window
    frames: Count = 4  # STFT frames per latent frame; hop = frames * stft_hop = 2048 samples (46 ms)
    linear_bins: CountOrNone = 512  # STFT bins without averaging (0 to 11.0 kHz)
    high_bands: CountOrNone = 64  # bands of 8 bins above them (11.0 to 22.05 kHz)
    low_bins: Annotated[int, Meta(ge=16, le=2**16)] = 96  # bins of a window twice as long (0 to 1.0 kHz)
    low_dilations: tuple[Count, ...] = (1, 2, 4, 1)  # of the layers for it
    power: Annotated[float, Meta(ge=0.01, le=1)] = 0.3  # the network's input is magnitude**power
    width: Width = 352  # of the layers at the rate of the latents
    frame_width: Width = 256  # and of those at the rate of the STFT
    encoder_depth: Depth = 1
    decoder_depth: Depth = 2
    kl_weight: Nonnegative = 1e-4  # of the KL divergence, summed over the channels of a latent frame
    angle_weight: Nonnegative = 0.2
    mel_weight: Nonnegative = 0.1
    turn_weight: Nonnegative = 1.0
    name: str = later("")  # "oobleck": hub name or folder of a diffusers pipeline or of its vae/

    @property
    def hop(self) -> int:
        """Samples of audio per latent frame."""
        return self.stft_hop * self.frames


@dataclass(frozen=True)
class TextConfig:
    """The frozen text encoder whose token states condition Stage 1."""

    name: str = "all-MiniLM-L6-v2"  # "t5": hub name or folder
    dim: Width = 384
    max_tokens: Annotated[int, Meta(ge=1, le=4096)] = 32  # longer prompts are cut; shorter ones are padded
    kind: Literal["minilm", "t5"] = later("minilm")  # "minilm": from its PyPI package. "t5": the encoder of a T5
    lengths: tuple[Count, ...] = later(())  # prompts are padded to the next of these instead of `max_tokens`


@dataclass(frozen=True)
class EmbedderConfig:
    """The joint text-audio embedding (`encoders`), 512-d, unit length."""

    kind: Literal["mini", "muq"] = "mini"  # "mini": two towers trained here. "muq": MuQ-MuLan-large
    dim: Width = 512
    sample_rate: Hertz = 44100  # Hz, of the audio tower's input
    width: Width = 256
    depth: Depth = 3
    bands: Annotated[int, Meta(ge=144, le=480)] = 192  # log-frequency bands, 24 per octave from 55 Hz
    onset_bands: Count = 40  # mel bands of the short window, which resolves onsets
    text_width: Width = 128
    head_width: Width = 256
    name: str = later("")  # "muq": hub name or folder


@dataclass(frozen=True)
class Stage1Config:
    """`stage1.Text2MuQFlow`: the velocity of a 512-d embedding given text tokens."""

    dim: Width = 512
    text_dim: Width = 384
    width: Width = 192
    depth: Depth = 3
    heads: Count = 4
    ff_mult: Small = 2
    gaussian_rank: CountOrNone = 128  # principal directions with the exact Gaussian velocity; 0: the network only
    condition_dropout: Fraction = 0.1


@dataclass(frozen=True)
class Stage2Config:
    """`stage2.StableAudioMuQ`: the velocity of codec latents given one 512-d embedding."""

    latent_dim: Width = 64
    embedding_dim: Width = 512
    condition_dim: Width = 192  # embedding -> condition_dim -> condition_dim: the one conditioning token
    width: Width = 320
    depth: Depth = 7
    head_dim: Width = 64
    kv_heads: Count = 1  # of the cross-attention
    ff_mult: Annotated[float, Meta(ge=0.01, le=64)] = 2.0
    patch: Small = 2  # latent frames per token
    modulation: bool = True  # adaLN-single in addition to the tokens; False is Stable Audio Open's own design
    max_frames: Count = 259  # latent frames of the window
    condition_dropout: Fraction = 0.3
    embedding_noise: Nonnegative = 0.0  # standard deviation of Gaussian noise on the training embeddings
    stable_audio: bool = later(False)  # Stable Audio Open's own transformer, weight for weight (`stable_audio`)
    time_dim: Width = later(256)  # its Fourier features of time
    number_dim: Width = later(256)  # its Fourier features of start and total seconds
    max_seconds: Positive = later(512.0)  # the largest number of seconds that its timing token resolves
    controls: bool = later(False)  # inputs for tempo, key, metre, beats, chords, melody (`conditions`) and given frames


@dataclass(frozen=True)
class SampleConfig:
    """Defaults of sampling; every field can be overridden in a call."""

    stage1_steps: Count = 50
    stage2_steps: Count = 50
    stage1_solver: str = "euler"
    stage2_solver: str = "euler"
    guidance_scale: Scale = 3.0
    stage1_guidance_scale: Scale = 1.0
    # of Stage 1's products; "auto": the device's fast one
    stage1_dtype: Literal["auto", "float32", "bfloat16"] = later("float32")
    seconds: Positive = 12.0
    micro_batch: Count = 4  # samples per batch; part of the recipe, since batches are padded to this size
    shift: Shift = later(1.0)  # of Stage 2's steps towards noise (`solve.solve`)
    control_guidance: Scale = later(0.0)  # further guidance by what controls tell beside the embedding


@dataclass(frozen=True)
class TrainConfig:
    """How to train one component. The defaults of each preset and component are in `train_config`."""

    samples: Samples = 100_000  # training samples in total, over all epochs and ranks
    minutes: Nonnegative = 0.0  # instead of samples: as many as fit into so many minutes; 0: as said
    batch: Count = 64  # samples per optimizer step, over all ranks and accumulation steps
    micro_batch: Count = 64  # samples per forward pass on one rank
    lr: Nonnegative = 1e-3
    weight_decay: Nonnegative = 0.01
    warmup: SamplesOrNone = 6_000  # samples
    decay: Fraction = 0.5  # fraction of the training at its end, in which the learning rate falls linearly to zero
    clip: Nonnegative = 1.0  # largest gradient norm; 0: no clipping
    ema: Fraction = 0.999  # decay per step of the weights' exponential moving average
    seed: Seed = 0
    bf16: bool = True  # bfloat16 autocast, where the device has units for it
    recompute: bool = False  # recompute each block's activations in the backward pass: less memory, a third more work
    compile: bool = False  # torch.compile each block; needs a C++ compiler
    shard: bool = False  # of a stage: each rank holds a part of the weights, gradients and moments (FSDP2)
    log_every: Samples = 6_400  # samples
    validate_every: Samples = 64_000  # samples
    checkpoint_minutes: Nonnegative = 3.0
    keep: Count = 2  # newest checkpoints that are retained
    lora: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Rank of the small matrices that are trained instead of the weights (`lora`), from --init; 0: the weights."""
    distil: Annotated[int, Meta(ge=0, le=64)] = 0
    """Steps of a student of Stage 2, which is trained by LoRA on the guided teacher (`distil`); 0: no student."""
    only: str = ""  # train only the parameters whose names begin so ("decoder": a codec whose latents stay)
    workers: Feeders = 0  # processes per rank that build batches, if a thread is too slow for the GPU; 0: a thread


@dataclass(frozen=True)
class MuseConfig:
    """One complete system."""

    name: str
    codec: CodecConfig = field(default_factory=CodecConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    sample: SampleConfig = field(default_factory=SampleConfig)

    @property
    def window_seconds(self) -> float:
        """Length of the longest piece."""
        return self.stage2.max_frames * self.codec.hop / self.codec.sample_rate


PRESETS = {name: convert(values | {"name": name}, MuseConfig) for name, values in TABLES["presets"].items()}


def preset(name: str) -> MuseConfig:
    """The preset of that name (`presets.toml`). Raises MuseError with a suggestion."""
    if name not in PRESETS:
        raise suggest(name, PRESETS, "preset")
    return PRESETS[name]


mini, smoke, paper = (partial(preset, name) for name in PRESETS)
MINI_TRAINING = {part: convert(values, TrainConfig) for part, values in TABLES["training"]["mini"].items()}


def train_config(preset: str, component: str, init: bool = False, lora: int = 0, distil: int = 0) -> TrainConfig:
    """The default training settings of a preset's component.

    preset: "mini", "smoke" (mini's settings) or "paper". component: "codec", "embedder", "stage1", "regression" or
    "stage2". init: whether training starts from trained weights. lora: its rank, or 0. distil: a student's steps, or 0.
    """
    full, change = TABLES["training"]["paper"], {}
    if preset == "paper":
        change = full.get(component, {}) | (full["fine_tuning"] if init and component == "stage2" else {})
        change |= full["lora"] if lora else {}
    change |= TABLES["training"]["distil"] if distil else {}
    return replace(MINI_TRAINING[component], **change, lora=lora, distil=distil)


def identity(config) -> dict:
    """A config as the dict that hashes are made of: `later` fields are left out at their default."""
    values = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.repr or value != f.default:
            values[f.name] = identity(value) if dataclasses.is_dataclass(value) else value
    return values


def to_json(config) -> str:
    """A frozen config as readable JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + "\n"


def home() -> Path:
    """The folder of caches, runs and checkpoints: $MUSEKIT_HOME, else musekit/ in the user's cache folder.

    Raises MuseError for a user without a home folder.
    """
    try:
        if named := os.environ.get("MUSEKIT_HOME"):
            return Path(named).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "musekit"
    except RuntimeError as error:
        raise MuseError("this user has no home folder: set MUSEKIT_HOME to a folder that can be written") from error
