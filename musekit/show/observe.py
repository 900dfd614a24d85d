"""Stage 2 observed: distances, guesses on the way, impressions of sounds, and what each part costs.

Small measures that the notebooks and the Lab share; none of them takes part in sampling.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import torch
from torch import Tensor


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b| / |b| of each row, (B,); a and b (B, ...)."""
    return (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)


def guesses(trajectory: Tensor) -> Tensor:
    """Where each state's own direction would lead, x_t + (1 - t) v(x_t, t): (n, B, ...) from states (n + 1, B, ...).

    The states are those of `solve(..., solver="euler", steps=n, trajectory=True)`: their differences hold v.
    """
    n = len(trajectory) - 1
    left = (1 - torch.arange(n, dtype=torch.float32, device=trajectory.device) / n) * n  # (1 - t) / h
    return trajectory[:-1] + left.view(-1, *[1] * (trajectory.dim() - 1)) * trajectory.diff(dim=0)


def impressions(muse, clips: Sequence[Tensor]) -> Tensor:
    """The joint embedder's impression (n, 512) of clips (2, N) of any lengths, unit length each."""
    return torch.cat([muse.embedder.embed_audio(audio[None], muse.config.codec.sample_rate) for audio in clips])


def likeness(a: Tensor) -> float:
    """Mean cosine of all pairs of the unit rows of a (n, 512), n > 1: 1 where all are alike."""
    return float(torch.stack([a[i] @ a[j] for i, j in itertools.combinations(range(len(a)), 2)]).mean())


def seconds_of(call, repeats: int = 5) -> float:
    """Mean seconds of a call, after one that is not counted. On a GPU it would need a synchronisation."""
    call()
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


@torch.inference_mode()
def operations(muse, seconds: float) -> dict[str, int]:
    """Floating-point operations of one row's evaluation of each part, counted by torch (matrix products only).

    Fourier transforms are not counted: the codec's phase search costs time that this number does not show.
    """
    from torch.utils.flop_counter import FlopCounterMode

    config, device = muse.config, muse.device
    one, frames = torch.ones(1, device=device), muse.frames(seconds)
    tokens, mask = (part.to(device) for part in muse.text(["music"]))
    context = muse.stage1.context(tokens, mask)
    window = torch.tensor([[0.0, seconds]], device=device)
    held = muse.stage2.condition(torch.zeros(1, config.stage2.embedding_dim, device=device), window)
    z = torch.zeros(1, config.stage2.latent_dim, frames, device=device)
    calls = {
        "stage1": lambda: muse.stage1(torch.zeros(1, config.stage1.dim, device=device), one, context),
        "stage2": lambda: muse.stage2(z, one, held),
        "codec": lambda: muse.codec.decode(z),
    }
    counted = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        counted[name] = counter.get_total_flops()
    return counted


def cost(muse, prompt: str, n: int, seconds: float, **settings) -> list[dict]:
    """A row for each part: parameters, operations, evaluations and measured seconds of one micro-batch of n pieces.

    Times are differences between the calls of `on_step`, which tells a step when it is done and a decoding before.
    """
    told: list[tuple[str, float]] = []
    made = muse.generate(
        prompt, n, seconds=seconds, on_step=lambda stage, i, _: told.append((stage, time.perf_counter())), **settings
    )
    spent, count = dict.fromkeys(("stage1", "stage2", "codec"), 0.0), dict.fromkeys(("stage1", "stage2", "codec"), 0)
    for (before, then), (stage, now) in itertools.pairwise(told):
        if before == stage:
            spent[stage], count[stage] = spent[stage] + now - then, count[stage] + 1
    steps = {"stage1": made.recipes[0].stage1_steps, "stage2": made.recipes[0].stage2_steps, "codec": n}
    guided = {"stage1": made.recipes[0].stage1_guidance_scale, "stage2": made.recipes[0].guidance_scale}
    rows = []
    for name, counted in operations(muse, seconds).items():
        evaluations = made.nfe[name][0] if name in made.nfe else 1
        work = counted * evaluations * (2 if guided.get(name, 1.0) != 1.0 else 1)
        wall = spent[name] / max(1, count[name]) * steps[name]
        rows.append(
            {
                "part": name,
                "M parameters": sum(p.numel() for p in getattr(muse, name).parameters()) / 1e6,
                "GFLOP an evaluation": counted / 1e9,
                "NFE": evaluations,
                "GFLOP a piece": work / 1e9,
                "seconds": wall,
                "GFLOP/s": n * work / max(wall, 1e-9) / 1e9,
            }
        )
    return rows
