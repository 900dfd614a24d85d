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
from musekit.bench.roofline import stage1_work
from musekit.muse import Muse, Settings
from musekit.stage1 import GuidedStage1, Stage1Inference
from musekit.stage2 import Stage2Inference
from musekit.system import fast_precision

BATCHES = {1: (1, 4, 8, 16, 32), 2: (1, 4, 16)}
PIECES, MICRO_BATCHES = 16, (1, 4, 16)
SIZES_FRAMES = 128
SIZES_BATCHES = {
    "cpu": {1: (1, 2, 4, 8, 16, 32), 2: (1, 2, 4)},
    "cuda": {1: (1, 2, 4, 8, 16, 32, 64, 128, 256), 2: (1, 2, 4, 8, 16, 32)},
}


def batch(setup) -> Iterator[Row]:
    """Rows of Stage 1 in both precisions, of Stage 2 in bfloat16, and of the loaded preset."""
    device, rows, runs = setup.device, [], 1 if setup.quick else RUNS
    for stage, sizes in BATCHES.items():
        make = stage1_peers if stage == 1 else stage2_peers
        network, peers = make(setup)
        steps = 1 if stage == 2 else 2 if setup.quick else stage1.STEPS
        with torch.inference_mode():
            for size in sizes[:2] if setup.quick else sizes:
                few = 1 if stage == 2 and size > 4 else runs
                for row in compare(peers(size), stage, size, device, few, setup.ceilings, steps):
                    rows.append(over_one(row | {"frames": frames(setup) if stage == 2 else None}, rows))
                    yield rows[-1]
        del network, peers
        gc.collect()
    if setup.muse is not None:
        yield from pieces(setup.muse, setup.quick)


def frames(setup) -> int:
    """Latent frames of the step of Stage 2."""
    return 16 if setup.quick else stage2.FRAMES


def stage1_peers(setup):
    """The full-size network, and its prepared peers at a batch size."""
    network = networks.stage1(networks.stage1_config("271M", setup.quick), setup.device)
    fast = [Stage1Inference(network, dtype) for dtype in stage1.DTYPES]
    return network, lambda size: [stage1.prepared_peer(network, f, size, setup.device) for f in fast]


def stage2_peers(setup):
    """Likewise, in bfloat16."""
    network = networks.stage2(networks.stage2_config("1.05B", setup.quick), setup.device)
    fast = Stage2Inference(network, torch.bfloat16)

    def peers(size: int) -> list[Peer]:
        x = torch.randn(size, network.config.latent_dim, frames(setup), device=setup.device)
        return [stage2.prepared_peer(network, fast, x)]

    return network, peers


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
    device, dtype, rows = setup.device, fast_precision(setup.device), []
    runs = 1 if setup.quick else RUNS if device.type == "cpu" else 5 * RUNS
    for stage, size in ((stage, size) for stage in (1, 2) for size in networks.SIZES):
        evaluation = (stage1_evaluation if stage == 1 else stage2_evaluation)(size, device, dtype, setup.quick)
        batches = SIZES_BATCHES[device.type][stage]
        with torch.inference_mode():
            for n in batches[:2] if setup.quick else batches:
                (row,) = compare([evaluation(n)], stage, n, device, runs, setup.ceilings)
                about = {"peer": f"stage {stage}'s design, {size}", "frames": SIZES_FRAMES if stage == 2 else None}
                rows.append(over_one(row | about, rows))
                yield rows[-1]
        del evaluation
        gc.collect()


def stage1_evaluation(size: str, device, dtype, quick: bool):
    """Stage 1's design: batch -> a peer whose call is one evaluation; the text's projection is not timed."""
    network = networks.stage1(networks.stage1_config(size, quick), device)
    fast, config = Stage1Inference(network, dtype), network.config

    def evaluation(n: int) -> Peer:
        text = fast.text(*networks.prompt(config, n, stage1.TOKENS, device))
        velocity, x = GuidedStage1(fast, text, stage1.SCALE), torch.randn(n, config.dim, device=device)
        moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
        work = stage1_work(config, n, stage1.TOKENS, dtype, text.merged)
        return Peer("prepared", lambda steps: velocity(moment, x), network, dtype, work)

    return evaluation


def stage2_evaluation(size: str, device, dtype, quick: bool):
    """Stage 2's design, likewise."""
    network = networks.stage2(networks.stage2_config(size, quick), device)
    fast, length = Stage2Inference(network, dtype), 8 if quick else SIZES_FRAMES

    def evaluation(n: int) -> Peer:
        return stage2.prepared_peer(network, fast, torch.randn(n, network.config.latent_dim, length, device=device))

    return evaluation
