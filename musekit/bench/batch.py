"""`musekit bench batch`: the original's batch tables, on this machine.

Full-size Stage 1: a whole sample of 50 guided Euler steps. Full-size Stage 2: one guided step of 256 frames; a sample
is 100 of them. The mini preset: 16 pieces of 12 s, one by one and in micro-batches.
"""

from __future__ import annotations

import gc

import torch

from musekit.bench import networks
from musekit.bench.measure import Row, interleaved, peak_bytes, timed
from musekit.bench.naive import sample
from musekit.bench.roofline import stage1_work, stage2_work
from musekit.bench.stage1 import SCALE, STEPS, TOKENS, shares
from musekit.bench.stage2 import FRAMES
from musekit.bench.table import compared
from musekit.muse import Muse, Settings
from musekit.stage1 import GuidedStage1, Stage1Inference
from musekit.stage2 import GuidedStage2, Stage2Inference

BATCHES = {1: (1, 4, 8, 16, 32), 2: (1, 4, 16)}
PIECES, MICRO = 16, (1, 4, 16)


def batch(device: torch.device, ceilings: dict, quick: bool = False, muse: Muse | None = None) -> list[Row]:
    """All rows; muse: the loaded mini preset."""
    rows = stage1(device, ceilings, quick)
    gc.collect()
    rows += stage2(device, ceilings, quick)
    gc.collect()
    return rows + (pieces(muse, quick) if muse is not None else [])


def stage1(device, ceilings: dict, quick: bool) -> list[Row]:
    """float32 and bfloat16, in turn, at every batch size."""
    config, steps = networks.stage1_config("271M", quick), 2 if quick else STEPS
    network, rows = networks.stage1(config, device), []
    fast = {dtype: Stage1Inference(network, dtype) for dtype in (torch.float32, torch.bfloat16)}
    with torch.inference_mode():
        for size in BATCHES[1][:2] if quick else BATCHES[1]:
            tokens, mask = networks.prompt(config, size, TOKENS, device)
            x_0 = torch.randn(size, config.dim, device=device)

            def whole(dtype, n=steps, tokens=tokens, mask=mask, x_0=x_0):
                sample(GuidedStage1(fast[dtype], fast[dtype].text(tokens, mask), SCALE), x_0, steps=n)

            merged = fast[torch.float32].text(tokens, mask).merged
            for dtype in fast:
                whole(dtype, 1)
            times = interleaved({d: lambda d=d: whole(d) for d in fast}, device, 1 if quick else 3, warm=False)
            for dtype in fast:
                row = compared("prepared", 1, network, size, dtype, times[dtype], None)
                row |= {"solver": "euler", "steps": steps, "nfe": steps, "merged": merged}
                row |= shares(stage1_work(config, size, TOKENS, dtype, merged), steps, times[dtype], ceilings, dtype)
                rows.append(row | memory(lambda dtype=dtype: whole(dtype, 1), device))
    return over_one(rows)


def stage2(device, ceilings: dict, quick: bool) -> list[Row]:
    """One guided step in bfloat16 at every batch size."""
    config, frames, dtype = networks.stage2_config("1.05B", quick), 16 if quick else FRAMES, torch.bfloat16
    network, rows = networks.stage2(config, device), []
    fast = Stage2Inference(network, dtype)
    with torch.inference_mode():
        for size in BATCHES[2][:2] if quick else BATCHES[2]:
            velocity = GuidedStage2(fast, networks.condition(network, size), SCALE)
            moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
            x = torch.randn(size, config.latent_dim, frames, device=device)
            call = lambda velocity=velocity, moment=moment, x=x: velocity(moment, x)  # noqa: E731
            times = timed(call, device, 1 if quick else 3 if size < 16 else 1)
            row = compared("prepared", 2, network, size, dtype, times, None)
            row |= {"solver": "euler", "steps": 1, "nfe": 1, "frames": frames}
            row |= shares(stage2_work(config, size, frames, dtype), 1, times, ceilings, dtype)
            rows.append(row | memory(call, device))
    return over_one(rows)


def pieces(muse: Muse, quick: bool) -> list[Row]:
    """16 pieces from text to sound by the preset's own defaults, in micro-batches of 1, 4 and 16."""
    seconds, count, rows = (0.5, 2, []) if quick else (muse.config.sample.seconds, PIECES, [])
    for size in MICRO[:1] if quick else MICRO:

        def make(n: int, size: int = size) -> None:
            settings = Settings(seconds=seconds, micro_batch=size)
            for _ in muse.stream(muse.recipe("a sad piano melody", seed, settings) for seed in range(n)):
                pass

        make(size)
        times = interleaved({"": lambda make=make: make(count)}, muse.device, 1, warm=False)[""]
        row = compared(f"{muse.config.name}, text to sound", 0, muse.stage2, size, muse.autocast_dtype, times, None)
        row |= {"ms_a_sample": 1000 * times[0] / count, "throughput": count / times[0], "steps": count}
        row |= {"real_time": count * seconds / times[0], **memory(lambda make=make, size=size: make(size), muse.device)}
        if not quick and muse.device.type == "cpu":
            row |= {"bar": ">= 3 x real time", "met": row["real_time"] >= 3}
        rows.append(row)
    return over_one(rows)


def over_one(rows: list[Row]) -> list[Row]:
    """Speedup over one by one and parallel efficiency, of rows of the same precision."""
    for row in rows:
        alone = next(r for r in rows if r["dtype"] == row["dtype"])
        row["speedup"] = alone["ms_a_sample"] / row["ms_a_sample"]
        row["efficiency"] = row["speedup"] / (row["batch"] / alone["batch"])
    return rows


def memory(call, device) -> Row:
    """Bytes before the call and at its most."""
    peak = peak_bytes(call, device)
    return {"before_bytes": peak and peak[0], "peak_bytes": peak and peak[1]}
