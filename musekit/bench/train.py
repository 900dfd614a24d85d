"""`musekit bench train` and `ddp`: optimizer steps on random batches.

train   steps of `musekit train` (`train.loop.Training`, moving average included) without data loading, both stages at
        full size. MFU = the model's operations per second / the measured dense rate; recomputation does not count.
ddp     a network of Stage 1's design on the ranks of this machine, one thread each, with a fixed batch per rank (weak
        scaling) or in total (strong), and the time of one all-reduce of its gradients. Beside it the prediction: what
        one rank takes for a rank's share, and the all-reduce. Without GPUs: CUDA_VISIBLE_DEVICES= musekit bench ddp
checkpoint  how long training stands still for a checkpoint of a full-size stage (Stage 2 on a GPU, Stage 1 on a CPU),
        and how long the copy is written meanwhile
"""

import gc
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from musekit import distributed
from musekit.bench import networks
from musekit.bench.measure import Row, Setup, median, now, peak_bytes, timed
from musekit.config import TrainConfig, train_config
from musekit.files import write_atomic
from musekit.runs import Run
from musekit.train.loop import Training, host_copy

FRAMES = 256
BAR = 0.45  # MFU that the best of Stage 2's rows is to reach
CASES = {  # {stage: (samples per step, options of `TrainConfig`)}
    1: ((256, ()), (1024, ()), (1024, ("compile",))),
    2: ((8, ()), (32, ("recompute",)), (32, ()), (32, ("compile",)), (64, ("compile",))),
}
STEPS = 4  # timed together, since the host runs ahead of a GPU
STILL = 0.02  # of the time, at most, for which checkpoints may hold training up
SUFFIX = {"recompute": ", recomputed", "compile": ", compiled"}
RANK_BATCH, RANK_STEPS = 64, 12  # of `ddp`: samples per rank and step; timed steps


def train(setup: Setup) -> Iterator[Row]:
    """A row per stage, batch and options: seconds per step, samples per second, MFU, memory."""
    for stage, cases in CASES.items():
        for batch, options in cases[:2] if setup.quick else cases:
            try:
                yield step(stage, 2 if setup.quick else batch, options, setup)
            except torch.OutOfMemoryError as error:
                print(f"left out: Stage {stage}, batch {batch}: {str(error).splitlines()[0]}")
            free_memory(setup.device)


