"""regression: what the mean of many right answers is worth.

The baseline answers a prompt with one vector. Where right answers disagree their mean is short, and once it is put
back on the sphere it may lie where no music is.
"""

from __future__ import annotations

import numpy as np
import torch

from musekit.corpus.captions import prompts
from musekit.corpus.claims import fits
from musekit.evaluate.ceiling import HELD_OUT
from musekit.evaluate.diversity import SEED, samples
from musekit.evaluate.subject import Subject, bar, table
from musekit.statistics import mean_interval, unit_distances


def predict(subject: Subject, text: str) -> np.ndarray:
    """The baseline's raw answer (512,)."""
    muse = subject.muse
    with torch.inference_mode():
        tokens, mask = (x.to(muse.device) for x in muse.text([text]))
        return muse.regression.predict(tokens, mask)[0].double().cpu().numpy()


def measure_regression(subject: Subject, first: int | None = None, n: int = 16) -> None:
    """Writes results/regression.json: 40 prompts, one answer each, n samples of Stage 1, and real clips that fit."""
    train, held_out = subject.split("train"), subject.split(*HELD_OUT)
    library, real = subject.embeddings(train), subject.embeddings(held_out)

    def gap(x: np.ndarray) -> float:
        """Mean distance of rows to their nearest training embedding."""
        return float(unit_distances(np.atleast_2d(x), library).min(1).mean())

    rows = []
    for level in ("vague", "specific"):
        for k, prompt in enumerate(bar(prompts(level)[:first], f"regression, {level} prompts")):
            raw = predict(subject, prompt["text"])
            answer = raw / max(np.linalg.norm(raw), 1e-9)
            x = samples(subject, prompt["text"], n, SEED + 1000 * k)
            fitting = real[[i for i, c in enumerate(held_out) if fits(prompt["asks"], c)]]
            row = {
                "measure": "prompt",
                "level": level,
                "prompt": prompt["text"],
                "norm": float(np.linalg.norm(raw)),
                "regression_to_nearest": gap(answer),
                "regression_raw_to_nearest": gap(raw),
                "samples_to_nearest": gap(x),
                "real": len(fitting),
                "real_to_nearest": gap(fitting) if len(fitting) else None,
                "norm_of_samples_mean": float(np.linalg.norm(x.mean(0))),
                "norm_of_real_mean": float(np.linalg.norm(fitting.mean(0))) if len(fitting) > 1 else None,
            }
            rows.append(row)
    names = [name for name in rows[0] if name not in ("measure", "level", "prompt", "real")]
    summary = []
    for level in ("vague", "specific"):
        for name in names:
            values = [r[name] for r in rows if r["level"] == level and r[name] is not None]
            if values:
                x = np.array(values)
                summary.append({"measure": "mean", "level": level, "name": name, "n": len(x), **mean_interval(x)})
    table(summary, "level", "name", "n", "mean", "low", "high")
    subject.write("regression", rows + summary, seed=SEED)
