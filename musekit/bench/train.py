"""`musekit bench train`: an optimizer step of both stages at full size, and how much of the GPU it uses.

bfloat16 autocast, fused AdamW, gradients clipped, as `musekit train` does it, on made-up batches: no feed, no moving
average. MFU = operations that the model needs a second / the measured dense rate; what is computed again to save
memory does not count.
"""

from __future__ import annotations

import gc

import torch
from torch import nn

from musekit.bench import networks
from musekit.bench.ddp import made_up
from musekit.bench.measure import Row, median, peak_bytes, timed
from musekit.train import parameter_groups, recompute
from musekit.train.flops import TrainingFlops

FRAMES = 256
BATCHES = {1: (256, 1024), 2: (8, 32)}


def train(device: torch.device, ceilings: dict, quick: bool = False) -> list[Row]:
    """A row a stage, batch and whether activations are kept: seconds a step, samples a second, MFU, memory."""
    rows = []
    for stage, batches in BATCHES.items():
        for batch, again in ((batches[0], False), (batches[1], stage == 2)):
            rows.append(step(stage, 2 if quick else batch, again, device, ceilings, quick))
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def step(stage: int, batch: int, again: bool, device, ceilings: dict, quick: bool) -> Row:
    """One row; again: activations are computed again in the backward pass."""
    if stage == 1:
        network = networks.stage1(networks.stage1_config("271M", quick), device)
        made = made_up(network.config, batch, device)
    else:
        network = networks.stage2(networks.stage2_config("1.05B", quick), device)
        made = made_up_latents(network.config, batch, 16 if quick else FRAMES, device)
    network.train().requires_grad_(True)
    work = TrainingFlops(network)(made)
    if again:
        recompute(network)
    optimizer = torch.optim.AdamW(parameter_groups(network, 0.01), lr=1e-5, fused=True)

    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value, _ = network.training_loss(made)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = timed(call, device, 2 if quick else 8)
    peak, seconds = peak_bytes(call, device), median(times)
    row = {"what": f"Stage {stage}, a training step of {batch}{', recomputed' if again else ''}", "value": seconds}
    row |= {"unit": "s", "stage": stage, "batch": batch, "recompute": again, "runs": len(times)}
    row |= {"least": min(times), "most": max(times), "throughput": batch / seconds, "flops": work}
    row |= {"mfu": work / seconds / ceilings["bfloat16"], "parameters": networks.parameters(network)}
    return row | {"before_bytes": peak and peak[0], "peak_bytes": peak and peak[1]}


def made_up_latents(config, batch: int, frames: int, device) -> dict:
    """A training batch of Stage 2 of random numbers."""
    x = torch.randn(2, batch, config.latent_dim, frames, device=device)
    return {
        "x_0": x[0],
        "x_1": x[1],
        "t": torch.rand(batch, device=device),
        "mask": torch.ones(batch, frames, dtype=torch.bool, device=device),
        "embedding": nn.functional.normalize(torch.randn(batch, config.embedding_dim, device=device), dim=-1),
        "seconds": torch.tensor([[0.0, 12.0]], device=device).expand(batch, 2),
        "keep": torch.ones(batch, dtype=torch.bool, device=device),
    }
