"""Rendering pieces whose embedding was chosen, and rendering a piece of the library once more, bit for bit.

Mixes, paths, variations and uploaded sounds all end here.

Embeddings live on the unit sphere; angles are in radians, 0 to pi. Two samples of one prompt are typically 0.5 to 1
apart.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from musekit.config import MuseError
from musekit.entry import Entry, Origin
from musekit.inference import OnStep, filled, micro_batches
from musekit.muse import Muse, Piece
from musekit.recipe import Recipe, Settings, check

MOST = 256  # CPU threads, or pieces in a micro-batch, of a recipe from a file
TINY = 1e-6  # radians: two points this close, or this close to opposite, have no unique great circle


# -- the unit sphere


def unit(x: Tensor) -> Tensor:
    """Rows of x (..., D) scaled to length 1."""
    return torch.nn.functional.normalize(x, dim=-1)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between rows of a and b (..., D), exact also where they are close: 2 atan2(|a - b|, |a + b|)."""
    a, b = unit(a.double()), unit(b.double())
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def slerp(a: Tensor, b: Tensor, position: float) -> Tensor:
    """The point at `position` (0: a, 1: b, both bit for bit; or beyond b) of the great circle from a to b, any shape
    (Shoemake 1985). Raises MuseError for opposite vectors, between which no path is the shortest.
    """
    if position in (0.0, 1.0):
        return a if position == 0.0 else b
    w = float(angle(a.flatten(), b.flatten()))
    if w < TINY:
        return a
    if math.pi - w < TINY:
        raise MuseError("the two ends are opposite points of the sphere; choose another end, or a point between them")
    p = float(position)
    mixed = (math.sin((1 - p) * w) * a.double() + math.sin(p * w) * b.double()) / math.sin(w)
    return mixed.to(a.dtype)


def along(stops: Tensor, n: int) -> Tensor:
    """n points (n, D) at equal angles on the path through `stops` (k, D), k >= 2.

    The first and the last are the first and last stop, bit for bit.
    """
    legs = angle(stops[:-1], stops[1:])
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), legs.cumsum(0)])
    rows = []
    for s in torch.linspace(0, float(ends[-1]), n, dtype=torch.float64).tolist():
        k = min(int((ends[1:] < s).sum()), len(legs) - 1)
        p = min(1.0, (s - float(ends[k])) / max(float(legs[k]), TINY))
        rows.append(slerp(stops[k], stops[k + 1], p))
    rows[0], rows[-1] = stops[0], stops[-1]
    return torch.stack(rows)


def blend(points: Tensor, weights: Tensor) -> Tensor:
    """The mean (D,) of unit vectors (n, D) on the sphere, with weights (n,) that sum to 1: the m with the least sum of
    w_i angle(m, x_i)^2 (Buss and Fillmore 2001). For two it is their slerp; a point of weight 1 comes back bit for bit.

    Raises MuseError where the vectors cancel, so that no mean is the nearest.
    """
    if float(weights.max()) == 1.0:
        return points[int(weights.argmax())]
    x, w = unit(points.double()), weights.double()
    m = w @ x
    if float(m.norm()) < TINY:
        raise MuseError("these places are opposite points of the sphere and cancel; move nearer to one of them")
    for _ in range(60):
        m = unit(m)
        logs = unit(x - (x @ m)[:, None] * m) * angle(m, x)[:, None]  # from m towards each, as far as it is away
        step = w @ logs
        length = step.norm()
        if length < 1e-12:
            break
        m = m * length.cos() + step / length * length.sin()
    return unit(m).to(points.dtype)


# -- rendering


@dataclass
class RenderedPiece(Piece):
    """A `muse.Piece` of a given embedding (512,), or of several (n, 512) whose sounds fade one into the next."""

    origin: Origin | None = None


def render(
    muse: Muse, embeddings: Tensor, recipes: Sequence[Recipe], origins: Sequence[Origin],
    on_step: OnStep | None = None, cancel=None,
) -> Iterator[RenderedPiece]:  # fmt: skip
    """Render embeddings (n, 512) with one recipe and origin each; yields pieces as their micro-batches are done.

    A piece's similarity is the cosine of its sound with its prompt, or with the given embedding where it has none.
    """
    rate, done = muse.config.codec.sample_rate, 0
    for batch in micro_batches(recipes):
        index = slice(done, done + len(batch))
        given = embeddings[index].cpu()
        audio, nfe = muse.render_batch(embeddings[index], batch, on_step, cancel)
        for i, (recipe, origin) in enumerate(zip(batch, origins[index], strict=True)):
            sound = muse.embedder.embed_audio(audio[i][None], rate)[0]
            target = text_embedding(muse.embedder, recipe.prompt) if origin.prompted else given[i]
            counts = {"stage1": 0, "stage2": int(nfe[i])}
            controls, similarity = filled(muse.stage2, recipe, given[i]), float(target @ sound)
            yield RenderedPiece(audio[i], rate, given[i], recipe, similarity, counts, controls, origin)
        done += len(batch)


