"""`musekit bench`: time, throughput and memory, and how near they come to the limits of the machine.

A result's name ends in -gpu.json on a machine with a GPU. Nothing else should run meanwhile; the load at the start is
recorded.
"""

import importlib
import os
from pathlib import Path

import torch

from musekit import distributed
from musekit.bench.measure import Row, Setup, file_name, instructions
from musekit.config import MuseError, suggest
from musekit.results import write_result

BENCHES = {  # name: (module.function, whether it needs the measured ceilings, what it times)
    "end-to-end": ("end_to_end.end_to_end", False, "from text to sound with the trained preset"),
    "stage1": ("stages.stage1", True, "full size, a whole sample beside the naive design"),
    "stage2": ("stages.stage2", True, "full size, a step beside diffusers' own transformer"),
    "full": ("end_to_end.full", False, "full size, 1 and 16 pieces from token ids to sound"),
    "train": ("train.train", True, "full size, an optimizer step of both stages"),
    "paper": ("paper.paper", True, "full size, training and sampling by the preset's own defaults, in a time budget"),
    "sizes": ("stages.sizes", True, "50M to 1.05B: what decides how much a batch gains"),
    "checkpoint": ("train.checkpoint", False, "how long a checkpoint holds training up"),
    "lab": ("lab.lab", False, "waits and memory in the lab, beside another checkout's if one is given"),
    "ddp": ("train.ddp", False, "data-parallel training on the ranks of this machine"),
}

READS_WEIGHTS = ("end-to-end", "lab")


def bench(
    what: str, weights: str | None, results: Path, quick: bool = False, budget: float = float("inf"),
    against: Path | None = None,
) -> list[Row]:  # fmt: skip
    """Measure, print and write one result file; returns its rows. Raises MuseError on a bad name, weights or folder.

    quick: tiny networks and single runs, to see that everything runs; its numbers mean nothing, and the file says so.
    budget: seconds, for `paper`. against: a checkout, for `lab`. The file is written after each row: a bench that is
    stopped loses none.
    """
    if what.startswith("ddp-rank-"):  # started by `ddp` in other processes
        from musekit.bench import train

        train.rank(results, quick, strong=what.endswith("strong"))
        return []
    if what not in BENCHES:
        raise suggest(what, BENCHES, "bench")
    if weights is not None and what not in READS_WEIGHTS:
        raise MuseError(f"`bench {what}` reads no weights: leave --weights out, or take `bench end-to-end`")
    place, needs_ceilings, _ = BENCHES[what]
    setup = Setup(distributed.device(), quick, budget, weights or "mini", against=against)
    on_gpu = setup.device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    about = {"load": os.getloadavg()[0], "device": name, "threads": torch.get_num_threads()}
    if what in READS_WEIGHTS:
        from musekit.muse import Muse

        setup.muse = muse = Muse.from_pretrained(setup.weights)
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
    module, function = place.split(".")
    rows, ran = [], {"dtype": about.get("dtype", "float32"), "instructions": instructions(setup.device)}
    path = None
    for row in getattr(importlib.import_module(f"musekit.bench.{module}"), function)(setup):
        row = {"steps": None, "nfe": None, **ran, **row, "load": os.getloadavg()[0]}
        rows.append(row | {"bar": None, "met": None} if quick else row)
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items() if v is not None and k not in ran}
        print(*(f"{k} {v}" for k, v in shown.items()), sep=", ", flush=True)
        path = write_result(file_name(what, on_gpu), rows, results, f"musekit.bench.{module}", **about)
    print(f"written: {path}")
    return rows
