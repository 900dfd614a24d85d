"""diversity: are a prompt's samples as different from each other as its right answers are?  regression: what is the
mean of many right answers worth?

Spread is the average distance between two embeddings. The regression baseline answers a prompt with one vector. Where
right answers disagree their mean is short, and projected back to the sphere it may lie where no music is.
"""

from __future__ import annotations

import numpy as np
import torch

from musekit.corpus.captions import fits, prompts
from musekit.evaluate.right_answers import right_answers
from musekit.evaluate.sounds import progress, sampled
from musekit.evaluate.study import HELD_OUT, Study, target
from musekit.muse import Settings
from musekit.statistics import interval, mean_interval, neighbours, spread, spread_draws, unit_distances

SAMPLES = 64  # of Stage 1 per prompt
SEED = 60_000  # the samples of prompt k have the seeds SEED + 1000 k ...
LEVELS = ("vague", "specific")


def samples(study: Study, text: str, n: int, seed: int) -> np.ndarray:
    """n samples of Stage 1 with the preset's defaults, (n, 512), unit length."""
    return sampled(study.muse, [text] * n, seed, Settings(micro_batch=min(n, 16)))[0]


def regression_answer(study: Study, text: str) -> tuple[np.ndarray, float]:
    """The baseline's answer on the sphere (512,), and the length of its raw answer."""
    muse = study.muse
    with torch.inference_mode():
        raw = muse.regression.predict(*(x.to(muse.device) for x in muse.text([text])))[0].double().cpu().numpy()
    length = float(np.linalg.norm(raw))
    return raw / max(length, 1e-9), length


def spread_with_interval(x: np.ndarray, seed: int = 0) -> tuple[float | None, float | None, float | None]:
    """Spread of embeddings x (n, 512) and its interval; None for fewer than two."""
    if len(x) < 2:
        return None, None, None
    distances = unit_distances(x)
    return spread(distances), *interval(spread_draws(distances, seed=seed))


def measure_diversity(study: Study) -> None:
    """Writes results/diversity.json: 20 pairs of a vague and a specific prompt."""
    first, n = (2, 4) if study.quick else (None, SAMPLES)
    rows, pairs = [], []
    for k, pair in enumerate(progress(prompts("pairs")[:first], "diversity, pairs of prompts")):
        draws = []
        for level, prompt in zip(LEVELS, pair):
            x = samples(study, prompt["text"], n, SEED + 1000 * (2 * k + (level == "specific")))
            draws.append(spread_draws(unit_distances(x), seed=k))
            right, source, matching = right_answers(study, prompt["asks"])
            value, low, high = spread_with_interval(x, seed=k)
            real = spread_with_interval(right)[0]
            row = {"measure": "prompt", "level": level, "prompt": prompt["text"], "spread": value}
            row |= {"low": low, "high": high, "held_out": matching, "reference": source, "n": len(right)}
            rows.append(row | {"real": real, "ratio": value / real if real else None})
        low, high = interval(draws[0] - draws[1])
        vague, specific = rows[-2:]
        row = {"measure": "pair", "vague": vague["prompt"], "specific": specific["prompt"]}
        row |= {"difference": vague["spread"] - specific["spread"], "low": low, "high": high, "above_0": low > 0}
        known = None not in (vague["real"], specific["real"])
        pairs.append(row | {"real_difference": vague["real"] - specific["real"] if known else None})
    summary, bars = [], []
    for level in LEVELS:  # one bar each: samples too wide here and too narrow there must not cancel
        some = [r for r in rows if r["level"] == level and r["ratio"] is not None]
        means = {name: float(np.mean([r[name] for r in some])) for name in ("spread", "real", "ratio") if some}
        within = f"{sum(0.8 <= r['ratio'] <= 1.2 for r in some)} of {len(some)} prompts"
        name = f"one to many, {level}: spread of samples / of right answers"
        bars.append(target(name, means.get("ratio"), 0.8, 1.2, within=within))
        if some:
            summary.append({"measure": "mean", "level": level, "n": len(some), **means})
    wider = sum(p["above_0"] for p in pairs)
    bars.append(target("one to many: pairs whose vague prompt is spread wider", wider, at_least=18))
    study.write("diversity", rows + pairs + summary + bars, seed=SEED)


def measure_regression(study: Study) -> None:
    """Writes results/regression.json: 40 prompts, one answer each, samples of Stage 1, and real clips that match."""
    first, n = (2, 4) if study.quick else (None, 16)
    held_out = study.split(*HELD_OUT)
    library, real = study.embeddings(study.split("train")), study.embeddings(held_out)

    def to_nearest(x: np.ndarray) -> float | None:
        """Mean distance to the nearest training embedding."""
        return float(neighbours.nearest(x, library)[0].mean()) if len(x) else None

    rows = []
    for level in LEVELS:
        for k, prompt in enumerate(progress(prompts(level)[:first], f"regression, {level} prompts")):
            answer, length = regression_answer(study, prompt["text"])
            x = samples(study, prompt["text"], n, SEED + 1000 * k)
            matching = real[[i for i, c in enumerate(held_out) if fits(prompt["asks"], c)]]
            row = {
                "measure": "prompt",
                "level": level,
                "prompt": prompt["text"],
                "norm": length,
                "regression_to_nearest": to_nearest(answer[None]),
                "regression_raw_to_nearest": to_nearest(length * answer[None]),
                "samples_to_nearest": to_nearest(x),
                "real": len(matching),
                "real_to_nearest": to_nearest(matching),
                "norm_of_samples_mean": float(np.linalg.norm(x.mean(0))),
                "norm_of_real_mean": float(np.linalg.norm(matching.mean(0))) if len(matching) > 1 else None,
            }
            rows.append(row)
    summary = []
    for level in LEVELS:
        for name in [name for name in rows[0] if name not in ("measure", "level", "prompt", "real")]:
            values = [r[name] for r in rows if r["level"] == level and r[name] is not None]
            if values:
                row = {"measure": "mean", "level": level, "name": name, "n": len(values)}
                summary.append(row | mean_interval(np.array(values)))
    study.write("regression", rows + summary, seed=SEED)
