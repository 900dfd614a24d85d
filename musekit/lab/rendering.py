"""Rendering pieces whose embedding or noise was chosen, and rendering a piece of the library once more.

Mixes, paths, variations and uploaded sounds all end here: a given embedding, and Stage 2's noise of one seed or between
those of two. A recipe, the embedding and the origin render such a piece again, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musekit import flow
from musekit.config import MuseError
from musekit.entry import Entry, Origin
from musekit.inference import OnStep, micro_batches
from musekit.lab import sphere
from musekit.muse import Muse, Piece
from musekit.recipe import Recipe, check


@dataclass
class RenderedPiece(Piece):
    """A `muse.Piece` of a given embedding."""

    origin: Origin | None = None


def noise(muse: Muse, recipe: Recipe, origin: Origin) -> Tensor:
    """Stage 2's x_0 of a piece, (C, frames)."""
    frames, channels = muse.frames(recipe.seconds), muse.config.stage2.latent_dim
    x = flow.noise(recipe.seed, 2, frames, channels)
    for seed, position in origin.noise:
        x = sphere.slerp(x, flow.noise(seed, 2, frames, channels), position)
    return x


def render(
    muse: Muse,
    embeddings: Tensor,
    recipes: Sequence[Recipe],
    origins: Sequence[Origin],
    on_step: OnStep | None = None,
    cancel=None,
) -> Iterator[RenderedPiece]:
    """Render embeddings (n, 512) with one recipe and origin each; yields pieces as their micro-batches are done.

    A piece's similarity is the cosine of its sound with its prompt, or with the given embedding where it has none.
    """
    rate, done = muse.config.codec.sample_rate, 0
    for batch in micro_batches(recipes):
        index = slice(done, done + len(batch))
        given = embeddings[index].cpu()
        x_0 = torch.stack([noise(muse, recipe, origin) for recipe, origin in zip(batch, origins[index], strict=True)])
        audio, nfe = muse.render_batch(embeddings[index], batch, on_step, cancel, x_0)
        for i, (recipe, origin) in enumerate(zip(batch, origins[index], strict=True)):
            sound = muse.embedder.embed_audio(audio[i][None], rate)[0]
            target = muse.embedder.embed_text([recipe.prompt])[0] if origin.prompted else given[i]
            counts = {"stage1": 0, "stage2": int(nfe[i])}
            yield RenderedPiece(audio[i], rate, given[i], recipe, float(target @ sound), counts, origin)
        done += len(batch)


def render_again(muse: Muse, entry: Entry, on_step: OnStep | None = None, cancel=None) -> Piece:
    """The piece of a library's entry once more: the same bits on the same kind of machine, whatever its batch was.

    Runs with the recipe's dtype and threads, whatever this session's are. Raises MuseError for an imported sound, for
    other weights, or for an origin without its embedding.
    """
    recipe, origin = entry.recipe, entry.origin
    if recipe is None:
        raise MuseError(f"{entry.id} was imported as plain sound; it has no recipe")
    if recipe.weights != muse.weights:
        raise MuseError(
            f"this piece was made by the weights {recipe.weights:.12} ({recipe.preset}), and these are "
            f"{muse.weights:.12} ({muse.config.name}); load the weights that made it"
        )
    if origin is not None and entry.embedding is None:
        raise MuseError("this piece was rendered from an embedding that is not in its file; it cannot be made again")
    check(recipe, muse.config)  # the recipe may come from a stranger's file
    if recipe.dtype != str(muse.autocast_dtype).removeprefix("torch."):
        muse = copy.copy(muse)  # shares the loaded networks, except for what depends on the dtype
        muse.dtype = recipe.dtype
        for name in ("autocast_dtype", "inference2"):
            muse.__dict__.pop(name, None)
    with threads(recipe.threads):
        if origin is None:
            return next(iter(muse.stream([recipe], on_step, cancel)))
        embedding = torch.from_numpy(np.frombuffer(entry.embedding, "<f4").copy())
        return next(render(muse, embedding[None], [recipe], [origin], on_step, cancel))


@contextlib.contextmanager
def threads(n: int):
    """torch with n threads inside the block: their number decides the order of sums, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def crossfade(clips: Sequence[Tensor], sample_rate: int, seconds: float = 1.0) -> Tensor:
    """Clips (2, N_i) one after another, overlapping by at most `seconds`, at constant power: (2, N).

    The weights are cos and sin of one angle, so two unrelated sounds keep their loudness. The result is scaled down
    where it would clip. Raises MuseError where there is no clip.
    """
    if not len(clips):
        raise MuseError("there is nothing to play; choose two points or more")
    joined = clips[0].float()
    for clip in clips[1:]:
        n = min(round(max(0.0, seconds) * sample_rate), joined.shape[1] // 2, clip.shape[1] // 2)
        angle = torch.linspace(0, math.pi / 2, n)
        middle = joined[:, joined.shape[1] - n :] * angle.cos() + clip[:, :n] * angle.sin()
        joined = torch.cat([joined[:, : joined.shape[1] - n], middle, clip[:, n:]], dim=1)
    return joined / (joined.abs().max() / 0.99).clamp_min(1.0)
