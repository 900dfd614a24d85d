"""diversity: are a prompt's samples as different from each other as its right answers are?

Spread is the average distance of two embeddings. Right answers are held-out clips that fit the prompt: the cache's own
where there are enough of them, else new renderings of held-out works.
"""

from __future__ import annotations

import numpy as np

from musekit.corpus.captions import prompts
from musekit.corpus.claims import fits
from musekit.evaluate import reference
from musekit.evaluate.ceiling import HELD_OUT
from musekit.evaluate.subject import Subject, bar, table, target
from musekit.statistics import interval, spread, spread_draws, unit_distances

SAMPLES = 64  # of Stage 1, a prompt
ENOUGH = 20  # held-out clips that fit; below that, this many and a few more are rendered
RENDERED = 24
SEED = 60_000  # prompt k's samples have the seeds SEED + 1000 k ...


def samples(subject: Subject, text: str, n: int, seed: int) -> np.ndarray:
    """n samples of Stage 1 with the preset's defaults, (n, 512), unit length."""
    x = subject.muse.embed(text, n, seed, micro_batch=min(n, 16)).double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def right_answers(subject: Subject, asks: dict) -> tuple[np.ndarray, str, int]:
    """Embeddings (n, 512) of real music that fits, where they come from, and how many held-out clips of the cache fit.

    n may be 0: no held-out work can be played as asked.
    """
    right = subject.embeddings([c for c in subject.split(*HELD_OUT) if fits(asks, c)])
    if len(right) < ENOUGH:
        rendered = reference.embeddings(subject, asks, 2 if subject.quick else RENDERED)
        if len(rendered) > len(right):
            return rendered, "new renderings of held-out works", len(right)
    return right, "held-out clips", len(right)


def measure_diversity(subject: Subject, first: int | None = None, n: int = SAMPLES) -> None:
    """Writes results/diversity.json: 20 pairs of a vague and a specific prompt, or the first of them."""
    rows, pairs = [], []
    for k, pair in enumerate(bar(prompts("pairs")[:first], "diversity, pairs of prompts")):
        draws = []
        for level, prompt in zip(("vague", "specific"), pair):
            seed = SEED + 1000 * (2 * k + (level == "specific"))
            distances = unit_distances(samples(subject, prompt["text"], n, seed))
            draws.append(spread_draws(distances, seed=k))
            right, source, fitting = right_answers(subject, prompt["asks"])
            low, high = interval(draws[-1])
            known = len(right) > 1
            row = {"measure": "prompt", "level": level, "prompt": prompt["text"], "spread": spread(distances)}
            row |= {"low": low, "high": high, "held_out": fitting, "reference": source, "n": len(right)}
            row["real"] = spread(unit_distances(right)) if known else None
            row["ratio"] = row["spread"] / row["real"] if known and row["real"] > 0 else None
            rows.append(row)
        low, high = interval(draws[0] - draws[1])
        vague, specific = rows[-2:]
        difference = vague["spread"] - specific["spread"]
        row = {"measure": "pair", "vague": vague["prompt"], "specific": specific["prompt"], "difference": difference}
        truth = vague["real"] - specific["real"] if vague["real"] is not None and specific["real"] is not None else None
        pairs.append(row | {"low": low, "high": high, "above_0": low > 0, "real_difference": truth})
    summary, bars = [], []
    for level in ("vague", "specific"):  # one bar each, lest too wide here and too narrow there look right together
        some = [r for r in rows if r["level"] == level and r["ratio"] is not None]
        ratio = float(np.mean([r["ratio"] for r in some])) if some else None
        within = f"{sum(0.8 <= r['ratio'] <= 1.2 for r in some)} of {len(some)} prompts"
        bars.append(
            target(f"one to many, {level}: spread of samples / of right answers", ratio, 0.8, 1.2, within=within)
        )
        if some:
            means = {name: float(np.mean([r[name] for r in some])) for name in ("spread", "real", "ratio")}
            summary.append({"measure": "mean", "level": level, "n": len(some), **means})
    wider = sum(p["above_0"] for p in pairs)
    bars.append(target("one to many: pairs whose vague prompt is spread wider", wider, at_least=18))
    table(rows, "level", "spread", "real", "ratio", "n", "held_out", "prompt")
    table(pairs, "difference", "low", "high", "real_difference", "vague", "specific")
    table(summary, "level", "n", "spread", "real", "ratio")
    table(bars, "name", "value", "bar", "met", "within")
    subject.write("diversity", rows + pairs + summary + bars, seed=SEED)
