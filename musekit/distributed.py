"""Ranks, devices, and the launch of a run: one process, or torchrun on CPU (gloo) and GPU (nccl).

Every rank runs the same program. What they must agree on travels over the CPU (gloo), also where gradients travel
over nccl: a flag then costs no wait for the GPU.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import threading
from collections.abc import Callable

import torch
from torch import nn

from musekit.config import MuseError

LOST = "lost another rank"  # in the message of a rank that was not the first to fail


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


def check_gpus(asked: int = 0) -> None:
    """Raise MuseError when this machine has fewer GPUs than `asked`, or than its processes where there are any.

    A job script tells what it asked Slurm for (MUSEKIT_GPUS): where torch sees none of it, nothing runs on the CPU.
    """
    asked = max(asked, int(os.environ.get("MUSEKIT_GPUS") or 0))
    there, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if there < asked or 0 < there < processes:
        raise MuseError(
            f"{max(asked, processes)} GPUs are asked for and torch sees {there} on this machine; ask for fewer"
            " processes, or see what nvidia-smi and CUDA_VISIBLE_DEVICES say"
        )


@contextlib.contextmanager
def process_group(timeout: datetime.timedelta | None = None):
    """Join the other ranks for the length of the block; does nothing for one process.

    Raises MuseError when there are too few GPUs, when they cannot meet, or when one of them is lost.
    """
    check_gpus()
    if world() == 1:
        yield
        return
    gpu = device().type == "cuda"
    if gpu:
        torch.cuda.set_device(device())
    try:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        place, why = os.environ.get("MASTER_PORT", "of MASTER_PORT"), str(error).splitlines()[0]
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise MuseError(f"port {place} is in use on this machine; set MASTER_PORT to a free one") from error
        raise MuseError(f"rank {rank()} of {world()} cannot meet the others ({why}); start with torchrun") from error
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower():
            raise MuseError(f"rank {rank()} {LOST}; what it said is above or below this line") from error
        raise
    torch.distributed.destroy_process_group()  # after an error it might wait for a rank that is gone


def barrier() -> None:
    """Wait for all ranks."""
    highest(0)


def highest(value: int) -> int:
    """The largest of the ranks' whole numbers, known to all of them."""
    if world() == 1:
        return value
    held = torch.tensor(value, dtype=torch.int64)
    torch.distributed.all_reduce(held, torch.distributed.ReduceOp.MAX)
    return int(held)


def total(values: torch.Tensor) -> torch.Tensor:
    """The ranks' tensors summed, the same bits on every rank; float64, on the CPU."""
    values = values.to("cpu", torch.float64)
    if world() > 1:
        torch.distributed.all_reduce(values)
    return values


def gathered(value) -> list:
    """Every rank's value (anything that pickles), on every rank."""
    if world() == 1:
        return [value]
    values = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


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


class Stopped(SystemExit):
    """A signal asked for the end and the state is saved: the same command goes on.

    Its exit code is 75 (os.EX_TEMPFAIL: try again) after SIGUSR1 or SIGTERM, 130 after Ctrl-C.
    """


@contextlib.contextmanager
def signals(interrupt: bool = True, last: bool = False):
    """Yields `stop() -> int`: 0, or the exit code that a signal to this process asked for since the block began.

    Nothing is cut short: the work looks at `stop` where its state is whole. A second Ctrl-C interrupts at once;
    without `interrupt` the first one does. After the block signals mean what they did before it, but where the process
    only has to end (`Stopped`, or the block is its `last`) they are ignored: Python takes its handlers away while it
    ends, and a second signal, of torchrun's or of a job script's, would turn the exit code into a kill.
    """
    asked = 0

    def note(number: int, frame) -> None:
        nonlocal asked
        if number == signal.SIGINT and asked == 130:
            raise KeyboardInterrupt
        asked = max(asked, 130 if number == signal.SIGINT else os.EX_TEMPFAIL)

    stop: Callable[[], int] = lambda: asked  # noqa: E731 - the flag as it is when it is asked for
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread hears signals
        return
    heard = (signal.SIGUSR1, signal.SIGTERM, *([signal.SIGINT] if interrupt else []))
    before = {n: signal.signal(n, note) for n in heard}
    after = dict.fromkeys(before, signal.SIG_IGN) if last else before
    try:
        yield stop
    except Stopped:
        after = {**after, signal.SIGUSR1: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}
        raise
    finally:
        put(after)


def put(handlers: dict) -> None:
    """Install signal handlers."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
