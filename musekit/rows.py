"""One micro-batch of rows through each stage.

Rows of several prompts may share a micro-batch when their recipes agree in everything but prompts and seed. It is
padded to its full size, so a row's bits depend on its own recipe alone. Conditional and unconditional rows run as
one batch; a negative prompt takes the unconditional row's place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from musekit import flow, solve
from musekit.inference.stage1 import Guided1, Prepared1
from musekit.inference.stage1 import join as join_texts
from musekit.inference.stage2 import Guided2, Prepared2
from musekit.recipe import Recipe
from musekit.solve.bespoke import Bespoke
from musekit.stage2 import join

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
    network: Prepared1, encode, rows: Sequence[Recipe], on_step: OnStep | None = None, cancel=None
) -> tuple[Tensor, Tensor]:
    """Sample an embedding for each row: (B, 512) unit length, and NFE (B,); `encode` is the text encoder."""
    first, device = rows[0], network.mean.device
    scale = first.stage1_guidance_scale
    negative = [r.negative_prompt is not None for r in rows]
    if scale != 1.0 and len(set(negative)) == 2:
        return stage1_apart(network, encode, rows, negative, on_step, cancel)
    text = network.text(*encode_rows(encode, [r.prompt for r in rows], device))
    if scale != 1.0 and all(negative):
        text = join_texts(text, network.text(*encode_rows(encode, [r.negative_prompt for r in rows], device)))
    x_0 = torch.stack([flow.noise(r.seed, 1, 1, network.config.dim)[:, 0] for r in rows]).to(device)
    options = {"solver": first.stage1_solver, "steps": first.stage1_steps, "cancel": cancel, "overshoot": False}
    velocity = Guided1(network, text, scale, first.stage1_autoguidance)
    told = on_step and (lambda i, n: on_step("stage1", i, n))
    solution = solve.solve(velocity, x_0, **options, on_step=told)
    return network.network.embedding(solution.x), solution.nfe


def stage1_apart(network: Prepared1, encode, rows, negative: list[bool], on_step, cancel) -> tuple[Tensor, Tensor]:
    """Rows with a negative prompt and rows without, each kind as a full micro-batch of its own.

    A row without one has a constant cross-attention, which is computed in another way than a text's: were both
    kinds to share a batch, a row's bits would depend on its mates.
    """
    embeddings = torch.empty(len(rows), network.config.dim, device=network.mean.device)
    nfe = torch.empty(len(rows), dtype=torch.int64)
    for kind in (False, True):
        index = [i for i, has_one in enumerate(negative) if has_one is kind]
        mates = [rows[index[min(i, len(index) - 1)]] for i in range(len(rows))]
        some, counts = stage1_rows(network, encode, mates, on_step, cancel)
        embeddings[index], nfe[index] = some[: len(index)], counts[: len(index)]
    return embeddings, nfe


def encode_rows(encode, texts: Sequence[str], device) -> tuple[Tensor, Tensor]:
    """Token states and masks of the rows; a text that several rows share is encoded once."""
    distinct = list(dict.fromkeys(texts))
    tokens, mask = encode(distinct)
    index = torch.tensor([distinct.index(text) for text in texts])
    return tokens[index].to(device), mask[index].to(device)


def stage2_rows(
    network: Prepared2,
    embeddings: Tensor,
    negatives: tuple[Tensor, Tensor],
    rows: Sequence[Recipe],
    frames: int,
    seconds: float,
    on_step: OnStep | None = None,
    cancel=None,
    x_0: Tensor | None = None,
    table: Bespoke | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample codec latents (B, C, frames) for embeddings (B, 512), and NFE (B,).

    negatives: embeddings (B, 512) of the negative prompts and which rows have one (B,). seconds: what the timing
    token is told. x_0: noise in place of the seeds' own. table: of a bespoke solver.
    """
    first, device, trained = rows[0], network.mean.device, network.network
    timing = torch.tensor([[0.0, seconds]], device=device).expand(len(rows), 2)
    condition = trained.condition(embeddings, timing)
    if first.guidance_scale != 1.0:
        condition = join(condition, trained.condition(negatives[0], timing, negatives[1]))
    velocity = Guided2(network, condition, first.guidance_scale, (first.guidance_low, first.guidance_high))
    if x_0 is None:
        x_0 = torch.stack([flow.noise(r.seed, 2, frames, network.config.latent_dim) for r in rows])
    x_0 = x_0.to(device)
    options = {"solver": first.stage2_solver, "steps": first.stage2_steps, "cancel": cancel, "overshoot": False}
    options |= {"table": table}
    solution = solve.solve(velocity, x_0, **options, on_step=on_step and (lambda i, n: on_step("stage2", i, n)))
    return trained.latents(solution.x), solution.nfe


def finish(audio: Tensor, fade: int = 441) -> Tensor:
    """Fade the last 10 ms out, and scale down what would clip; audio (2, N)."""
    audio = audio.clone()
    audio[:, -fade:] *= torch.linspace(1, 0, min(fade, audio.shape[1]))
    return audio / (audio.abs().max() / 0.99).clamp_min(1.0)
