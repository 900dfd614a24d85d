"""`musekit bench train`: an optimizer step of both stages at full size, and how much of the GPU it uses.

bfloat16 autocast, fused AdamW and gradient clipping as in `musekit train`, on random batches, without data loading and
moving average. MFU = the model's operations per second / the measured dense rate; recomputation does not count.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from musekit.bench import networks
from musekit.bench.measure import Row, Setup, median, peak_bytes, timed
from musekit.config import TrainConfig
from musekit.train.loop import change_blocks, parameter_groups

FRAMES = 256
BAR = 0.45  # MFU that the best of Stage 2's rows is to reach
CASES = {  # {stage: (samples per step, options of `TrainConfig`)}
    1: ((256, ()), (1024, ()), (1024, ("compile",))),
    2: ((8, ()), (32, ("recompute",)), (32, ()), (64, ("compile",))),
}
SUFFIX = {"recompute": ", recomputed", "compile": ", compiled"}


def train(setup: Setup) -> Iterator[Row]:
    """A row per stage, batch and options: seconds per step, samples per second, MFU, memory."""
    for stage, cases in CASES.items():
        for batch, options in cases[:2] if setup.quick else cases:
            try:
                yield step(stage, 2 if setup.quick else batch, options, setup)
            except torch.OutOfMemoryError as error:
                print(f"left out: Stage {stage}, batch {batch}: {str(error).splitlines()[0]}")
            gc.collect()
            if setup.device.type == "cuda":
                torch.cuda.empty_cache()


def step(stage: int, batch: int, options: tuple[str, ...], setup) -> Row:
    """One row."""
    device = setup.device
    if stage == 1:
        network = networks.stage1(networks.stage1_config("271M", setup.quick), device)
        inputs = networks.training_batch(network.config, batch, device)
    else:
        network = networks.stage2(networks.stage2_config("1.05B", setup.quick), device)
        inputs = networks.training_batch(network.config, batch, device, 16 if setup.quick else FRAMES)
    network.train().requires_grad_(True)
    work = training_flops(network, inputs)
    change_blocks(network, TrainConfig(**dict.fromkeys(options, True)))
    optimizer = torch.optim.AdamW(parameter_groups(network, 0.01), lr=1e-5, fused=True)

    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value, _ = network.training_loss(inputs)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = timed(call, device, 2 if setup.quick else 8)
    seconds, what = median(times), f"Stage {stage}, a training step of {batch}{''.join(SUFFIX[o] for o in options)}"
    row = {"what": what, "value": seconds, "unit": "s", "stage": stage, "batch": batch, "dtype": "bfloat16"}
    row |= {option: option in options for option in SUFFIX} | {"runs": len(times)}
    row |= {"least": min(times), "most": max(times), "throughput": batch / seconds, "flops": work}
    row |= {"mfu": work / seconds / setup.ceilings["bfloat16"], "parameters": networks.parameters(network)}
    return row | peak_bytes(call, device)


def training_flops(network: nn.Module, batch: dict) -> int:
    """FLOPs of a forward and a backward pass: three times the matrix products of the forward pass on fake tensors."""
    with (
        torch.no_grad(),
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        sdpa_kernel(SDPBackend.MATH),  # the counter does not know the CPU's flash attention
        FlopCounterMode(display=False) as counter,
    ):
        network.training_loss({k: fake.from_tensor(v) for k, v in batch.items()})
    return 3 * counter.get_total_flops()
