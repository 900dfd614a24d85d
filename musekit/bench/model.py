"""A model that predicts times, which the roofline alone only bounds: of a call, of an all-reduce, of a training step.

    T = latency + max(bytes / bandwidth, FLOPs / rate) + passes * activations / bandwidth

The maximum is the roofline of the products with the weights. What lies between two (norms, gates) moves every
number of the activations some times and hardly computes, so its own roofline is memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from musekit.bench.measure import Recorded, Row
from musekit.bench.networks import SHAPES1, SHAPES2, SIZES


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
    """The two constants that predict the rows of the smallest networks with the least relative squared error."""
    rows, bare = [row for row in rows if size(row) == SIZES[0]], Model(ceilings, 0.0, 0.0)
    seconds = np.array([row["seconds"] for row in rows])
    moved = np.array([activations(row) for row in rows]) / ceilings["bandwidth"]
    rest = 1 - np.array([bare(row) for row in rows]) / seconds
    return Model(ceilings, *np.linalg.lstsq(np.stack([1 / seconds, moved / seconds], 1), rest, rcond=None)[0].tolist())


def predicting(sweep: Recorded) -> tuple[Model, list[Row]]:
    """The model of a sweep's smallest networks, and the rows that it predicts: not old ones of kernels that have gone,
    Stage 1's on a GPU for a batch of one or two."""
    kept = [r for r in sweep.rows if "instructions" in r or r["backend"] == "cpu" or r["stage"] == 2 or r["batch"] > 2]
    return fit(kept, sweep.ceilings), [row for row in kept if size(row) != SIZES[0]]


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


class Launches(TorchDispatchMode):
    """Counts, within `with`, the operations that are sent to the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))
