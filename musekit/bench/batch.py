"""`musekit bench batch` and `sizes`: what a batch gains.

batch: the original's tables on this machine. Full-size Stage 1, a whole sample of 50 guided Euler steps. Full-size
Stage 2, one guided step of 256 frames (a sample takes 100). The mini preset, 16 pieces one by one and in micro-batches.

sizes: does a model's size decide the gain? One guided evaluation of Stage 1's design (one token per sample) and of
Stage 2's (129 tokens per sample), at four sizes each.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from musekit.bench import networks, stage1, stage2
from musekit.bench.measure import RUNS, Peer, Row, compare, compared, interleaved, over_one, peak_bytes
from musekit.distributed import fast_precision
from musekit.muse import Muse, Settings
from musekit.stage1 import Stage1Inference
from musekit.stage2 import Stage2Inference

BATCHES = {1: (1, 4, 8, 16, 32), 2: (1, 4, 16)}
PIECES, MICRO_BATCHES = 16, (1, 4, 16)
SIZES_FRAMES = 128
SIZES_BATCHES = {
    "cpu": {1: (1, 2, 4, 8, 16, 32), 2: (1, 2, 4)},
    "cuda": {1: (1, 2, 4, 8, 16, 32, 64, 128, 256), 2: (1, 2, 4, 8, 16, 32)},
}


def batch(setup) -> Iterator[Row]:
    """Rows of Stage 1 in both precisions, of Stage 2 in bfloat16, and of the loaded preset."""
    rows = []
    for stage, sizes in BATCHES.items():
        if stage == 1:
            steps, frames, peers = 2 if setup.quick else stage1.STEPS, None, prepared(1, "271M", stage1.DTYPES, setup)
        else:
            steps, frames = 1, 16 if setup.quick else stage2.FRAMES
            peers = prepared(2, "1.05B", (torch.bfloat16,), setup, frames)
        for size in sizes[:2] if setup.quick else sizes:
            runs = 1 if setup.quick or (stage == 2 and size > 4) else RUNS
            for row in compare(peers(size), stage, size, setup.device, runs, setup.ceilings, steps):
                rows.append(over_one(row | {"frames": frames}, rows))
                yield rows[-1]
        del peers
        gc.collect()
    if setup.muse is not None:
        yield from pieces(setup.muse, setup.quick)


def prepared(stage: int, size: str, dtypes, setup, frames: int | None = None, whole: bool = True):
    """A function of the batch size that gives the peers of a stage's design; whole: of samples, not of evaluations."""
    if stage == 1:
        network = networks.stage1(networks.stage1_config(size, setup.quick), setup.device)
        fast = [Stage1Inference(network, dtype) for dtype in dtypes]
        return lambda n: [stage1.prepared_peer(network, f, n, setup.device, whole) for f in fast]
    network = networks.stage2(networks.stage2_config(size, setup.quick), setup.device)
    fast = [Stage2Inference(network, dtype) for dtype in dtypes]

    def peers(n: int) -> list[Peer]:
        x = torch.randn(n, network.config.latent_dim, frames, device=setup.device)
        return [stage2.prepared_peer(network, f, x) for f in fast]

    return peers


def pieces(muse: Muse, quick: bool) -> Iterator[Row]:
    """Pieces from text to sound by the preset's own defaults, in growing micro-batches."""
    seconds, count, rows = (0.5, 2, []) if quick else (muse.config.sample.seconds, PIECES, [])
    defaults = muse.config.sample
    for size in MICRO_BATCHES[:1] if quick else MICRO_BATCHES:

        def make(n: int, size: int = size) -> None:
            settings = Settings(seconds=seconds, micro_batch=size)
            for _ in muse.stream(muse.recipe("a sad piano melody", seed, settings) for seed in range(n)):
                pass

        make(size)
        times = interleaved({"": lambda make=make: make(count)}, muse.device, 1, warm=False)[""]
        row = compared(f"{muse.config.name}, text to sound", 0, muse.stage2, size, muse.autocast_dtype, times, None)
        row |= {"ms_a_sample": 1000 * times[0] / count, "throughput": count / times[0], "pieces": count}
        row |= {"solver": defaults.stage2_solver, "steps": defaults.stage2_steps}
        row |= {"real_time": count * seconds / times[0]}
        if not quick and muse.device.type == "cpu":
            row |= {"bar": ">= 3 x real time", "met": row["real_time"] >= 3}
        rows.append(over_one(row | peak_bytes(lambda make=make, size=size: make(size), muse.device), rows))
        yield rows[-1]


def sizes(setup) -> Iterator[Row]:
    """A row per design, size and batch, in the precision that the device is fast in."""
    device, dtypes, rows = setup.device, (fast_precision(setup.device),), []
    runs = 1 if setup.quick else RUNS if device.type == "cpu" else 5 * RUNS
    for stage, size in ((stage, size) for stage in (1, 2) for size in networks.SIZES):
        frames = None if stage == 1 else 8 if setup.quick else SIZES_FRAMES
        peers, batches = prepared(stage, size, dtypes, setup, frames, whole=False), SIZES_BATCHES[device.type][stage]
        for n in batches[:2] if setup.quick else batches:
            (row,) = compare(peers(n), stage, n, device, runs, setup.ceilings)
            rows.append(over_one(row | {"peer": f"stage {stage}'s design, {size}", "frames": frames}, rows))
            yield rows[-1]
        del peers
        gc.collect()
