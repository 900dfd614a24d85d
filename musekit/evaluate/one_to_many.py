"""One prompt has many right answers. How well do samples of Stage 1 cover them? What is regression worth?

diversity     spread (average distance of two embeddings) of samples, beside that of the right answers
regression    the baseline's one vector: where right answers disagree their mean is short, and projected back to the
              sphere it may lie where no music is
one-to-many   calibration: the share of right answers within the radius that contains a share q of the samples. It is q
              if samples and right answers have the same distribution (exactly, for any number of samples).
"""

from __future__ import annotations

import numpy as np
import torch

from musekit.claims import matches
from musekit.corpus.captions import prompts
from musekit.evaluate.right_answers import right_answers
from musekit.evaluate.study import HELD_OUT, Study, progress, target
from musekit.statistics import accuracy, interval, mean_interval, spread_draws, spread_with_interval, unit_distances

SAMPLES = 64  # of Stage 1 per prompt
SEED = 60_000  # the samples of prompt k have the seeds SEED + 1000 k ...
LEVELS = ("vague", "specific")
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def regression_answer(study: Study, text: str) -> tuple[np.ndarray, float]:
    """The baseline's answer on the sphere (512,), and the length of its raw answer."""
    muse = study.muse
    with torch.inference_mode():
        raw = muse.regression.predict(*(x.to(muse.device) for x in muse.text([text])))[0].double().cpu().numpy()
    length = float(np.linalg.norm(raw))
    return raw / max(length, 1e-9), length


def measure_diversity(study: Study) -> None:
    """Writes results/diversity.json: 20 pairs of a vague and a specific prompt."""
    first, n = (2, 4) if study.quick else (None, SAMPLES)
    rows, pairs = [], []
    for k, pair in enumerate(progress(prompts("pairs")[:first], "diversity, pairs of prompts")):
        draws = []
        for level, prompt in zip(LEVELS, pair):
            x = study.samples(prompt["text"], n, SEED + 1000 * (2 * k + (level == "specific")))
            draws.append(spread_draws(x, seed=k))
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
    library, real = study.embed(study.split("train")), study.embed(held_out)

    def to_nearest(x: np.ndarray) -> float | None:
        """Mean distance to the nearest training embedding."""
        return float(unit_distances(x, library).min(1).mean()) if len(x) else None

    rows = []
    for level in LEVELS:
        for k, prompt in enumerate(progress(prompts(level)[:first], f"regression, {level} prompts")):
            answer, length = regression_answer(study, prompt["text"])
            x = study.samples(prompt["text"], n, SEED + 1000 * k)
            matching = real[[i for i, c in enumerate(held_out) if matches(prompt["asks"], c)]]
            row = {"measure": "prompt", "level": level, "prompt": prompt["text"], "norm": length}
            row |= {"regression_to_nearest": to_nearest(answer[None]), "samples_to_nearest": to_nearest(x)}
            rows.append(row | {"real": len(matching), "real_to_nearest": to_nearest(matching)})
    summary = []
    for level in LEVELS:
        for name in ("norm", "regression_to_nearest", "samples_to_nearest", "real_to_nearest"):
            values = [r[name] for r in rows if r["level"] == level and r[name] is not None]
            if values:
                row = {"measure": "mean", "level": level, "name": name, "n": len(values)}
                summary.append(row | mean_interval(np.array(values)))
    study.write("regression", rows + summary, seed=SEED)


def ranks(x: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each right answer (m, D) the share in [0, 1) of samples x (n, D) that are nearer to the samples' centre.

    The centre is the mean of one half of the samples, the radii are those of the other half. So a right answer that
    is drawn from the samples' distribution has each rank with the same probability.
    """
    half = len(x) // 2
    centre = x[:half].mean(0)
    radius, own = (np.linalg.norm(some - centre, axis=1) for some in (x[half:], right))
    return (radius[None] < own[:, None]).sum(1) / (len(radius) + 1)


def calibration(u: np.ndarray, n: int, **about) -> list[dict]:
    """Share of right answers within the radius that should contain q of them; u: `ranks` against n - n // 2 radii."""
    rows, size = [], n - n // 2 + 1
    for inside in dict.fromkeys(round(q * size) / size for q in SHARES):  # the shares that n radii can resolve
        found = accuracy(u < inside - 1e-9)
        rows.append({"measure": "calibration", **about, "nominal": inside, "inside": found["accuracy"]})
        rows[-1] |= {"low": found["low"], "high": found["high"], "n": len(u)}
    return rows


def measure_one_to_many(study: Study) -> None:
    """Writes results/one-to-many.json: the calibration curve of each level of prompts."""
    n, first = (8, 4) if study.quick else (SAMPLES, None)
    asked = [("anything", {"text": "music", "asks": {}})] + [(level, p) for level in LEVELS for p in prompts(level)]
    ranked: dict[str, list[np.ndarray]] = {}
    for k, (level, prompt) in enumerate(progress(asked[:first], "one to many, prompts")):
        x, (right, *_) = study.samples(prompt["text"], n, SEED + 1000 * k), right_answers(study, prompt["asks"])
        ranked.setdefault(level, []).append(ranks(x, right))
    rows = [row for level, u in ranked.items() for row in calibration(np.concatenate(u), n, level=level)]
    study.write("one-to-many", rows, seed=SEED, embedding=study.embedding_name)
