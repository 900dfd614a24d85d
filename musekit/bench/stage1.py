"""`musekit bench stage1`: a whole sample of full-size Stage 1 beside the naive design, same weights, same grid."""

from __future__ import annotations

import functools

import torch

from musekit.bench import networks
from musekit.bench.measure import RUNS, Row, interleaved, median, peak_bytes
from musekit.bench.naive import Naive1, sample
from musekit.bench.roofline import Work, naive1_work, stage1_work
from musekit.bench.table import compared
from musekit.stage1 import GuidedStage1, Stage1Inference

TOKENS, SCALE, STEPS = 16, 3.0, 50


def stage1(device: torch.device, ceilings: dict, quick: bool = False) -> list[Row]:
    """Rows of every batch size, peer and precision; then solvers, then both as they are called by default."""
    config = networks.stage1_config("271M", quick)
    network, steps = networks.stage1(config, device), 2 if quick else STEPS
    naive, runs = Naive1(network), 1 if quick else RUNS
    fast = {dtype: Stage1Inference(network, dtype) for dtype in (torch.float32, torch.bfloat16)}
    sizes = (1, 2) if quick else (1, 2, 4, 8, 16, 32, 64, 256) if device.type == "cuda" else (1, 4, 16)
    rows: list[Row] = []
    with torch.inference_mode():
        for batch in sizes:
            rows += at(batch, network, naive, fast, steps, runs, device, ceilings)
        rows += solvers(network, naive, fast[torch.float32], steps, device)
    alone = {
        (row["peer"], row["dtype"]): row["seconds"] for row in rows if row["batch"] == 1 and row["solver"] == "euler"
    }
    for row in rows:
        if row["solver"] == "euler":
            row["efficiency"] = alone[row["peer"], row["dtype"]] / row["seconds"]  # 1: a batch takes as long as one
    return rows


def at(batch, network, naive, fast, steps, runs, device, ceilings) -> list[Row]:
    """All peers at one batch size, in turn."""
    config = network.config
    tokens, mask = networks.prompt(config, batch, TOKENS, device)
    x_0 = torch.randn(batch, config.dim, device=device)
    context = network.context(tokens, mask)
    nobody = network.context(tokens, mask, torch.zeros(batch, dtype=torch.bool, device=device))
    joined = [tuple(map(torch.cat, zip(a, b, strict=True))) for a, b in zip(context, nobody, strict=True)]

    def one_batch(t, x):
        both = network(torch.cat([x, x]), torch.cat([t, t]), joined)
        return both[batch:] + SCALE * (both[:batch] - both[batch:])

    def prepared(dtype, n):
        return sample(GuidedStage1(fast[dtype], fast[dtype].text(tokens, mask), SCALE), x_0, steps=n)

    merged = fast[torch.float32].text(tokens, mask).merged
    peers = {  # name -> (what runs, its dtype, what it must do in a step)
        "naive": (
            lambda n: sample(naive.guided(tokens, mask, SCALE), x_0, steps=n),
            torch.float32,
            naive1_work(config, batch, TOKENS),
        ),
        "one batch, text cached": (lambda n: sample(one_batch, x_0, steps=n), torch.float32, None),
    }
    for dtype in fast:
        work = stage1_work(config, batch, TOKENS, dtype, merged)
        peers[f"prepared {dtype}".replace("torch.", "")] = (lambda n, dtype=dtype: prepared(dtype, n), dtype, work)
    for call, _, _ in peers.values():
        call(1)  # warm
    calls = {name: functools.partial(call, steps) for name, (call, _, _) in peers.items()}
    times = interleaved(calls, device, runs, warm=False)
    base, rows = median(times["naive"]), []
    for name, (call, dtype, work) in peers.items():
        row = compared(name.split(" float")[0].split(" bfloat")[0], 1, network, batch, dtype, times[name], base)
        row |= {"solver": "euler", "steps": steps, "nfe": steps, "merged": merged if "prepared" in name else None}
        row |= shares(work, steps, times[name], ceilings, dtype)
        peak = peak_bytes(functools.partial(call, 1), device)
        row |= {"before_bytes": peak and peak[0], "peak_bytes": peak and peak[1]}
        row |= bar(name, batch, device, row)
        rows.append(row)
    return rows


def bar(name: str, batch: int, device: torch.device, row: Row) -> dict:
    """What this row is to reach, and whether it does."""
    if device.type == "cpu":
        asked = name == "prepared float32" and batch == 1
        return {"bar": ">= 3.5 x naive", "met": row["speedup"] >= 3.5} if asked else {}
    most = {1: 25.0, 256: 0.15}.get(batch) if name == "prepared bfloat16" else None  # ms a sample on an H100
    return {"bar": f"<= {most:g} ms a sample", "met": row["ms_a_sample"] <= most} if most else {}


def shares(work: Work | None, evaluations: int, times, ceilings: dict, dtype) -> dict:
    """Counted work of a call, and how much of the measured ceilings it reached."""
    if work is None:
        return dict.fromkeys(("flops", "bytes", "bandwidth_share", "matrix_share", "floor_share"))
    total, seconds = work * evaluations, median(times)
    return {
        "flops": total.flops,
        "bytes": total.bytes,
        "bandwidth_share": total.bytes / seconds / ceilings["bandwidth"],
        "matrix_share": total.flops / seconds / ceilings[str(dtype).removeprefix("torch.")],
        "floor_share": total.floor(ceilings, dtype) / seconds,
    }


def solvers(network, naive, fast: Stage1Inference, steps: int, device) -> list[Row]:
    """Adaptive solvers at equal tolerances on the prepared network, and the naive design as the original calls it.

    Each runs once: half a minute of evaluations that are all alike has no spread to speak of.
    """
    tokens, mask = networks.prompt(network.config, 1, TOKENS, device)
    x_0 = torch.randn(1, network.config.dim, device=device)
    ours, theirs = GuidedStage1(fast, fast.text(tokens, mask), SCALE), naive.guided(tokens, mask, SCALE)
    cases = [
        ("prepared", ours, "dopri5"),
        ("prepared", ours, "torchdiffeq"),
        ("naive, as called", theirs, "torchdiffeq"),
    ]
    rows = []
    for peer, velocity, solver in cases:
        velocity(torch.zeros(1, device=device), x_0)  # warm, and as these solvers ask: a time a row
        found = {}
        call = functools.partial(lambda found, *a: found.update(x=sample(*a)), found, velocity, x_0, solver, steps)
        times = interleaved({peer: call}, device, 1, warm=False)[peer]
        row = compared(peer, 1, network, 1, torch.float32, times, None)
        rows.append(row | {"solver": solver, "steps": steps, "nfe": int(found["x"].nfe[0])})
    for row in rows:
        row["speedup"] = rows[-1]["seconds"] / row["seconds"]
    return rows
