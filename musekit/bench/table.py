"""One schema for the rows of all comparisons, and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from musekit.bench.measure import Row, median

COLUMNS = (
    "peer", "stage", "parameters", "batch", "dtype", "solver", "steps", "nfe", "backend", "seconds", "least", "most",
    "runs", "ms_a_sample", "throughput", "speedup", "efficiency", "flops", "bytes", "bandwidth_share", "matrix_share",
    "floor_share", "before_bytes", "peak_bytes", "merged", "frames", "bar", "met",
)  # fmt: skip
"""peer: which implementation. seconds: of the call, the median; ms_a_sample: the same a sample. throughput: samples a
second. speedup: over the row's baseline. efficiency: one sample's time over this batch's. shares: of the measured
ceilings. What a bench does not tell is None."""


def compared(
    peer: str,
    stage: int,
    network: nn.Module,
    batch: int,
    dtype: torch.dtype,
    times: Sequence[float],
    base: float | None,
) -> Row:
    """One implementation's times at one batch size; base: seconds of what it is compared with."""
    seconds = median(times)
    return dict.fromkeys(COLUMNS) | {
        "peer": peer,
        "stage": stage,
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "backend": next(network.parameters()).device.type,
        "seconds": seconds,
        "least": min(times),
        "most": max(times),
        "runs": len(times),
        "ms_a_sample": 1000 * seconds / batch,
        "throughput": batch / seconds,
        "speedup": None if base is None else base / seconds,
    }


def line(row: Row) -> str:
    """A row as one line of a terminal."""
    if "what" in row and row.get("peak_bytes"):
        return f"{row['what']:58s} {row['value']:6g} {row['unit']} {row['peak_bytes'] / 2**30:10.2f} GiB at most"
    if "what" in row:
        return f"{row['what']:58s} {row['value']:10.3g} {row['unit']}"
    if "ranks" in row:
        return f"{row['ranks']} rank(s) {1000 * row['seconds']:10.1f} ms a step, efficiency {row['efficiency']:.2f}"
    parts = [
        f"stage {row['stage']}" if row["stage"] else "",
        str(row["peer"]),
        f"batch {row['batch']}",
        str(row["dtype"]),
    ]
    parts += [str(row["solver"])] if row["solver"] else []
    told = f"{', '.join(p for p in parts if p):70s} {row['ms_a_sample']:10.1f} ms a sample"
    told += f" {row['speedup']:6.2f} x" if row["speedup"] else ""
    return told + (f" {100 * row['floor_share']:4.0f} % of the floor's speed" if row["floor_share"] else "")
