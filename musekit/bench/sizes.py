"""`musekit bench sizes`: does a model's size decide how much a batch gains?

One evaluation (guided, two rows a sample) of Stage 1's design, one token a sample, and of Stage 2's, 129 tokens a
sample, at four sizes each and growing batches.
"""

from __future__ import annotations

import gc

import torch

from musekit.bench import networks
from musekit.bench.measure import Row, timed
from musekit.bench.roofline import stage1_work, stage2_work
from musekit.bench.stage1 import SCALE, TOKENS, shares
from musekit.bench.table import compared
from musekit.stage1 import GuidedStage1, Stage1Inference
from musekit.stage2 import GuidedStage2, Stage2Inference
from musekit.system import fast_precision

FRAMES = 128
BATCHES = {1: (1, 2, 4, 8, 16, 32), 2: (1, 2, 4)}
BATCHES_GPU = {1: (1, 2, 4, 8, 16, 32, 64, 128, 256), 2: (1, 2, 4, 8, 16, 32)}
RUNS = 3


def sizes(device: torch.device, ceilings: dict, quick: bool = False) -> list[Row]:
    """A row a stage's design, size and batch, in the precision that the device is fast in."""
    dtype, rows, batches = fast_precision(device), [], BATCHES if device.type == "cpu" else BATCHES_GPU
    for stage, size in ((stage, size) for stage in (1, 2) for size in networks.SIZES):
        evaluation = (one_token if stage == 1 else many_tokens)(size, device, dtype, quick)
        with torch.inference_mode():
            frames = None if stage == 1 else 8 if quick else FRAMES
            for batch in batches[stage][:2] if quick else batches[stage]:
                call, network, work = evaluation(batch)
                times = timed(call, device, 1 if quick else RUNS if device.type == "cpu" else 5 * RUNS)
                row = compared(f"stage {stage}'s design, {size}", stage, network, batch, dtype, times, None)
                row |= {"steps": 1, "nfe": 1, "frames": frames}
                rows.append(row | shares(work, 1, times, ceilings, dtype))
                alone = next(r for r in rows if r["peer"] == row["peer"])
                rows[-1] |= {"efficiency": alone["seconds"] / row["seconds"]}
                rows[-1] |= {"speedup": alone["ms_a_sample"] / row["ms_a_sample"]}  # over one by one
        del evaluation, call, network
        gc.collect()
    return rows


def one_token(size: str, device, dtype, quick: bool):
    """Stage 1's design: batch -> (call, network, work)."""
    config = networks.stage1_config(size, quick)
    network = networks.stage1(config, device)
    fast = Stage1Inference(network, dtype)

    def evaluation(batch: int):
        text = fast.text(*networks.prompt(config, batch, TOKENS, device))
        velocity, x = GuidedStage1(fast, text, SCALE), torch.randn(batch, config.dim, device=device)
        moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
        return lambda: velocity(moment, x), network, stage1_work(config, batch, TOKENS, dtype, text.merged)

    return evaluation


def many_tokens(size: str, device, dtype, quick: bool):
    """Stage 2's design, likewise."""
    config, frames = networks.stage2_config(size, quick), 8 if quick else FRAMES
    network = networks.stage2(config, device)
    fast = Stage2Inference(network, dtype)

    def evaluation(batch: int):
        velocity = GuidedStage2(fast, networks.condition(network, batch), SCALE)
        x = torch.randn(batch, config.latent_dim, frames, device=device)
        moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
        return lambda: velocity(moment, x), network, stage2_work(config, batch, frames, dtype)

    return evaluation
