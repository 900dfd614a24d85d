"""Point: a place in the space of music; ways between points, mixes of them, and how different they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from musekit import prompts
from musekit.config import MuseError
from musekit.explore import sphere
from musekit.heldout import spread
from musekit.recipe import count


@dataclass(frozen=True, eq=False)
class Point:
    """An embedding and, where it matters, its own noise."""

    embedding: Tensor = field(repr=False)  # (512,) unit length
    label: str  # for people; a stranger's text
    group: str  # the prompt, or the name of what it belongs to
    kind: str = "sample"  # "sample", "sound", "path" or "mix"
    prompt: str = ""  # what its recipe says
    seed: int | None = None  # of Stage 1, for a sample
    noise: tuple = ()  # see `take.Origin`


def of_sound(embedding: Tensor, name: str) -> Point:
    """The point of a sound that was heard."""
    return Point(embedding.cpu(), name, name, "sound", f"like the sound {name}"[: prompts.LONGEST])


def path(stops: Sequence[Point], n: int = 7) -> list[Point]:
    """n points at equal angles along great circles through the stops; the ends are the outer stops themselves."""
    rows, positions = sphere.along(torch.stack([p.embedding for p in stops]), n)
    names = " to ".join(p.label[:60] for p in stops)
    told = [f"{names}: {at / (len(stops) - 1):.0%}" for at in positions.tolist()]
    text = f"from {names}"[: prompts.LONGEST]
    way = [Point(row, label, names, "path", text) for row, label in zip(rows, told)]
    return [replace(stops[0], label=told[0]), *way[1:-1], replace(stops[-1], label=told[-1])]


def noise_path(point: Point, seed: int, n: int = 7) -> list[Point]:
    """n points of one embedding whose noise goes from its own to that of `seed`."""
    n = max(2, count(n))
    at = [i / (n - 1) for i in range(n)]
    return [replace(point, label=f"{point.label}, noise {p:.0%}", noise=(*point.noise, (seed, p))) for p in at]


def mix(points: Sequence[Point], weights: Sequence[float]) -> Point:
    """The mean direction of points by their weights (0 or more, not all 0)."""
    if not points:
        raise MuseError("a mix needs a part; add a prompt or a sound")
    row, total = sphere.mean(torch.stack([p.embedding for p in points]), weights), sum(weights)
    told = ", ".join(f"{w / total:.0%} {p.label[:50]}" for p, w in zip(points, weights) if w > 0)
    return Point(row, told, "mix", "mix", f"a mix of {told}"[: prompts.LONGEST])


def cosines(points: Sequence[Point], embed_text: Callable[[list[str]], Tensor], text: str = "") -> np.ndarray:
    """The cosine of each point with a text (default: its own prompt), (n,)."""
    asked = [prompts.clean(text) if text.strip() else p.prompt or p.label for p in points]
    distinct = list(dict.fromkeys(asked))
    rows = dict(zip(distinct, embed_text(distinct)))
    return np.array([float(rows[a] @ p.embedding) for a, p in zip(asked, points)])


def diversity(sets: Mapping[str, Tensor]) -> list[dict]:
    """A row a set of embeddings (n, 512), n > 1: mean distance of pairs (`spread`) and mean angle in degrees."""
    rows = []
    for name, some in sets.items():
        if len(some) < 2:
            continue
        pairs = torch.ones(len(some), len(some), dtype=torch.bool).triu(1)
        cosine = (some.double() @ some.double().T).clamp(-1, 1)[pairs]
        angle = float(torch.rad2deg(torch.arccos(cosine)).mean())
        rows.append({"group": name, "n": len(some), "spread": spread(some), "angle": angle})
    return rows