def free_memory(device: torch.device) -> None:
    """Give back what the last row has left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def step(stage: int, batch: int, options: tuple[str, ...], setup) -> Row:
    """One row of `train`."""
    device = setup.device
    network = networks.of_size(stage, "271M" if stage == 1 else "1.05B", setup.quick, device)
    frames = None if stage == 1 else 16 if setup.quick else FRAMES
    inputs = networks.training_batch(network.config, batch, device, frames)
    network.train().requires_grad_(True)
    work, chosen = training_flops(network, inputs), {option: option in options for option in SUFFIX}
    settings = replace(train_config("paper", f"stage{stage}"), batch=batch, micro_batch=batch, **chosen)
    training, steps = Training(network, settings), 1 if setup.quick else STEPS

    def call() -> None:
        for _ in range(steps):
            training.step(inputs)

    times = [t / steps for t in timed(call, device, 2 if setup.quick else 3)]
    seconds, what = median(times), f"Stage {stage}, a training step of {batch}{''.join(SUFFIX[o] for o in options)}"
    row = {"what": what, "value": seconds, "unit": "s", "stage": stage, "batch": batch, "dtype": "bfloat16"}
    row |= {**chosen, "runs": len(times), "steps_a_run": steps}
    row |= {"least": min(times), "most": max(times), "throughput": batch / seconds, "flops": work}
    row |= {"mfu": work / seconds / setup.ceilings["bfloat16"], "parameters": networks.parameters(network)}
    return row | peak_bytes(call, device)


def ddp(setup: Setup) -> Iterator[Row]:
    """A row per kind of scaling and number of ranks: seconds per step and per all-reduce, samples per second,
    efficiency, share of the communication, and the predicted seconds."""
    from musekit.launch import launch

    most = 2 if setup.quick else torch.cuda.device_count() or max(2, os.cpu_count() or 1)
    counts, alone = [n for n in (1, 2, 4, 8, 16) if n <= most], {}
    for kind, n in [("weak", n) for n in counts] + [("strong", n) for n in counts[1:]]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "row.json"
            words = ["bench", f"ddp-rank-{kind}", "--results", str(out)] + (["--quick"] if setup.quick else [])
            launch(words, n, on_line=lambda line: None)  # the launcher that training uses
            row = json.loads(out.read_text())
        alone = alone or row
        row |= {"efficiency": row["throughput"] / (n * alone["throughput"]), "scaling": kind}
        row |= {"share": row["sum_seconds"] / row["seconds"]}
        yield row | {"predicted": alone["seconds"] / (n if kind == "strong" else 1) + row["sum_seconds"]}


def checkpoint(setup: Setup) -> Iterator[Row]:
    """Seconds for which training stands still, as a share of the preset's interval; steps while the file is written."""
    stage, size = (2, "1.05B") if setup.device.type == "cuda" else (1, "271M")
    network = networks.of_size(stage, size, setup.quick, setup.device).train().requires_grad_(True)
    inputs = networks.training_batch(network.config, 4, setup.device, None if stage == 1 else 16)
    settings = replace(train_config("paper", f"stage{stage}"), batch=4, micro_batch=4, compile=False)
    training = Training(network, settings)
    alone = median(timed(lambda: training.step(inputs), setup.device, 2 if setup.quick else 5))
    times, meanwhile, last = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as writer:
        for number in range(2 if setup.quick else 3):
            began = now(setup.device)
            copy = host_copy(training.state_dict())
            times.append((last := now(setup.device)) - began)
            writing = writer.submit(Run(Path(folder)).save, number, copy)
            while not writing.done():
                began = now(setup.device)
                training.step(inputs)
                meanwhile.append(now(setup.device) - began)
            written, last = writing.result().stat().st_size, now(setup.device) - last
    share = max(times) / (60 * settings.checkpoint_minutes)
    row = {"what": f"Stage {stage}, a checkpoint: training stands still", "value": median(times), "unit": "s"}
    row |= {"least": min(times), "most": max(times), "runs": len(times), "parameters": networks.parameters(network)}
    row |= {"bytes": written, "write_seconds": last, "step": alone, "step_meanwhile": median(meanwhile or [alone])}
    yield row | {"share": share, "dtype": "float32", "bar": "<= 2 % of the time", "met": share <= STILL}


def rank(out: Path, quick: bool, strong: bool) -> None:
    """The work of one rank of `ddp`; rank 0 writes the row to `out`."""
    torch.set_num_threads(1)  # one core per rank: a single rank must not use both
    config, steps, device = networks.stage1_config("50M", quick), 2 if quick else RANK_STEPS, distributed.device()
    with distributed.process_group():
        network = networks.stage1(config, device).requires_grad_(True)
        own = (4 if quick else RANK_BATCH) // (distributed.world() if strong else 1)
        batch = networks.training_batch(config, own, device)
        size = len(batch["t"]) * distributed.world()
        training = Training(network, TrainConfig(batch=size, micro_batch=len(batch["t"]), lr=1e-4, bf16=False))
        times, summed = timed(lambda: training.step(batch), device, steps), [0.0]
        if distributed.world() > 1:  # one all-reduce of all gradients, with nothing else running
            flat = torch.zeros(networks.parameters(network), device=device)
            summed = timed(lambda: torch.distributed.all_reduce(flat), device)
    if distributed.rank() == 0:
        seconds = median(times)
        row = {"ranks": distributed.world(), "backend": device.type, "batch": size, "seconds": seconds, "runs": steps}
        row |= {"least": min(times), "most": max(times), "throughput": size / seconds}
        row |= {"sum_seconds": median(summed), "parameters": networks.parameters(network), "dtype": "float32"}
        write_atomic(out, json.dumps(row))


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