@functools.lru_cache(256)
def text_embedding(embedder, prompt: str) -> Tensor:
    """The joint embedding (512,) of a prompt, which many places share."""
    return embedder.embed_text([prompt])[0]


def render_again(
    muse: Muse, entry: Entry, on_step: OnStep | None = None, cancel=None, source: Piece | None = None
) -> Piece:
    """The piece of a library's entry once more, with the recipe's dtypes and threads: the same bits on the same kind of
    machine. source: what it was repainted in, or continues.

    Raises MuseError for an imported sound, other weights, an origin without its embedding, or an edit without source.
    """
    recipe, origin = entry.recipe, entry.origin
    if recipe is None:
        raise MuseError(f"{entry.id} was imported as plain sound; it has no recipe")
    if recipe.weights != (muse := muse.of(recipe)).weights:
        raise MuseError(f"this piece was made by the weights {recipe.weights:.12}, and these are {muse.weights:.12}")
    recipes = origin.recipes if origin and origin.recipes else (recipe,)
    if origin is not None and (len(entry.embedding or b"") != 2048 * len(recipes) or len(recipes) > MOST):
        raise MuseError("this piece was rendered from an embedding that is not in its file; it cannot be made again")
    for one in recipes:  # they may come from a stranger's file
        check(one, muse.config)
        for name in ("threads", "micro_batch"):
            if not 1 <= getattr(one, name) <= MOST:
                raise MuseError(f"this piece's recipe has {name} = {getattr(one, name)}; at most {MOST} are run here")
    dtypes = {"dtype": recipe.dtype, "stage1_dtype": recipe.stage1_dtype}
    if dtypes != {"dtype": str(muse.autocast_dtype).removeprefix("torch."), "stage1_dtype": muse.stage1_dtype}:
        muse = replace(muse, **dtypes)  # with networks of its own
    with threads(recipe.threads):
        if recipe.edit is not None:
            return _edit_again(muse, entry, source, on_step, cancel)
        if origin is None:
            return next(iter(muse.stream([recipe], on_step, cancel)))
        rows = embeddings_of(entry)
        return sequence(list(render(muse, rows, recipes, [origin] * len(recipes), on_step, cancel)), origin.how)


def _edit_again(muse: Muse, entry: Entry, source: Piece | None, on_step: OnStep | None, cancel) -> Piece:
    recipe, edit = entry.recipe, entry.recipe.edit
    if source is None:
        raise MuseError("this piece was repainted or continued; it cannot be made again without the piece before it")
    options = {f.name: getattr(recipe, f.name) for f in fields(Settings)[1:] if hasattr(recipe, f.name)}
    options |= {"steps": recipe.stage2_steps, "solver": recipe.stage2_solver, "controls": recipe.controls}
    options |= {"trained": edit.trained, "on_step": on_step, "cancel": cancel}
    own = np.asarray(source.embedding, "<f4").tobytes() == entry.embedding  # no other prompt was given
    more = recipe.seconds - source.audio.shape[1] / source.sample_rate
    make, where = (muse.continue_, (more,)) if more > 1e-4 else (muse.repaint, (edit.start, edit.stop))
    piece = make(source, *where, None if own else recipe.prompt, recipe.seed, **options)
    if piece.recipe.edit != edit:
        raise MuseError("this piece was made from other sound than that of the piece before it, as it is now")
    return RenderedPiece(**vars(piece), origin=entry.origin)


def embeddings_of(entry: Entry) -> Tensor:
    """The embeddings (n, 512) that a piece was rendered from; empty where none are known."""
    return torch.from_numpy(np.frombuffer(entry.embedding or b"", "<f4").reshape(-1, 512).copy())


@contextlib.contextmanager
def threads(n: int):
    """torch with n threads inside the block: their number decides the order of sums, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sequence(pieces: Sequence[RenderedPiece], how: str) -> RenderedPiece:
    """Pieces one after another, each fading into the next, as one piece that can be made again."""
    if len(pieces) == 1:
        return pieces[0]
    audio = crossfade([piece.audio for piece in pieces], pieces[0].sample_rate)
    origin = Origin(how[:500], False, tuple(piece.recipe for piece in pieces))
    similarity = float(np.mean([piece.similarity for piece in pieces]))
    rows, middle = torch.stack([piece.embedding for piece in pieces]), pieces[len(pieces) // 2]
    return replace(middle, audio=audio, embedding=rows, similarity=similarity, origin=origin)


def crossfade(clips: Sequence[Tensor], sample_rate: int, seconds: float = 1.0) -> Tensor:
    """Clips (2, N_i) one after another, overlapping by at most `seconds`, at constant power: (2, N) below clipping."""
    joined = clips[0].float()
    for clip in clips[1:]:
        n = min(round(max(0.0, seconds) * sample_rate), joined.shape[1] // 2, clip.shape[1] // 2)
        angle = torch.linspace(0, math.pi / 2, n)
        middle = joined[:, joined.shape[1] - n :] * angle.cos() + clip[:, :n] * angle.sin()
        joined = torch.cat([joined[:, : joined.shape[1] - n], middle, clip[:, n:]], dim=1)
    return joined / (joined.abs().max() / 0.99).clamp_min(1.0)
