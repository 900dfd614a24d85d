"""The trained parts of one folder of weights, each loaded when it is first used."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import torch

from musekit import distributed, pretrained
from musekit.config import MuseConfig, MuseError
from musekit.encoders import JointEmbedder, MuQ, joint, text_encoder
from musekit.pretrained import load_part
from musekit.stage1 import Stage1Inference
from musekit.stage2 import Stage2Inference


def precision(name: str) -> torch.dtype:
    """The dtype of that name. Raises MuseError for one that is not computed in."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise MuseError(f"unknown dtype {name!r} (known: auto, float32, bfloat16)")
    return known[name]


def fast_precision(device: torch.device) -> torch.dtype:
    """bf16 where there is hardware for its products (GPU, AMX), else float32."""
    fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def in_turn(method: Callable) -> Callable:
    """A method of `System` that one thread runs at a time on a GPU (Studio and Lab share a system).

    A recorded graph (`musekit.inference.graphs`) reads and writes memory that all its launches share.
    """

    @functools.wraps(method)
    def run(self, *arguments, **named):
        if self.device.type != "cuda":
            return method(self, *arguments, **named)
        with self.turn:
            return method(self, *arguments, **named)

    return run


@dataclass
class System:
    """Both stages, the codec and the encoders of one folder of weights."""

    folder: Path
    config: MuseConfig
    dtype: str = "auto"  # of Stage 2's matrix products: "float32", "bfloat16", or what this machine does best
    stage1_dtype: str = "float32"  # of Stage 1's: "bfloat16" halves what a step reads, and rounds the embedding
    notice: Callable[[str], None] = lambda text: None
    timings: dict[str, float] = field(default_factory=dict)
    turn: threading.RLock = field(default_factory=threading.RLock, repr=False)  # of `in_turn`

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path = "mini", **options) -> Self:
        """The system of a folder, or of a name that comes with the package. Raises MuseError on bad weights."""
        folder = pretrained.find(name_or_folder)
        return cls(folder, pretrained.read_config(folder), **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy this system's folder of weights: safetensors, hashes and config. Into itself: nothing to do."""
        if Path(folder).resolve() == self.folder.resolve():
            return
        for path in sorted(self.folder.glob("*")):
            if path.suffix in (".safetensors", ".json", ".md"):
                Path(folder).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, Path(folder) / path.name)

    @cached_property
    def device(self) -> torch.device:
        """A GPU if there is one."""
        return distributed.device()

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
    def inference1(self) -> Stage1Inference:
        """Stage 1 prepared for sampling."""
        return Stage1Inference(self.stage1, precision(self.stage1_dtype))

    @cached_property
    def stage2(self):
        """Embedding -> latents."""
        return load_part(self.folder, "stage2")[0].to(self.device)

    @cached_property
    def inference2(self) -> Stage2Inference:
        """Stage 2 prepared for sampling, in this machine's precision."""
        return Stage2Inference(self.stage2, self.autocast_dtype)

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
        """What the networks are computed in: as asked, else what the device is fast in."""
        return fast_precision(self.device) if self.dtype == "auto" else precision(self.dtype)
