"""`musekit bench stage1`: a whole sample of full-size Stage 1 beside the naive design, same weights, same grid."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from musekit import flow
from musekit.bench import networks
from musekit.bench.measure import RUNS, Peer, Row, compare, compared, now
from musekit.bench.naive import Naive1, sample
from musekit.bench.roofline import naive1_work, stage1_work
from musekit.stage1 import GuidedStage1, Stage1Inference

TOKENS, SCALE, STEPS = 16, 3.0, 50
DTYPES = (torch.float32, torch.bfloat16)


def stage1(setup) -> Iterator[Row]:
    """Rows of every batch size, peer and precision; then of adaptive solvers."""
    device, quick = setup.device, setup.quick
    network = networks.stage1(networks.stage1_config("271M", quick), device)
    steps, runs, naive = 2 if quick else STEPS, 1 if quick else RUNS, Naive1(network)
    fast = [Stage1Inference(network, dtype) for dtype in DTYPES]
    sizes = (1, 2) if quick else (1, 2, 4, 8, 16, 32, 64, 256) if device.type == "cuda" else (1, 4, 16)
    alone = {}
    for batch in sizes:
        peers = [*plain_peers(naive, batch, device), *(prepared_peer(network, f, batch, device) for f in fast)]
        for row in compare(peers, 1, batch, device, runs, setup.ceilings, steps):
            seconds = alone.setdefault((row["peer"], row["dtype"]), row["seconds"])
            yield row | {"efficiency": seconds / row["seconds"]} | bar(row, device)
    yield from solvers(network, naive, fast[0], steps, device)


def plain_peers(naive: Naive1, batch: int, device) -> list[Peer]:
    """The naive design; and the network as trained, both rows of guidance in one batch, the text projected once."""
    network = naive.network
    tokens, mask = networks.prompt(network.config, batch, TOKENS, device)
    x_0 = torch.randn(batch, network.config.dim, device=device)
    text = network.context(tokens, mask), network.context(tokens, mask, torch.zeros_like(mask[:, 0]))
    joined = [tuple(map(torch.cat, zip(a, b, strict=True))) for a, b in zip(*text, strict=True)]

    def one_batch(t, x):
        return flow.guided(*network(torch.cat([x, x]), torch.cat([t, t]), joined).chunk(2), SCALE)

    work = naive1_work(network.config, batch, TOKENS)
    return [
        Peer("naive", lambda n: sample(naive.guided(tokens, mask, SCALE), x_0, steps=n), network, torch.float32, work),
        Peer("one batch, text cached", lambda n: sample(one_batch, x_0, steps=n), network, torch.float32),
    ]


def prepared_peer(network, fast: Stage1Inference, batch: int, device, whole: bool = True) -> Peer:
    """Our inference code in the precision of `fast`.

    whole: a sample, with the projection of its text; else one evaluation.
    """
    config = network.config
    tokens, mask = networks.prompt(config, batch, TOKENS, device)
    x_0, text = torch.randn(batch, config.dim, device=device), fast.text(tokens, mask)
    velocity = GuidedStage1(fast, text, SCALE)
    moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]

    def call(n: int):
        if whole:
            return sample(GuidedStage1(fast, fast.text(tokens, mask), SCALE), x_0, steps=n)
        return velocity(moment, x_0)

    work = stage1_work(config, batch, TOKENS, fast.dtype, text.merged)
    return Peer("prepared", call, network, fast.dtype, work, {"merged": text.merged})


def bar(row: Row, device: torch.device) -> Row:
    """What this row is to reach, and whether it does."""
    case = row["peer"], row["dtype"], row["batch"]
    if device.type == "cpu":
        return {"bar": ">= 3.5 x naive", "met": row["speedup"] >= 3.5} if case == ("prepared", "float32", 1) else {}
    most = {("prepared", "bfloat16", 1): 25.0, ("prepared", "bfloat16", 256): 0.15}.get(case)  # on an H100
    return {"bar": f"<= {most:g} ms a sample", "met": row["ms_a_sample"] <= most} if most else {}


@torch.inference_mode()
def solvers(network, naive: Naive1, fast: Stage1Inference, steps: int, device) -> Iterator[Row]:
    """Adaptive solvers at equal tolerances on the prepared network, and the naive design as the original calls it.

    Each runs once: half a minute of identical evaluations has no spread to speak of.
    """
    tokens, mask = networks.prompt(network.config, 1, TOKENS, device)
    x_0 = torch.randn(1, network.config.dim, device=device)
    ours, theirs = GuidedStage1(fast, fast.text(tokens, mask), SCALE), naive.guided(tokens, mask, SCALE)
    baseline = None
    for peer, velocity, solver in (
        ("naive, as called", theirs, "torchdiffeq"),
        ("prepared", ours, "torchdiffeq"),
        ("prepared", ours, "dopri5"),
    ):
        velocity(torch.zeros(1, device=device), x_0)  # warm, with a time per row, as these solvers call it
        began = now(device)
        solution = sample(velocity, x_0, solver, steps)
        seconds = now(device) - began
        baseline = baseline or seconds
        row = compared(peer, 1, network, 1, torch.float32, [seconds], baseline)
        yield row | {"solver": solver, "steps": steps, "nfe": int(solution.nfe[0])}
