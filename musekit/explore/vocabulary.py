"""Vocabulary: words for places in the space of music, found through the joint text-audio embedding.

A tag is near a sound when the embedding of "<tag> music" is. Some tags lie near everything, so places are told apart
by how much nearer a tag is to them than to music on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from musekit.explore.landscape import Landscape

WORDS = (
    "sad", "happy", "calm", "agitated", "cheerful", "dark", "serene", "solemn", "slow", "fast", "moderate", "soft",
    "loud", "baroque", "renaissance", "medieval", "folk", "romantic", "ragtime", "solo", "chordal", "polyphonic",
)  # fmt: skip
FORMS = ("chorale", "jig", "reel", "hornpipe", "waltz", "march", "polka", "minuet", "madrigal", "lament")
MODES = ("in a minor key", "in a major key")


def sentences() -> dict[str, str]:
    """{tag: the sentence that is embedded for it}."""
    from musekit.corpus.instruments import INSTRUMENTATIONS

    found = {word: f"{word} music" for word in WORDS}
    found |= {name: f"{name} music" for name in INSTRUMENTATIONS}
    found |= {form: f"a {form}" for form in FORMS}
    return found | {mode.removeprefix("in a "): f"music {mode}" for mode in MODES}


class Vocabulary:
    """The tags of a joint embedder, embedded once."""

    def __init__(self, embedder, tags: dict[str, str] | None = None):
        """embedder: `JointEmbedder`; tags: {tag: sentence}, default `sentences()`."""
        self.embedder, self.tags = embedder, sentences() if tags is None else tags

    @cached_property
    def embeddings(self) -> Tensor:
        """(tags, 512), unit length."""
        return self.embedder.embed_text(list(self.tags.values()))

    def scores(self, rows: Tensor, background: Tensor | None = None) -> Tensor:
        """Cosines (n, tags) of rows (n, 512) with the tags, less those of the rows of `background` on average."""
        cosines = rows.float() @ self.embeddings.T
        return cosines if background is None else cosines - (background.float() @ self.embeddings.T).mean(0)

    def nearest(self, rows: Tensor, background: Tensor | None = None, k: int = 3) -> list[str]:
        """The k tags nearest to rows (n, 512) on average."""
        best = self.scores(rows, background).mean(0).argsort(descending=True)
        return [list(self.tags)[i] for i in best[:k]]

    def of_each(self, rows: Tensor, among: Sequence[str] | None = None) -> list[str]:
        """The one tag of each row (n,) that is nearer to it than to the other rows; `among`: choose from these only."""
        names = list(self.tags)
        scores = self.scores(rows, rows)
        if among is not None:
            scores[:, [i for i, name in enumerate(names) if name not in among]] = -torch.inf
        return [names[i] for i in scores.argmax(1)]

    def named(self, land: Landscape) -> Landscape:
        """The map with its hills named by the tags nearest to their points, told apart where there are several."""
        x = torch.from_numpy(land.embeddings)
        background = x if len(land.peaks) > 1 else None
        names = [", ".join(self.nearest(x[list(peak.points)], background)) for peak in land.peaks]
        return replace(land, peaks=tuple(replace(peak, label=name) for peak, name in zip(land.peaks, names)))
