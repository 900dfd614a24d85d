"""one-to-many: one prompt has many right answers; which answers does the system give?

For 40 prompts from vague to specific, and for "music", which asks for nothing: the spread of the right answers in
held-out data, the spread of Stage 1's samples, and the place of the regression baseline's single answer. Then audio.

    calibration   the share of right answers within the radius that contains a share q of the samples: q if samples and
                  right answers have the same distribution (exactly, for any number of samples)
    sound         the regression's answer and Stage 1's samples through the same Stage 2 with the same seeds, 6 s each
"""

from __future__ import annotations

import numpy as np

from musekit.corpus.captions import fits, prompts
from musekit.evaluate.diversity import SAMPLES, SEED, regression_answer, samples, spread_with_interval
from musekit.evaluate.features import spectral_contrast
from musekit.evaluate.right_answers import right_answers
from musekit.evaluate.sounds import progress, read_audio, rendered
from musekit.evaluate.study import HELD_OUT, Study
from musekit.muse import Settings
from musekit.statistics import KernelDistance, accuracy, mean_interval, neighbours, paired_difference

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
PLAYED, PIECES, SECONDS = 8, 4, 6.0  # vague prompts that are rendered, pieces of each, their length
SOUND_SEED = 80_000
MEASURES = ("spectral_contrast_db", "similarity", "to_nearest")


def graded_prompts() -> list[dict]:
    """The prompts with their level and the number of facts that each asks for."""
    some = [{"text": "music", "asks": {}, "level": "anything"}]
    some += [{**p, "level": level} for level in ("vague", "specific") for p in prompts(level)]
    return [{**p, "facts": len(p["asks"])} for p in some]


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


def prompt_row(study: Study, prompt: dict, k: int, n: int, library: np.ndarray) -> tuple[dict, np.ndarray]:
    """The row of prompt k, and the ranks of its right answers. library: embeddings of the training clips."""
    x = samples(study, prompt["text"], n, SEED + 1000 * k)
    right, source, held_out = right_answers(study, prompt["asks"])
    answer, length = regression_answer(study, prompt["text"])
    sets = {"samples": x, "right": right, "regression": np.repeat(answer[None], n, 0)}
    row = {"measure": "prompt", "level": prompt["level"], "facts": prompt["facts"], "prompt": prompt["text"]}
    row |= {"reference": source, "held_out": held_out, "n": n, "m": len(right), "regression_length": length}
    for name in ("samples", "right"):
        keys = f"spread_{name}", f"spread_{name}_low", f"spread_{name}_high"
        row |= dict(zip(keys, spread_with_interval(sets[name], seed=k)))
    row["ratio"] = row["spread_samples"] / row["spread_right"] if row["spread_right"] else None
    kernel = KernelDistance(right) if len(right) > 2 else None
    for name, some in sets.items():
        row[f"{name}_to_nearest"] = float(neighbours.nearest(some, library)[0].mean()) if len(some) else None
        if name != "right":
            row[f"{name}_kernel_distance"] = kernel.of(some) if kernel else None
    return row, ranks(x, right)


def means(rows: list[dict], by: str) -> list[dict]:
    """Means over prompts for each value of `by`, with intervals; and regression - samples, paired by prompt."""
    found = []
    names = ("spread_samples", "spread_right", "ratio", "regression_length")
    names += tuple(f"{s}_{what}" for what in ("to_nearest", "kernel_distance") for s in ("samples", "regression"))
    for value in dict.fromkeys(row[by] for row in rows):
        some = [row for row in rows if row[by] == value]
        for name in (*names, "right_to_nearest"):
            known = [row[name] for row in some if row[name] is not None]
            if known:
                found.append({"measure": "mean", by: value, "name": name, "n": len(known), **mean_interval(known)})
        for what in ("to_nearest", "kernel_distance"):
            both = [(r[f"regression_{what}"], r[f"samples_{what}"]) for r in some if r[f"samples_{what}"] is not None]
            if both:
                gap = paired_difference(*np.array(both).T)
                found.append({"measure": "difference", by: value, "name": f"{what}, regression - samples"} | gap)
    return found


