"""prompts: is what was asked for heard?  render-true: the same of Stage 2 alone, from true embeddings.

Generated clips are judged as held-out originals and codec round trips are, so the three accuracies compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.corpus.captions import evaluation_prompts
from musekit.corpus.claims import fits
from musekit.evaluate import generated
from musekit.evaluate.ceiling import confusion, like_prompts, rate_of, ratio, references, verdicts
from musekit.evaluate.embedder import zero_shot
from musekit.evaluate.judge import ATTRIBUTES, TEXTURE, in_scale
from musekit.evaluate.subject import Subject, read_audio, table, target
from musekit.files import sha256

RENDERED = 96  # clips that are rendered from their true embeddings


def as_record(asks: dict) -> dict:
    """What a prompt asks, as the record of a clip that obeys it."""
    return {**asks, "instrumentation": asks.get("instrument")}


def measured(heard: dict, name: str) -> float:
    """One of the judge's measures of texture, or the share of the chroma that lies in one scale."""
    return in_scale(heard["chroma"]) if name == "in_scale" else float(heard["texture"][TEXTURE.index(name)])


def textures(heard: Sequence[dict], reference: Sequence[dict], source: str) -> list[dict]:
    """Percentiles of what tells notes from texture, a key from none; KS (Kolmogorov-Smirnov) distance to real clips."""
    from scipy.stats import ks_2samp

    rows = []
    for name in (*TEXTURE, "in_scale"):
        x, real = ([measured(h, name) for h in many] for many in (heard, reference))
        some = {f"p{p}": float(np.percentile(x, p)) for p in (10, 50, 90)}
        distance = float(ks_2samp(x, real).statistic)
        rows.append({"measure": "texture", "name": name, "source": source, **some, "ks": distance})
    return rows


def similarities(subject: Subject, prompts: Sequence[dict], x: np.ndarray, real: Sequence[dict]) -> list[dict]:
    """Mean cosine of a prompt and its clip, x (n, 512), beside that of held-out clips that fit the prompt or do not."""
    text = subject.muse.embedder.embed_text([p["text"] for p in prompts]).double().numpy()
    cosine = text @ subject.embeddings(real).T
    match = np.array([[fits(p["asks"], c) for c in real] for p in prompts])
    sources = {
        "generated": (text * x).sum(1),
        "held-out clips that fit the prompt": cosine[match],
        "held-out clips that do not": cosine[~match],
    }
    some = {k: v for k, v in sources.items() if len(v)}
    return [{"measure": "similarity", "source": k, "n": len(v), "mean": float(v.mean())} for k, v in some.items()]


def measure_prompts(subject: Subject) -> None:
    """Writes results/prompts.json."""
    prompts = evaluation_prompts(subject.n)
    paths = generated.from_prompts(subject, prompts)
    facts = [generated.facts(p) for p in paths]
    records = [as_record(p["asks"]) for p in prompts]
    heard = subject.hear_files(paths, "listening to generated clips")
    rows = references(subject) + verdicts(subject, records, heard, "generated")
    bars = []
    for attribute in ATTRIBUTES:
        pair = [rate_of(rows, attribute, s) for s in ("generated", "held-out round trips")]
        bars.append(target(f"prompts are obeyed, {attribute}: generated / round trips", ratio(*pair), at_least=0.9))
    # the same question put to the embedder: of Stage 1's embeddings, and of what was heard in the end
    asked = np.array([f["embedding"] for f in facts])
    final = np.stack([subject.embedding_of(sha256(p)[:24], lambda p=p: read_audio(p)) for p in paths])
    told = [
        *zero_shot(subject, records, asked, "embedder, of Stage 1's embeddings"),
        *zero_shot(subject, records, final, "embedder, of generated audio"),
    ]
    real = like_prompts(subject)
    rows += similarities(subject, prompts, final, real)
    shown = subject.hear_clips(real)
    rows += textures(shown, shown, "held-out originals")
    rows += textures(subject.hear_round_trips(real), shown, "held-out round trips")
    rows += textures(heard, shown, "generated")
    rows += told + confusion(subject, records, heard, "generated")
    table([r for r in rows if r["measure"] == "accuracy"], "attribute", "source", "n", "accuracy", "low", "high")
    table([r for r in rows if r["measure"] == "texture"], "name", "source", "p10", "p50", "p90", "ks")
    table([r for r in rows if r["measure"] == "similarity"], "source", "n", "mean")
    table([r for r in rows if r["measure"] == "confusion"], "true", "judged")
    table(bars, "name", "value", "bar", "met")
    subject.write("prompts", rows + bars, seed=generated.PROMPT_SEED)


def measure_render_true(subject: Subject) -> None:
    """Writes results/render-true.json: what is lost here is Stage 2's, what is lost beyond it Stage 1's."""
    clips = like_prompts(subject)[: min(subject.n, RENDERED)]
    heard = subject.hear_files(generated.from_embeddings(subject, clips), "listening to rendered clips")
    rows = references(subject) + verdicts(subject, clips, heard, "Stage 2 from true embeddings")
    rows += zero_shot(subject, clips, subject.embeddings(clips), "embedder, of the true embeddings")
    rows += textures(heard, subject.hear_clips(clips), "Stage 2 from true embeddings")
    rows += confusion(subject, clips, heard, "Stage 2 from true embeddings")
    table([r for r in rows if r["measure"] == "accuracy"], "attribute", "source", "n", "accuracy", "low", "high")
    table([r for r in rows if r["measure"] == "texture"], "name", "source", "p10", "p50", "p90", "ks")
    subject.write("render-true", rows, seed=generated.RENDER_SEED)
