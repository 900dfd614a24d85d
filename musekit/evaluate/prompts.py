"""prompts: do generated clips sound as their prompts ask?

The judge hears generated clips as it hears held-out originals and codec round trips, so the three accuracies compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.corpus.captions import evaluation_prompts, fits
from musekit.evaluate.embedder import zero_shot
from musekit.evaluate.judge import ATTRIBUTES, accuracy_rows, ceiling_rows, ratio
from musekit.evaluate.sounds import generated
from musekit.evaluate.study import Study, target
from musekit.muse import Settings

PROMPT_SEED = 20_000  # piece i of the prompts has the seed 20,000 + i


def as_record(asks: dict) -> dict:
    """The attributes that a prompt asks for, as the record of a clip that has them."""
    return {**asks, "instrumentation": asks.get("instrument")}


def evaluation_pieces(study: Study) -> tuple[list[dict], list, np.ndarray]:
    """The n evaluation prompts, a piece for each with the preset's defaults, and Stage 1's embeddings (n, 512)."""
    prompts = evaluation_prompts(study.n)
    return prompts, *generated(study.muse, [p["text"] for p in prompts], PROMPT_SEED, Settings())


def similarity_rows(study: Study, prompts: Sequence[dict], x: np.ndarray, real: Sequence[dict]) -> list[dict]:
    """Mean cosine of a prompt with its clip, x (n, 512), and with held-out clips that match the prompt or do not."""
    text = study.embed_text([p["text"] for p in prompts])
    cosine = text @ study.embeddings(real).T
    match = np.array([[fits(p["asks"], c) for c in real] for p in prompts])
    sources = {
        "generated": (text * x).sum(1),
        "held-out clips that fit the prompt": cosine[match],
        "held-out clips that do not": cosine[~match],
    }
    some = {k: v for k, v in sources.items() if len(v)}
    return [{"measure": "similarity", "source": k, "n": len(v), "mean": float(v.mean())} for k, v in some.items()]


def measure_prompts(study: Study) -> None:
    """Writes results/prompts.json."""
    prompts, paths, sampled = evaluation_pieces(study)
    records = [as_record(p["asks"]) for p in prompts]
    rows = ceiling_rows(study) + accuracy_rows(study, records, study.features(paths), "generated")
    bars = []
    for attribute in ATTRIBUTES:
        value = ratio(rows, attribute, "generated", of="held-out round trips")
        bars.append(target(f"prompts are obeyed, {attribute}: generated / round trips", value, at_least=0.9))
    heard = study.embed_files(paths)
    rows += similarity_rows(study, prompts, heard, study.prompt_like())
    # the same question to the embedder: of Stage 1's embeddings, and of the generated audio
    rows += zero_shot(study, records, sampled, "embedder, of Stage 1's embeddings")
    rows += zero_shot(study, records, heard, "embedder, of generated audio")
    study.write("prompts", rows + bars, seed=PROMPT_SEED)