def sound_measures(study: Study, paths: list, text: np.ndarray, library: np.ndarray) -> dict[str, np.ndarray]:
    """`MEASURES` of sounds, (n,) each, and their embeddings as "x"; text (512,) is the prompt's embedding."""
    x = study.embed_files(paths, SECONDS)
    contrast = np.array([spectral_contrast(*read_audio(p, SECONDS)) for p in paths])
    near = neighbours.nearest(x, library)[0] if len(x) else np.zeros(0)
    return {"x": x, "spectral_contrast_db": contrast, "similarity": x @ text, "to_nearest": near}


def measure_sound(study: Study, played: int, pieces: int, library: np.ndarray) -> list[dict]:
    """How the regression's answer sounds beside samples and right answers, paired by prompt."""
    muse, settings = study.muse, Settings(seconds=min(SECONDS, study.muse.config.sample.seconds))
    sources, held_out = {"samples": [], "regression": [], "right answers": []}, study.split(*HELD_OUT)
    for k, prompt in enumerate(prompts("vague")[:played]):
        text, seeds = study.embed_text([prompt["text"]])[0], [SOUND_SEED + 100 * k + i for i in range(pieces)]
        recipes = [muse.recipe(prompt["text"], seed, settings) for seed in seeds]
        answer = regression_answer(study, prompt["text"])[0]
        paths = {
            "samples": rendered(muse, samples(study, prompt["text"], pieces, seeds[0]), recipes, "rendering samples"),
            "regression": rendered(muse, np.repeat(answer[None], pieces, 0), recipes, "rendering the regression"),
            "right answers": study.paths([c for c in held_out if fits(prompt["asks"], c)][:pieces]),
        }
        for source, some in paths.items():
            sources[source].append(sound_measures(study, some, text, library))
    rows, about = [], {"prompts": played, "pieces": pieces, "seconds": settings.seconds}
    means = {s: {n: [f[n].mean() for f in found if len(f[n])] for n in MEASURES} for s, found in sources.items()}
    for source, found in sources.items():
        spreads = [spread_with_interval(f["x"])[0] for f in found if len(f["x"]) > 1]
        for name, values in [*means[source].items(), ("spread", spreads)]:
            if values:
                rows.append({"measure": "sound", "source": source, "name": name, **about, **mean_interval(values)})
    for name in MEASURES:
        gap = paired_difference(means["regression"][name], means["samples"][name])
        rows.append({"measure": "sound difference", "source": "regression - samples", "name": name, **about, **gap})
    return rows


def measure_one_to_many(study: Study) -> None:
    """Writes results/one-to-many.json."""
    from scipy.stats import spearmanr

    n, first, played, pieces = (8, 4, 1, 2) if study.quick else (SAMPLES, None, PLAYED, PIECES)
    library = study.embeddings(study.split("train"))
    rows, ranked = [], {}
    for k, prompt in enumerate(progress(graded_prompts()[:first], "one to many, prompts")):
        row, u = prompt_row(study, prompt, k, n, library)
        rows.append(row)
        ranked.setdefault(prompt["level"], []).append(u)
    curve = [r for level, u in ranked.items() for r in calibration(np.concatenate(u), n, level=level)]
    curve += calibration(np.concatenate([u for some in ranked.values() for u in some]), n, level="all")
    both = [(r["spread_samples"], r["spread_right"]) for r in rows if r["spread_right"] is not None]
    agree = spearmanr(*np.array(both).T).statistic if len(both) > 2 else float("nan")
    order = {"measure": "rank correlation", "name": "spread of samples and of right answers", "n": len(both)}
    rows += means(rows, "level") + means(rows, "facts") + curve
    rows += [order | {"value": float(agree) if np.isfinite(agree) else None}]
    rows += measure_sound(study, played, pieces, library)
    study.write("one-to-many", rows, seed=SEED, embedding=study.embedding_name)
