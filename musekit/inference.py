"""One micro-batch through each stage, and the rules that make a piece's bits depend on its recipe only.

Pieces of several prompts share a micro-batch if their recipes agree in everything but prompts and seed, all or none
end, and all or none have a negative prompt, which replaces the unconditional one. A micro-batch is always padded to its
full size, since the batch size changes the last bits of matrix products. Conditional and unconditional samples run as
one batch.

So a piece's bits depend on its recipe only, not on its position in the micro-batch or the other pieces. Measured with 1
to 4 CPU threads on an Intel server with AMX: at every micro-batch from 1 to 16 (Stage 1) and to 8 (Stage 2). Exceptions
by an AMD server: with two threads Stage 2 at micro-batches of 5 and 6; with any, Stage 2 of Stable Audio's shape at 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from musekit import conditions, flow, harmony, solve
from musekit.config import TONICS
from musekit.controls import Controls
from musekit.recipe import Recipe
from musekit.stage1 import GuidedStage1, Stage1Inference, Text
from musekit.stage2 import Condition, ControlInputs, GuidedStage2, StableAudioMuQ, Stage2Inference

TRIES = 8  # of Stage 1, where a key is asked for
OnStep = Callable[[str, int, int], None]  # (stage, i, n)


def micro_batches(recipes: Iterable[Recipe]) -> Iterator[list[Recipe]]:
    """Consecutive recipes that differ in prompts, controls and seed only, at most `micro_batch` of them at a time."""
    batch: list[Recipe] = []
    for recipe in recipes:
        if batch and (len(batch) == batch[0].micro_batch or shared(recipe) != shared(batch[0])):
            yield batch
            batch = []
        batch.append(recipe)
    if batch:
        yield batch


def shared(recipe: Recipe) -> Recipe:
    """What the recipes of a micro-batch must have in common."""
    negative = None if recipe.negative_prompt is None else ""
    ends = recipe.controls is None or recipe.controls.ends is not False
    controls = None if ends else Controls(ends=False)
    return dataclasses.replace(recipe, prompt="", negative_prompt=negative, seed=0, controls=controls)


def padded(recipes: Sequence[Recipe]) -> list[Recipe]:
    """A full micro-batch: the last recipe is repeated where there are too few."""
    return [recipes[min(i, len(recipes) - 1)] for i in range(recipes[0].micro_batch)]


def sample_in_key(
    inference: Stage1Inference, encode, network: StableAudioMuQ, batch: Sequence[Recipe], on_step=None, cancel=None
) -> tuple[Tensor, Tensor]:
    """`sample_stage1`, at most `TRIES` times where an embedding does not have the key that is asked for.

    That is rejection sampling of the embeddings in this key, by Stage 2's read-out; where no try has it, the nearest.
    """
    x, nfe = sample_stage1(inference, encode, batch, on_step, cancel)
    asked = torch.tensor([conditions.key_index(vars(r.controls or Controls())) for r in batch], device=x.device)

    def margin(embeddings: Tensor) -> Tensor:
        """By how much the asked key's probability is above any other's (B,)."""
        (*_, read), own = network.read(embeddings), asked.clamp_min(0)[:, None]
        return read.gather(1, own)[:, 0] - read.scatter(1, own, -torch.inf).amax(1)

    best = margin(x)
    for attempt in range(1, TRIES):
        wrong = (asked >= 0) & (best < 0)
        if not wrong.any():
            break
        again, more = sample_stage1(inference, encode, batch, None, cancel, attempt)
        nfe, found = nfe + more * wrong.cpu(), margin(again)
        better = wrong & (found > best)
        x, best = torch.where(better[:, None], again, x), torch.where(better, found, best)
    return x, nfe


def sample_stage1(
    inference: Stage1Inference, encode, batch: Sequence[Recipe], on_step: OnStep | None = None, cancel=None,
    attempt: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sample one embedding per recipe: (B, 512) of unit length, and NFE (B,); `encode` is the text encoder.

    attempt: each has noise of its own.
    """
    first, device = batch[0], inference.mean.device
    scale = first.stage1_guidance_scale
    text = inference.text(*_encode(encode, [r.sentence for r in batch], first.max_tokens, device))
    if scale != 1.0 and first.negative_prompt is not None:
        negative_text = _encode(encode, [r.negative_prompt for r in batch], first.max_tokens, device)
        text = Text.stack(text, inference.text(*negative_text))
    stream = 1 + 100 * attempt
    x_0 = torch.stack([flow.noise(r.seed, stream, 1, inference.config.dim)[:, 0] for r in batch]).to(device)
    solution = solve.solve(
        GuidedStage1(inference, text, scale),
        x_0,
        solver=first.stage1_solver,
        steps=first.stage1_steps,
        on_step=on_step and (lambda i, n: on_step("stage1", i, n)),
        cancel=cancel,
    )
    return inference.network.embedding(solution.x), solution.nfe


