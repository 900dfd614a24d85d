"""Quality and diversity of Stage 1's embeddings alone: seconds of work, so that many settings can be compared.

One sample for one caption of each held-out clip: if Stage 1 is right, these samples are distributed as the clips'
own embeddings are. And several samples for each vague prompt: if it is right, they are spread as its right answers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from musekit.corpus.captions import prompts
from musekit.evaluate.ceiling import HELD_OUT
from musekit.evaluate.diversity import right_answers
from musekit.evaluate.subject import Subject
from musekit.muse import Muse, Settings, micro_batches
from musekit.statistics import KernelDistance, mean_interval, neighbours, spread, unit_distances

SEED = 100_000
CLIPS, PROMPTS, EACH = 240, 12, 16  # held-out clips with a caption each; vague prompts; samples of each
MICRO_BATCH = 16


@dataclass
class Embedded:
    """What one setting sampled."""

    captions: np.ndarray  # (clips, 512): one sample a held-out clip
    spreads: np.ndarray  # (prompts,) of the samples of each vague prompt
    nfe: float  # evaluations of the network a sample; guidance evaluates two rows each time


class Quality:
    """The held-out side, computed once, and what any Stage 1 is worth beside it."""

    def __init__(self, subject: Subject):
        self.subject = subject
        clips, some, self.each = (6, 2, 3) if subject.quick else (CLIPS, PROMPTS, EACH)
        self.clips = subject.split(*HELD_OUT)[:clips]
        self.texts = [c["captions"][i % len(c["captions"])]["text"] for i, c in enumerate(self.clips)]
        self.vague = prompts("vague")[:some]

    @cached_property
    def real(self) -> np.ndarray:
        """The clips' embeddings (n, 512)."""
        return self.subject.embeddings(self.clips)

    @cached_property
    def kernel(self) -> KernelDistance:
        """Distance to them."""
        return KernelDistance(self.real)

    @cached_property
    def told(self) -> np.ndarray:
        """The captions' embeddings (n, 512)."""
        return self.subject.muse.embedder.embed_text(self.texts).double().numpy()

    @cached_property
    def library(self) -> np.ndarray:
        """Embeddings of the training clips."""
        return self.subject.embeddings(self.subject.split("train"))

    @cached_property
    def right_spreads(self) -> np.ndarray:
        """Spread of the right answers of each vague prompt; NaN where fewer than two are known."""
        found = [right_answers(self.subject, p["asks"])[0] for p in self.vague]
        return np.array([spread(unit_distances(x)) if len(x) > 1 else np.nan for x in found])

    def sample(self, muse: Muse, settings: Settings) -> Embedded:
        """Sample with a system's Stage 1: always the same seeds, so that settings are paired."""
        x, nfe = sampled(muse, self.texts, settings)
        vague, _ = sampled(muse, [p["text"] for p in self.vague for _ in range(self.each)], settings, len(x))
        groups = np.split(vague, len(self.vague))
        return Embedded(x, np.array([spread(unit_distances(g)) for g in groups]), nfe)

    def row(self, found: Embedded, base: Embedded | None = None) -> dict:
        """Kernel distance, similarity, recall and diversity of a sample; against `base` the paired difference."""
        kernel, x = self.kernel.measured(found.captions), found.captions
        row = {"n": len(x), "m": len(self.real), "nfe": found.nfe}
        row |= {"kernel_distance": kernel["value"], "low": kernel["low"], "high": kernel["high"]}
        if base is not None:
            gap = self.kernel.paired_difference(x, base.captions)
            row |= {"against_default": gap["difference"], "against_low": gap["low"], "against_high": gap["high"]}
        close = mean_interval((x * self.told).sum(1))
        row |= {"similarity": close["mean"], "similarity_low": close["low"], "similarity_high": close["high"]}
        inside = neighbours.manifold(x, self.real) if min(len(x), len(self.real)) > neighbours.DENSITY_K else {}
        row |= {name: inside[name]["value"] for name in inside}
        known = np.isfinite(self.right_spreads)
        row["spread"] = float(found.spreads.mean())
        row["spread_ratio"] = float((found.spreads / self.right_spreads)[known].mean()) if known.any() else None
        return row | {"to_nearest": float(neighbours.nearest(x, self.library)[0].mean())}

    def ruler(self) -> dict:
        """The same of the held-out clips themselves: one half against the other."""
        half = len(self.real) // 2
        row = {"n": half, "m": len(self.real) - half}
        if half > 1:
            kernel = KernelDistance(self.real[half:]).measured(self.real[:half])
            row |= {"kernel_distance": kernel["value"], "low": kernel["low"], "high": kernel["high"]}
        row["similarity"] = float((self.real * self.told).sum(1).mean())
        known = self.right_spreads[np.isfinite(self.right_spreads)]
        row["spread"] = float(known.mean()) if len(known) else None
        return row | {"to_nearest": float(neighbours.nearest(self.real, self.library)[0].mean())}


def sampled(muse: Muse, texts: Sequence[str], settings: Settings, first: int = 0) -> tuple[np.ndarray, float]:
    """One embedding a text (n, 512), unit length, and the mean NFE; text i has the seed SEED + first + i."""
    settings = replace(settings, micro_batch=MICRO_BATCH)
    recipes = [muse.recipe(text, SEED + first + i, settings) for i, text in enumerate(texts)]
    rows = [muse.embed_rows(some) for some in micro_batches(recipes)]
    x = torch.cat([embeddings for embeddings, _ in rows]).double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True), float(torch.cat([nfe for _, nfe in rows]).double().mean())
