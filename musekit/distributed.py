"""Ranks, devices and signals: one process, or several under torchrun on CPUs (gloo) or GPUs (nccl).

All ranks run the same program. Gradients travel over nccl where there are GPUs; the values that ranks agree on (flags,
counters, metrics) travel between CPUs over gloo, so that they never wait for a GPU.
"""

import contextlib
import datetime
import importlib
import os
import signal
import stat
import threading
import weakref

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from musekit.config import MuseError
from musekit.gpu import device

LOST = "lost another rank"  # in the error of every rank but the first one that failed
WRAPPED = weakref.WeakSet()  # every network under DDP
RESUMABLE = 75  # exit code (EX_TEMPFAIL of sysexits.h): the state is saved and the same command continues


def rank() -> int:
    """This process's rank; 0 in a single process."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Number of ranks."""
    return int(os.environ.get("WORLD_SIZE", 1))


def to_device(batch: dict) -> dict:
    """Move the tensors of a batch to this process's device."""
    return {k: v.to(device(), non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}


def check_gpus(required: int = 0) -> None:
    """Raise MuseError where torch sees fewer GPUs than `required` (or MUSEKIT_GPUS, which a job script sets), or some
    but not one for each process here. Where Slurm binds one GPU to each process, a process sees only its own.
    """
    for old in filter(None, map(too_old, range(torch.cuda.device_count() if torch.cuda.is_available() else 0))):
        raise MuseError(old)
    required = max(required, int(os.environ.get("MUSEKIT_GPUS") or 0))
    visible, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if visible == 1 < processes and "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ","):
        return
    if visible < required or 0 < visible < processes:
        raise MuseError(
            f"{max(required, processes)} GPUs are required and torch sees {visible} on this machine; start fewer"
            " processes, or check nvidia-smi, its driver version and CUDA_VISIBLE_DEVICES"
        )


def too_old(index: int) -> str:
    """Why this torch has no kernels for a GPU that is older than all that it was built for; "" where it has."""
    capability = torch.cuda.get_device_capability(index)
    built = [
        (int(name[3:-1]), int(name[-1]))
        for name in torch.cuda.get_arch_list()
        if name[:3] == "sm_" and name[-1].isdigit()
    ]
    if not built or capability >= min(built):
        return ""
    name, needs = torch.cuda.get_device_name(index), ".".join(map(str, min(built)))
    return (
        f"{name} is too old for this torch (CUDA {torch.version.cuda}), which needs compute capability {needs}: "
        "install torch built for an older CUDA, or set CUDA_VISIBLE_DEVICES to nothing to compute on the CPU"
    )


@contextlib.contextmanager
def process_group(timeout: datetime.timedelta = datetime.timedelta(hours=1)):
    """Join the other ranks for the length of the block; does nothing in a single process.

    timeout: how long a rank waits for the others, for example while the first one writes a checkpoint. Raises MuseError
    when there are too few GPUs, when the ranks cannot meet, or when one of them is lost.
    """
    check_gpus()
    if world() == 1:
        yield
        return
    # DDP imports this module. Its default arguments are the process group of the moment of import: after the group has
    # begun they would keep it and gloo's threads for ever, and such a thread can abort the process while Python ends
    importlib.import_module("torch.distributed.nn")
    gpu = device().type == "cuda"
    if gpu:
        torch.cuda.set_device(device())
    try:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        why = f"rank {rank()} of {world()} cannot meet the others ({str(error).splitlines()[0]})"
        raise MuseError(f"{why}; start with torchrun, and set MASTER_PORT to a free port") from error
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower():
            raise MuseError(f"rank {rank()} {LOST}; its error is above or below this line") from error
        raise
    except (MuseError, SystemExit):  # raised between collectives
        leave()
        raise
    leave()  # not after other errors: it might wait for a lost rank


def leave() -> None:
    """Destroy the process group while nothing else owns it: that joins gloo's threads without Python's lock.

    DDP would be the last owner, and join them with the lock, for which a thread may be waiting: a deadlock.
    """
    for wrapped in WRAPPED:
        vars(wrapped).clear()
    torch.distributed.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    all_reduce_max(0)


def all_reduce_max(value: int) -> int:
    """The largest of all ranks' integers."""
    largest = torch.tensor(value, dtype=torch.int64)
    if world() > 1:
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of all ranks' tensors, in float64 on the CPU: the same bits on every rank."""
    values = values.to("cpu", torch.float64)
    if world() > 1:
        torch.distributed.all_reduce(values)
    return values


def all_gather(value) -> list:
    """The values of all ranks, in their order, on every rank. Any value that pickles."""
    if world() == 1:
        return [value]
    values = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


class TrainingLoss(nn.Module):
    """batch -> (loss, metrics): the model's training loss as the `forward` that DDP calls."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict):
        return self.model.training_loss(batch)

    training_loss = nn.Module.__call__


def wrap(model: nn.Module, shard: bool = False) -> nn.Module:
    """A module whose forward is the model's training loss, under DDP when there are several ranks.

    `find_unused_parameters` fixes the order in which gradients are summed, so that a resumed run has the same bits.
    shard: instead each rank of a machine holds a part of every weight, and gathers a layer's when it is computed
    (FSDP2; on several machines HSDP). Weights, gradients and the optimizer's state are `DTensor` then.
    """
    if world() == 1:
        return TrainingLoss(model)
    if shard:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world()))
        mesh = torch.distributed.init_device_mesh(
            device().type, (world() // local, local), mesh_dim_names=("machines", "ranks")
        )
        loss = TrainingLoss(model)
        layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
        for part in (*layers, loss):
            fully_shard(part, mesh=mesh if world() > local else mesh["ranks"])
        return loss
    ids = [device().index] if device().type == "cuda" else None
    wrapped = nn.parallel.DistributedDataParallel(TrainingLoss(model), device_ids=ids, find_unused_parameters=True)
    WRAPPED.add(wrapped)
    return wrapped


def sum_over_ranks(loss: nn.Module, now: bool):
    """A context for a forward and backward pass of a wrapped model: whether gradients are summed over ranks in it."""
    if isinstance(loss, FSDPModule):
        loss.set_requires_gradient_sync(now)
    if isinstance(loss, nn.parallel.DistributedDataParallel) and not now:
        return loss.no_sync()
    return contextlib.nullcontext()


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor of which each rank holds a part, whole; all ranks call this. Any other tensor is as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def share(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, of which each rank keeps the part that it has of `like`."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


class Stopped(SystemExit):
    """A signal ended the work after its state was saved: the same command continues.

    The exit code is 75 (`RESUMABLE`) after SIGUSR1, SIGTERM or SIGHUP and 130 after Ctrl-C.
    """


@contextlib.contextmanager
def signals(interrupt: bool = True):
    """Yields `stop() -> int`: 0, or the exit code that a signal has requested since the block began.

    A signal interrupts nothing: the work calls `stop` where its state is complete. A second Ctrl-C interrupts at once;
    without `interrupt` the first one does. After the block the previous handlers are back. After `Stopped` signals are
    ignored instead: a second one from torchrun or a job script would replace the exit code while Python ends.
    """
    requested = 0

    def handle(number: int, frame) -> None:
        nonlocal requested
        if number == getattr(signal, "SIGHUP", None):  # the terminal is gone: writing to it would fail before the end
            for stream in (1, 2):
                if stat.S_ISCHR(os.fstat(stream).st_mode):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if number == signal.SIGINT and requested == 130:
            raise KeyboardInterrupt
        requested = max(requested, 130 if number == signal.SIGINT else RESUMABLE)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread receives signals
        return
    ending = [getattr(signal, n) for n in ("SIGUSR1", "SIGTERM", "SIGHUP") if hasattr(signal, n)]  # Windows: TERM only
    if signal.getsignal(ending[-1]) == signal.SIG_IGN:  # by nohup. USR1 may be ignored, too: by a job script's torchrun
        del ending[-1]
    before = {number: signal.signal(number, handle) for number in ending + [signal.SIGINT] * interrupt}
    try:
        yield lambda: requested
    except Stopped:
        before |= dict.fromkeys(ending, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
