"""One micro-batch of rows through each stage.

Rows of several prompts may share a micro-batch when their recipes agree in everything but prompts and seed. It is
padded to its full size, so a row's bits depend on its own recipe alone. Conditional and unconditional rows run as
one batch; a negative prompt takes the unconditional row's place.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from musekit import flow, solve
from musekit.recipe import Recipe
from musekit.stage1 import Text2MuQFlow
from musekit.stage2 import StableAudioMuQ, join

OnStep = Callable[[str, int, int], None]  # (stage, i, n)


def chunks(recipes: Iterable[Recipe]) -> Iterator[list[Recipe]]:
    """Micro-batches: consecutive recipes that differ in prompts and seed only, at most `micro_batch` of them."""
    rows: list[Recipe] = []
    for recipe in recipes:
        if rows and (len(rows) == rows[0].micro_batch or shared(recipe) != shared(rows[0])):
            yield rows
            rows = []
        rows.append(recipe)
    if rows:
        yield rows


def shared(recipe: Recipe) -> Recipe:
    """What the rows of a micro-batch must have in common."""
    return dataclasses.replace(recipe, prompt="", negative_prompt=None, seed=0)


def padded(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The rows of one full micro-batch, the last recipe repeated where there are too few."""
    return [recipes[min(i, len(recipes) - 1)] for i in range(recipes[0].micro_batch)]


def stage1_rows(
    network: Text2MuQFlow, encode, rows: Sequence[Recipe], on_step: OnStep | None = None, cancel=None
) -> tuple[Tensor, Tensor]:
    """Sample an embedding for each row: (B, 512) unit length, and NFE (B,); `encode` is the text encoder."""
    first, device = rows[0], network.mean.device
    scale = first.stage1_guidance_scale
    context = network.context(*encode_rows(encode, [r.prompt for r in rows], device))
    if scale != 1.0:
        keep = torch.tensor([r.negative_prompt is not None for r in rows], device=device)
        other = network.context(*encode_rows(encode, [r.negative_prompt or "" for r in rows], device), keep)
        context = [tuple(map(torch.cat, zip(a, b, strict=True))) for a, b in zip(context, other, strict=True)]

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        if scale == 1.0:
            return network(x, t, context)
        return flow.guided(*network(torch.cat([x, x]), torch.cat([t, t]), context).chunk(2), scale)

    x_0 = torch.stack([flow.noise(r.seed, 1, 1, network.config.dim)[:, 0] for r in rows]).to(device)
    options = {"solver": first.stage1_solver, "steps": first.stage1_steps, "cancel": cancel, "overshoot": False}
    solution = solve.solve(velocity, x_0, **options, on_step=on_step and (lambda i, n: on_step("stage1", i, n)))
    return network.embedding(solution.x), solution.nfe


def encode_rows(encode, texts: Sequence[str], device) -> tuple[Tensor, Tensor]:
    """Token states and masks of the rows; a text that several rows share is encoded once."""
    distinct = list(dict.fromkeys(texts))
    tokens, mask = encode(distinct)
    index = torch.tensor([distinct.index(text) for text in texts])
    return tokens[index].to(device), mask[index].to(device)


def stage2_rows(
    network: StableAudioMuQ,
    embeddings: Tensor,
    negatives: tuple[Tensor, Tensor],
    rows: Sequence[Recipe],
    frames: int,
    seconds: float,
    dtype: torch.dtype,
    on_step: OnStep | None = None,
    cancel=None,
) -> tuple[Tensor, Tensor]:
    """Sample codec latents (B, C, frames) for embeddings (B, 512), and NFE (B,).

    negatives: embeddings (B, 512) of the negative prompts and which rows have one (B,). seconds: what the timing
    token is told. dtype: of the matrix products; the state stays float32.
    """
    first, device = rows[0], network.mean.device
    scale = first.guidance_scale
    autocast = torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    timing = torch.tensor([[0.0, seconds]], device=device).expand(len(rows), 2)
    with autocast:
        condition = network.condition(embeddings, timing)
        if scale != 1.0:
            condition = join(condition, network.condition(negatives[0], timing, negatives[1]))

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        with autocast:
            if scale == 1.0:
                return network(x, t, condition).float()
            v = network(torch.cat([x, x]), torch.cat([t, t]), condition).float()
        return flow.guided(*v.chunk(2), scale)

    x_0 = torch.stack([flow.noise(r.seed, 2, frames, network.config.latent_dim) for r in rows]).to(device)
    options = {"solver": first.stage2_solver, "steps": first.stage2_steps, "cancel": cancel, "overshoot": False}
    solution = solve.solve(velocity, x_0, **options, on_step=on_step and (lambda i, n: on_step("stage2", i, n)))
    return network.latents(solution.x), solution.nfe


def finish(audio: Tensor, fade: int = 441) -> Tensor:
    """Fade the last 10 ms out, and scale down what would clip; audio (2, N)."""
    audio = audio.clone()
    audio[:, -fade:] *= torch.linspace(1, 0, min(fade, audio.shape[1]))
    return audio / (audio.abs().max() / 0.99).clamp_min(1.0)
