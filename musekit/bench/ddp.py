"""`musekit bench ddp`: data-parallel training measured on this machine's ranks.

Steps of a network of Stage 1's design on random batches, one and two ranks of one thread each with a fixed batch per
rank (weak scaling), and the time of one all-reduce of its gradients.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from musekit import distributed
from musekit.bench import networks
from musekit.bench.measure import Row, Setup, median, timed
from musekit.files import write_atomic

BATCH, STEPS = 64, 12  # samples per rank and step; timed steps


def ddp(setup: Setup) -> Iterator[Row]:
    """A row per number of ranks: seconds per step and per all-reduce, samples per second, efficiency."""
    devices, alone = torch.cuda.device_count(), None
    for n in [n for n in (1, 2, 4, 8) if n <= devices] if devices else (1, 2):
        row = launched(n, setup.quick)
        alone = alone or row["throughput"]
        yield row | {"efficiency": row["throughput"] / (n * alone)}


def launched(ranks: int, quick: bool) -> Row:
    """One measurement in new processes, through the launcher that training uses."""
    from musekit.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        words = ["bench", "ddp-rank", "--results", str(out)] + (["--quick"] if quick else [])
        launch(words, ranks, on_line=lambda line: None)
        return json.loads(out.read_text())


def rank(out: Path, quick: bool) -> None:
    """The work of one rank; rank 0 writes the row to `out`."""
    torch.set_num_threads(1)  # one core per rank: a single rank must not use both
    config = networks.stage1_config("50M", quick)
    steps, device = 2 if quick else STEPS, distributed.device()
    with distributed.process_group():
        network = networks.stage1(config, device).train().requires_grad_(True)
        wrapped = distributed.wrap(network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        batch = networks.training_batch(config, 4 if quick else BATCH, device)

        def step() -> None:
            wrapped(batch)[0].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step()
        times, summed = timed(step, device, steps), [0.0]
        if distributed.world() > 1:  # one all-reduce of all gradients, with nothing else running
            flat = torch.zeros(networks.parameters(network), device=device)
            summed = timed(lambda: torch.distributed.all_reduce(flat), device)
    if distributed.rank() == 0:
        seconds, size = median(times), len(batch["t"]) * distributed.world()
        row = {"ranks": distributed.world(), "backend": device.type, "batch": size, "seconds": seconds, "runs": steps}
        row |= {"least": min(times), "most": max(times), "throughput": size / seconds}
        row |= {"sum_seconds": median(summed), "parameters": networks.parameters(network), "dtype": "float32"}
        write_atomic(out, json.dumps(row))