def _encode(encode, texts: Sequence[str], length: int, device) -> tuple[Tensor, Tensor]:
    """Token states and masks of the texts, padded to `length`; equal texts are encoded once."""
    distinct = list(dict.fromkeys(texts))
    tokens, mask = encode(distinct, length)
    index = torch.tensor([distinct.index(text) for text in texts])
    return tokens[index].to(device), mask[index].to(device)


def filled(network: StableAudioMuQ, recipe: Recipe, embedding: Tensor) -> Controls:
    """The recipe's controls, with a tempo and a metre where it names none, so that the network knows where beats are,
    and a key and chords where there are neither chords nor a tune.

    They are drawn by the recipe's seed around what the embedding (512,) tells of them (`StableAudioMuQ.readout`).
    """
    controls = recipe.controls or Controls()
    if not network.config.controls or not network.readout.any():
        return controls
    tempo, metres, keys = (part[0].cpu() for part in network.read(embedding[None]))
    rng = flow.generator(recipe.seed, 0x4D555345 + 3)
    octaves = float(tempo) + float(network.tempo_spread) * rng.standard_normal()
    metres = metres.clamp_min(1e-6) / metres.clamp_min(1e-6).sum()
    bpm = round(min(max(120 * 2**octaves, 40.0), 220.0), 1)
    drawn = {"bpm": bpm, "metre": 1 + int(rng.choice(12, p=metres.numpy()))}
    if controls.chords is None and controls.melody is None:
        key = conditions.key_index(vars(controls))
        key = int(keys.argmax()) if key < 0 else key
        if chords := harmony.line(network.harmony.cpu().numpy(), rng, key, controls.metre or drawn["metre"]):
            drawn |= {"key": TONICS[key % 12], "mode": ("major", "minor")[key // 12], "chords": chords}
    return dataclasses.replace(controls, **{k: v for k, v in drawn.items() if getattr(controls, k) is None})


def control_inputs(
    network: StableAudioMuQ, controls: Sequence[Controls], start: int, frames: int, second: float,
    x_1: Tensor | None = None,
) -> ControlInputs | None:  # fmt: skip
    """What the network is given of these controls from latent frame `start` on; second: length of a frame.

    x_1 (B, C, T): standardised latents, NaN in frames that are not given; None: none is given.
    """
    if not network.config.controls or (x_1 is None and all(c.is_empty for c in controls)):
        return None
    device, records = network.mean.device, [conditions.compact(c.record((start + frames) * second)) for c in controls]
    piece = torch.stack([torch.from_numpy(conditions.of_piece(r)) for r in records])
    local = torch.stack([torch.from_numpy(conditions.of_frames(r, start, frames, second)) for r in records])
    if x_1 is None:
        x_1 = torch.full((len(records), network.config.latent_dim, frames), torch.nan)
    return ControlInputs(*(part.to(device) for part in (piece, local, ~x_1[:, 0].isnan(), x_1.nan_to_num())))


def sample_stage2(
    inference: Stage2Inference, embeddings: Tensor, negatives: Tensor | None, batch: Sequence[Recipe],
    frames: int, seconds: float | Sequence[float], on_step: OnStep | None = None, cancel=None,
    x_0: Tensor | None = None, controls: ControlInputs | None = None, given: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sample codec latents (B, C, frames) for embeddings (B, 512), and NFE (B,).

    Args:
        negatives: embeddings (B, 512) of the negative prompts, None where the recipes have none.
        seconds: the total length in the timing token, or one for each sample.
        x_0: noise (B, C, frames) instead of the seeds' own.
        given: standardised latents (B, C, frames) that the result has, NaN in frames that are sampled.
    """
    first, device, network = batch[0], inference.mean.device, inference.network
    timing = torch.zeros(len(batch), 2, device=device)
    timing[:, 1] = torch.as_tensor(seconds)
    extra = first.control_guidance if controls is not None else 0.0
    if first.guidance_scale == 1.0 and not extra:
        condition = network.condition(embeddings, timing, None, controls)
    else:
        condition = network.condition_pair(embeddings, timing, negatives, controls)
    if extra:
        condition = Condition.stack(condition, network.condition(embeddings, timing, None, controls.unguided))
    if x_0 is None:
        x_0 = torch.stack([flow.noise(r.seed, 2, frames, inference.config.latent_dim) for r in batch])
    x_0, known = x_0.to(device), None
    if given is not None:
        known = ~given[:, :1].isnan(), given.nan_to_num() - x_0
    solution = solve.solve(
        GuidedStage2(inference, condition, first.guidance_scale, known, extra),
        x_0,
        solver=first.stage2_solver,
        steps=first.stage2_steps,
        shift=first.shift,
        on_step=on_step and (lambda i, n: on_step("stage2", i, n)),
        cancel=cancel,
    )
    x = solution.x if given is None else torch.where(known[0], given, solution.x)
    return network.latents(x), solution.nfe


def finish(audio: Tensor, fade: int = 441) -> Tensor:
    """Fade the last 10 ms out (no samples: 0), and scale down audio (2, N) that would clip."""
    audio = audio.clone()
    if fade:
        audio[:, -fade:] *= torch.linspace(1, 0, min(fade, audio.shape[1]))
    return audio / (audio.abs().max() / 0.99).clamp_min(1.0)
