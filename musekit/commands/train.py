"""`musekit train`: one part of the system."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from musekit.arguments import CACHES, optional
from musekit.config import MINI_TRAINING, TrainConfig, train_config


@dataclass
class Train:
    """Train one part of the system. The same command resumes.

    The codec and the embedder learn first; both stages learn from what these make of the corpus. For example:

        musekit train codec --out my-weights
        musekit train stage2 --out my-weights --train.samples 200000 --train.batch 32
        torchrun --nproc-per-node 4 -m musekit train stage2 --require-gpus 4 --train.samples-every 20000

    SIGUSR1, SIGTERM or Ctrl-C: the step is finished and saved; exit code 75 (Ctrl-C: 130); the same command goes on.
    """

    part: Annotated[Literal["codec", "embedder", "stage1", "regression", "stage2"], tyro.conf.Positional]
    """The network to train."""
    preset: str = "mini"
    """Its shape."""
    cache: Annotated[Path | None, CACHES] = None
    """The cache to learn from."""
    run_folder: Annotated[Path | None, optional("PATH", "runs/<preset>-<part> under MUSEKIT_HOME")] = None
    """Where metrics and checkpoints go."""
    out: Annotated[Path | None, optional("PATH", "weights/ in the run's folder")] = None
    """Folder that receives the trained weights, in half precision."""
    init: Annotated[Path | None, optional("FOLDER", "random weights")] = None
    """Weights to start from: a folder, a packaged name, or for paper's Stage 2 stabilityai/stable-audio-open-1.0."""
    codec: Annotated[str | None, optional("FOLDER", "the preset's packaged one")] = None
    """Folder of weights whose codec decodes the pieces of --train.samples-every."""
    require_gpus: int = 0
    """Refuse to start on a machine with fewer GPUs. Each process uses one GPU: start several with torchrun."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train. The defaults depend on the part and the preset: `musekit train stage2 --help` shows Stage 2's."""

    def with_own_defaults(self) -> Train:
        """This command with the training settings of its part and preset as defaults."""
        known = self.part in MINI_TRAINING
        settings = train_config(self.preset, self.part, self.init is not None) if known else TrainConfig()
        return replace(self, part=tyro.MISSING, train=settings)

    def run(self) -> None:
        from musekit.train.command import train_part

        train_part(self)
