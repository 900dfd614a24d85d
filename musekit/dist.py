"""Ranks, devices, and the launch of a run: one process, or torchrun on CPU (gloo) and GPU (nccl)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
from torch import nn

from musekit.config import MuseError


def rank() -> int:
    """This process's rank; 0 when there is one process."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> torch.device:
    """This process's GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def to_device(batch: dict) -> dict:
    """Move a batch's tensors; what is not a tensor stays."""
    return {k: v.to(device(), non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}


@contextlib.contextmanager
def process_group():
    """Join the other ranks for the length of the block; does nothing for one process."""
    if world() == 1:
        yield
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if device().type == "cuda":
        torch.cuda.set_device(device())
    torch.distributed.init_process_group(backend)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


class _Loss(nn.Module):
    """Gives DDP a forward: batch -> training loss."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict):
        return self.model.training_loss(batch)


def wrap(model: nn.Module) -> nn.Module:
    """The model's training loss as a module, under DDP when there are several ranks.

    `find_unused_parameters` pins the order in which gradients are summed, so a resumed run has the same bits.
    """
    wrapped = _Loss(model)
    if world() == 1:
        return wrapped
    ids = [device().index] if device().type == "cuda" else None
    return nn.parallel.DistributedDataParallel(wrapped, device_ids=ids, find_unused_parameters=True)


def no_sync(wrapped: nn.Module, skip: bool):
    """Do not sum gradients over ranks in this block when `skip` (all but the last accumulation step)."""
    return wrapped.no_sync() if skip and hasattr(wrapped, "no_sync") else contextlib.nullcontext()


def launch(arguments: Sequence[str], processes: int = 1, on_line: Callable[[str], None] = print) -> None:
    """Run `musekit <arguments>` in `processes` processes and hand over each line of its log.

    One process is plain Python, more are torchrun on this machine. Raises MuseError with the log's end on failure.
    """
    command = [sys.executable, "-m", "musekit", *arguments]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, "-m", "musekit", *arguments]
    tail: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as process:
        for line in process.stdout:
            tail = [*tail[-19:], line.rstrip()]
            on_line(line.rstrip())
    if process.returncode:
        raise MuseError(f"`musekit {' '.join(arguments)}` failed with {process.returncode}:\n" + "\n".join(tail))
