"""Take: a piece whose embedding or noise was chosen, not drawn by its recipe's seed alone.

Mixes, paths, variations and sounds as prompts all end here: a given embedding, and Stage 2's noise of one seed or
between those of two. A recipe, the embedding and the origin together make such a piece again, to the bit.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from musekit import flow
from musekit.config import MuseError, from_dict
from musekit.explore import sphere
from musekit.inference import OnStep, micro_batches
from musekit.muse import Muse, Piece
from musekit.recipe import Recipe, check, software

MOST_STEPS = 64  # of a noise, each a variation of the one before


@dataclass(frozen=True)
class Origin:
    """How a piece's embedding and noise came about. Its embedding is kept beside it."""

    how: str = ""  # for people: "half way from ... to ..."
    prompted: bool = True  # whether the recipe's prompt is what was asked for, or only a name
    noise: tuple = ()  # pairs (seed, position): from noise(recipe.seed), x = slerp(x, noise(seed), position) for each

    def __post_init__(self):
        steps = tuple((int(seed), float(position)) for seed, position in self.noise)
        if len(steps) > MOST_STEPS or not all(0 <= seed < 2**63 and 0 <= position <= 1 for seed, position in steps):
            raise ValueError(
                f"noise wants at most {MOST_STEPS} pairs (seed, position from 0 to 1), not {self.noise!r:.60}"
            )
        object.__setattr__(self, "noise", steps)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Inverse of `to_json`. Raises MuseError when the text is no origin."""
        try:
            return from_dict(cls, json.loads(text), "origin")
        except (ValueError, TypeError, AttributeError) as error:
            raise MuseError(f"this is not a piece's origin ({error})") from error


@dataclass
class Take(Piece):
    """A `sample.Piece` with an origin; None: Stage 1 drew its embedding from the recipe."""

    origin: Origin | None = None


def noise(muse: Muse, recipe: Recipe, origin: Origin | None) -> Tensor:
    """Stage 2's x_0 of a piece, (C, frames)."""
    frames, channels = muse.frames(recipe.seconds), muse.config.stage2.latent_dim
    x = flow.noise(recipe.seed, 2, frames, channels)
    for seed, position in origin.noise if origin else ():
        x = sphere.slerp(x, flow.noise(seed, 2, frames, channels), position)
    return x


def takes(
    muse: Muse,
    embeddings: Tensor,
    recipes: Sequence[Recipe],
    origins: Sequence[Origin],
    on_step: OnStep | None = None,
    cancel=None,
) -> Iterator[Take]:
    """Render embeddings (n, 512), one recipe and origin each, as their micro-batches are done.

    similarity is the cosine of what is heard and the prompt where there is one, else the given embedding.
    """
    rate, done = muse.config.codec.sample_rate, 0
    for rows in micro_batches(recipes):
        place = slice(done, done + len(rows))
        given, about = embeddings[place], origins[place]
        x_0 = torch.stack([noise(muse, recipe, origin) for recipe, origin in zip(rows, about, strict=True)])
        audio, nfe = muse.render_rows(given, rows, on_step, cancel, x_0)
        for i, (recipe, origin) in enumerate(zip(rows, about, strict=True)):
            heard = muse.embedder.embed_audio(audio[i][None], rate)[0]
            wanted = muse.embedder.embed_text([recipe.prompt])[0] if origin.prompted else given[i].cpu()
            counts = {"stage1": 0, "stage2": int(nfe[i])}
            yield Take(audio[i], rate, given[i].cpu(), recipe, float(wanted @ heard), counts, origin)
        done += len(rows)


def remake(
    muse: Muse,
    recipe: Recipe,
    origin: Origin | None = None,
    embedding: Tensor | None = None,
    on_step: OnStep | None = None,
    cancel=None,
) -> Piece:
    """The piece of a recipe once more: the same bits on the same kind of machine, alone or first made in a batch.

    Runs with the recipe's dtype and threads, whatever this session's are. `differences` tells what else could change
    bits. Raises MuseError for other weights, or for an origin without its embedding.
    """
    if recipe.weights != muse.weights:
        raise MuseError(
            f"this piece was made by the weights {recipe.weights:.12} ({recipe.preset}), and these are "
            f"{muse.weights:.12} ({muse.config.name}); load the weights that made it"
        )
    if origin is not None and embedding is None:
        raise MuseError("this piece was rendered from an embedding that was not kept with it; it cannot be made again")
    check(recipe, muse.config)  # it may come from a stranger's file
    if recipe.dtype != str(muse.autocast_dtype).removeprefix("torch."):
        muse = copy.copy(muse)  # shares the loaded parts, but for what depends on the dtype
        muse.dtype = recipe.dtype
        for name in ("autocast_dtype", "inference2"):
            muse.__dict__.pop(name, None)
    with threads(recipe.threads):
        if origin is None:
            return next(iter(muse.stream([recipe], on_step, cancel)))
        return next(takes(muse, embedding[None], [recipe], [origin], on_step, cancel))


def differences(muse: Muse, recipe: Recipe) -> list[str]:
    """What differs between this machine and the recipe's, so that bits may differ; [] where they will not."""
    then = {"device": recipe.device, "versions": recipe.versions}
    here = {"device": muse.device.type, "versions": software()}
    return [f"{name}: {then[name]} then, {here[name]} now" for name in here if then[name] != here[name]]


@contextlib.contextmanager
def threads(n: int):
    """torch with n threads, and then as before: sums are taken in another order by another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, n))
    try:
        yield
    finally:
        torch.set_num_threads(before)
