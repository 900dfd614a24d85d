"""`musekit bench`: time, throughput and memory, and how near they come to the limits of the machine.

A result's name ends in -gpu.json on a machine with a GPU. Nothing else should run meanwhile; the load at the start is
recorded.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from musekit import distributed
from musekit.bench.measure import RUNS, Row, file_name, line, now, row
from musekit.bench.roofline import stage2_flops
from musekit.config import suggest
from musekit.results import write_result

__all__ = ["BENCHES", "READ", "RUNS", "Row", "Setup", "bench", "now", "row", "stage2_flops"]
BENCHES = {  # name: (module.function, whether it needs the measured ceilings, what it times)
    "end-to-end": ("end_to_end.end_to_end", False, "from text to sound with the trained preset"),
    "stage1": ("stage1.stage1", True, "full size, a whole sample beside the naive design"),
    "stage2": ("stage2.stage2", True, "full size, a step beside diffusers' own transformer"),
    "full": ("end_to_end.full", False, "full size, 1 and 16 pieces from token ids to sound"),
    "train": ("train.train", True, "full size, an optimizer step of both stages"),
    "batch": ("batch.batch", True, "the original's batch tables; 16 pieces one by one and batched"),
    "sizes": ("batch.sizes", True, "50M to 1.05B: what decides how much a batch gains"),
    "memory": ("memory.memory", False, "peak memory against the number of pieces, the micro-batch and the length"),
    "ddp": ("ddp.ddp", False, "data-parallel training on the ranks of this machine"),
    "lab": ("lab.lab", False, "how fast the latent lab answers"),
}
READ = ("end-to-end", "batch", "memory", "lab")  # benches that read weights; the others time random weights


@dataclass
class Setup:
    """What a bench runs on. Every bench takes it and yields its rows."""

    device: torch.device
    quick: bool = False  # tiny networks and single runs
    weights: str = "mini"
    muse: object = None  # the loaded `Muse`, for benches that read weights
    ceilings: dict = field(default_factory=dict)  # measured by `roofline.ceilings`


def bench(what: str, weights: str, results: Path, quick: bool = False) -> list[Row]:
    """Measure, print and write one result file; returns its rows. Raises MuseError on a bad name, weights or folder.

    quick: tiny networks and single runs, to see that everything runs; its numbers mean nothing, and the file says so.
    """
    if what == "ddp-rank":  # started by `ddp` in other processes
        from musekit.bench import ddp

        ddp.rank(results, quick)
        return []
    if what not in BENCHES:
        raise suggest(what, BENCHES, "bench")
    place, needs_ceilings, _ = BENCHES[what]
    setup = Setup(distributed.device(), quick, weights)
    on_gpu = setup.device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    about = {"load": os.getloadavg()[0], "device": name, "threads": torch.get_num_threads()}
    if what in READ and (weights != "none" or what in ("end-to-end", "lab")):
        from musekit.muse import Muse

        setup.muse = muse = Muse.from_pretrained(weights)
        about |= {"preset": muse.config.name, "weights": muse.weights, "dtype": str(muse.autocast_dtype)[6:]}
        if muse.config.name == "smoke":
            about["note"] = "smoke preset: random weights of a tiny network; these are not MUSE's speeds"
    if needs_ceilings:
        from musekit.bench import roofline

        setup.ceilings = about["ceilings"] = roofline.ceilings(setup.device, quick)
        for name, value in setup.ceilings.items():
            unit = "GFLOP/s" if name.endswith(("16", "32")) else "GB/s"
            print(f"ceiling, {name}: {value / 1e9:,.1f} {unit}", flush=True)
    if quick:
        about["note"] = "quick: tiny networks and single runs, to see that everything runs; these are no speeds"
    rows = []
    for result in measured(place, setup):
        if quick:
            result |= {"bar": None, "met": None}
        rows.append(result)
        print(line(result), flush=True)
    print(f"written: {write_result(file_name(what, on_gpu), rows, results, **about)}")
    return rows


def measured(place: str, setup: Setup) -> Iterator[Row]:
    """Rows of the function "module.function" of this package; it is imported only when it is asked for."""
    module, function = place.split(".")
    return getattr(importlib.import_module(f"musekit.bench.{module}"), function)(setup)
