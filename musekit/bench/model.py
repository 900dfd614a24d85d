"""A model that predicts times, which the roofline alone only bounds: a call's seconds, an all-reduce, Amdahl's law.

    T = latency + max(bytes / bandwidth, FLOPs / rate) + passes * activations / bandwidth

The maximum is the roofline of the products with the weights. What lies between two products (norms, gates, rotations)
reads and writes every number of the activations some times and hardly computes, so its own roofline is memory. `fit`
takes latency and passes from the smallest network of a sweep, and every larger one is a prediction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from musekit.bench.measure import Recorded, Row
from musekit.bench.networks import SHAPES1, SHAPES2, SIZES

SMALLEST = SIZES[0]  # the networks on which the constants are fitted


def size(row: Row) -> str:
    """The name of a row's network in `networks.SIZES`."""
    return row["peer"].split(", ")[1]


def activations(row: Row) -> float:
    """Bytes of one pass over the activations of one guided evaluation: two rows per token, at every layer."""
    depth, width = (SHAPES1 if row["stage"] == 1 else SHAPES2)[size(row)]
    rows = 2 * row["batch"] * ((row.get("frames") or 0) + 1)
    return rows * width * depth * torch.finfo(getattr(torch, row["dtype"])).bits / 8


@dataclass(frozen=True)
class Model:
    """Predicts the seconds of one evaluation on the machine with these measured ceilings."""

    ceilings: dict
    latency: float  # seconds per evaluation: launching operations, filling and draining the chip
    passes: float  # how often each number of the activations is moved, in effect

    def __call__(self, row: Row) -> float:
        roof = max(row["bytes"] / self.ceilings["bandwidth"], row["flops"] / self.ceilings[row["dtype"]])
        return self.latency + roof + self.passes * activations(row) / self.ceilings["bandwidth"]


def fit(rows: Iterable[Row], ceilings: dict) -> Model:
    """The two constants that predict the smallest network's rows with the least relative squared error."""
    rows = [row for row in rows if size(row) == SMALLEST]
    seconds, bare = np.array([row["seconds"] for row in rows]), Model(ceilings, 0.0, 0.0)
    moved = np.array([activations(row) for row in rows]) / ceilings["bandwidth"]
    rest = 1 - np.array([bare(row) for row in rows]) / seconds
    return Model(ceilings, *np.linalg.lstsq(np.stack([1 / seconds, moved / seconds], 1), rest, rcond=None)[0].tolist())


def predicting(sweep: Recorded) -> tuple[Model, list[Row]]:
    """The model fitted on a recorded sweep's smallest networks, and the rows of the larger ones, which it predicts.

    Old rows of Stage 1 with a batch of one or two on a GPU are left out: they ran on kernels that have gone since.
    """
    kept = [r for r in sweep.rows if "instructions" in r or r["backend"] == "cpu" or r["stage"] == 2 or r["batch"] > 2]
    return fit(kept, sweep.ceilings), [row for row in kept if size(row) != SMALLEST]


def errors(predicted: Iterable[float], measured: Iterable[float]) -> tuple[float, float]:
    """(median relative error, worst factor, as 1.5 for a prediction of 1.5 times as much or as little)."""
    ratio = np.array(list(predicted)) / np.array(list(measured))
    return float(np.median(np.abs(ratio - 1))), float(np.exp(np.abs(np.log(ratio))).max())


def all_reduce(size: float, ranks: int, bandwidth: float, latency: float = 0.0) -> float:
    """Seconds to sum `size` bytes on a ring: each rank sends 2 (n - 1) messages of size / n (Patarasuk & Yuan 2009)."""
    return 2 * (ranks - 1) * (size / ranks / bandwidth + latency)


def ddp_step(compute: float, communication: float, overlap: float = 0.0) -> float:
    """Seconds of a data-parallel step; overlap: the share of `compute` behind which an all-reduce can hide."""
    return compute + max(0.0, communication - overlap * compute)


def amdahl(serial: float, n: float) -> float:
    """Speedup of a fixed amount of work when all but the share `serial` of its time gets n times faster."""
    return 1 / (serial + (1 - serial) / n)


def gustafson(serial: float, n: float) -> float:
    """How much more work n workers do in the time in which one does one, if `serial` of that time is not shared."""
    return serial + (1 - serial) * n


class Launches(TorchDispatchMode):
    """Counts, within `with`, the operations that are sent to the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))
