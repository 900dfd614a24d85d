"""`musekit bench`: time, throughput, memory, and how near they are to what the machine can do at all.

    end-to-end   from text to sound with the trained preset                       results/bench.json
    stage1       full size, a whole sample beside the naive design                results/bench-stage1.json
    stage2       full size, a step beside diffusers' own transformer              results/bench-stage2.json
    piece        full size, a whole piece beside diffusers' loop and decoder       results/bench-piece.json
    full         full size, 16 pieces and one from token ids to sound              results/bench-full.json
    train        full size, an optimizer step of both stages                       results/bench-train.json
    batch        the original's batch tables; 16 pieces one by one and batched    results/bench-batch.json
    sizes        50M to 1.05B: what decides how much a batch gains                results/bench-sizes.json
    memory       against the number of pieces, the micro-batch and the length     results/bench-memory.json
    ddp          data-parallel training on the ranks of this machine              results/bench-ddp.json
    lab          does the latent lab answer at the pace of playing                results/bench-lab.json

On a machine with a GPU the names end in -gpu.json. Nothing else should run meanwhile; the load at the start is
written down.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from musekit import distributed
from musekit.bench.measure import RUNS, Row, circumstances, now, row
from musekit.bench.recorded import file_name
from musekit.bench.roofline import stage2_flops
from musekit.bench.table import line
from musekit.config import suggest
from musekit.results import write_result

__all__ = ["ALL", "RUNS", "Row", "bench", "now", "row", "stage2_flops"]
ALL = ("end-to-end", "stage1", "stage2", "piece", "full", "train", "batch", "sizes", "memory", "ddp", "lab")
READ = ("end-to-end", "batch", "memory", "lab")  # what reads weights; the rest times random ones of the full size


def bench(what: str, weights: str, results: Path, quick: bool = False, seconds: float | None = None) -> list[Row]:
    """Measure, print and write one result file; returns its rows. Raises MuseError on a bad name, weights or folder.

    quick: tiny networks and single runs, to see that everything runs; its numbers say nothing, and the file says so.
    """
    if what == "ddp-rank":  # what `ddp` starts in other processes
        from musekit.bench import ddp

        ddp.rank(results, quick)
        return []
    if what not in ALL:
        raise suggest(what, ALL, "bench")
    device, more = distributed.device(), circumstances(distributed.device())
    needs_muse, needs_ceilings = (
        what in READ and (weights != "none" or what in ("end-to-end", "lab")),
        what in ("stage1", "stage2", "piece", "train", "batch", "sizes"),
    )
    muse = None
    if needs_muse:
        from musekit.muse import Muse

        muse = Muse.from_pretrained(weights)
        more |= {"preset": muse.config.name, "weights": muse.weights, "dtype": str(muse.autocast_dtype)[6:]}
        if muse.config.name == "smoke":
            more["note"] = "smoke preset: random weights of a tiny network; these are not MUSE's speeds"
    ceilings = {}
    if needs_ceilings:
        from musekit.bench.roofline import ceilings as measured

        ceilings = more["ceilings"] = measured(device, quick)
        gc.collect()
        for name, value in ceilings.items():
            print(
                f"ceiling, {name}: {value / 1e9:,.1f} {'GFLOP/s' if name.endswith(('16', '32')) else 'GB/s'}",
                flush=True,
            )
    if quick:
        more["note"] = "quick: tiny networks and single runs, to see that everything runs; these are no speeds"
    rows = makers(weights, device, ceilings, quick, muse, seconds)[what]()
    for result in rows if what != "end-to-end" else ():
        if quick:
            result |= {"bar": None, "met": None}
        tell(result)
    print(f"written: {write_result(file_name(what, device.type == 'cuda'), rows, results, **more)}")
    return rows


def makers(weights, device, ceilings, quick, muse, seconds) -> dict[str, Callable[[], list[Row]]]:
    """What measures each; imported only when it is asked for."""

    def end_to_end():
        from musekit.bench import end_to_end

        length = seconds or (0.5 if quick else muse.config.sample.seconds)
        return end_to_end.end_to_end(weights, muse, length, tell, quick)

    def lab():
        from musekit.bench.lab import lab

        return lab(muse)

    def full(name: str, *arguments, **options):
        import importlib

        return getattr(importlib.import_module(f"musekit.bench.{name}"), name)(*arguments, **options)

    return {
        "end-to-end": end_to_end,
        "lab": lab,
        "stage1": lambda: full("stage1", device, ceilings, quick),
        "stage2": lambda: full("stage2", device, ceilings, quick),
        "piece": lambda: full("piece", device, ceilings, quick),
        "full": lambda: full("full", device, quick),
        "train": lambda: full("train", device, ceilings, quick),
        "batch": lambda: full("batch", device, ceilings, quick, muse),
        "sizes": lambda: full("sizes", device, ceilings, quick),
        "memory": lambda: full("memory", device, quick, muse),
        "ddp": lambda: full("ddp", quick),
    }


def tell(result: Row) -> None:
    """Print a row as soon as it is there."""
    print(line(result), flush=True)
