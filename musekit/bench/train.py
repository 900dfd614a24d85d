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
from musekit.train.flops import TrainingFlops
from musekit.train.loop import compile_blocks, parameter_groups, recompute

FRAMES = 256
BAR = 0.45  # MFU that the best of Stage 2's rows is to reach
# samples a step, and what else is asked of `musekit train`
CASES = {
    1: ((256, ()), (1024, ()), (1024, ("compile",))),
    2: ((8, ()), (32, ("recompute",)), (32, ()), (64, ("compile",))),
}
TOLD = {"recompute": ", recomputed", "compile": ", compiled"}


def train(device: torch.device, ceilings: dict, quick: bool = False) -> list[Row]:
    """A row a stage, batch and options: seconds a step, samples a second, MFU, memory. What has no room is told."""
    rows = []
    for stage, cases in CASES.items():
        for batch, options in cases[:2] if quick else cases:
            try:
                rows.append(step(stage, 2 if quick else batch, options, device, ceilings, quick))
            except torch.OutOfMemoryError as error:
                print(f"left out: {name(stage, batch, options)}: {str(error).splitlines()[0]}")
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def name(stage: int, batch: int, options: tuple[str, ...]) -> str:
    """What a row measures."""
    return f"Stage {stage}, a training step of {batch}{''.join(TOLD[o] for o in options)}"


def step(stage: int, batch: int, options: tuple[str, ...], device, ceilings: dict, quick: bool) -> Row:
    """One row; options: of `TrainConfig`, recompute and compile."""
    if stage == 1:
        network = networks.stage1(networks.stage1_config("271M", quick), device)
        made = made_up(network.config, batch, device)
    else:
        network = networks.stage2(networks.stage2_config("1.05B", quick), device)
        made = made_up_latents(network.config, batch, 16 if quick else FRAMES, device)
    network.train().requires_grad_(True)
    work = TrainingFlops(network)(made)
    if "compile" in options:
        compile_blocks(network)
    if "recompute" in options:
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
    row = {"what": name(stage, batch, options), "value": seconds, "unit": "s", "stage": stage, "batch": batch}
    row |= {option: option in options for option in TOLD} | {"runs": len(times)}
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
