"""One prompt has many right answers. How near are Stage 1's samples to them, prompt by prompt? And regression's answer?

Samples x of a prompt are compared with right answers y, music of held-out works that matches it (`right_answers`):

distance     kernel distance of x to y, as a share of the distance of another prompt's right answers to y. Are they
             different? A permutation test. As near as right answers are to each other? Only where the whole interval
             lies below the margin
coverage     share of y in whose ball, up to the third nearest other right answer, there is a sample
recall       share of y in the ball of a sample. Both are compared with other right answers in place of the samples, of
             equal number
spread       average distance of two samples, as a share of that of two right answers
calibration  share of y within the radius that contains a share q of the samples. It is q if samples and right answers
             have the same distribution (exactly, for any number of samples)

Intervals redraw prompts, since answers to one prompt are no independent evidence. A bar is met by a whole interval.
Margins are what honesty reaches (`margins`): one random half of each prompt's right answers stands for samples, the
other half for right answers. They are computed before any sample is drawn, and are part of the result. Halves are
smaller than the sets that are measured, so margins are wider than they need to be, never narrower.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import torch

from musekit.config import Samples
from musekit.corpus.captions import evaluation_prompts, prompts
from musekit.evaluate.right_answers import right_answers
from musekit.evaluate.study import Study, progress, target
from musekit.files import read_json
from musekit.muse import Settings
from musekit.statistics import (
    NEIGHBOURS,
    KernelDistance,
    coverage,
    interval,
    mean_interval,
    ratio_interval,
    share_as_large,
    spread,
    spread_draws,
    unit_distances,
)

SAMPLES = 64  # of Stage 1 per prompt
SEED = 60_000  # the samples of prompt k have the seeds SEED + 1000 k ...
LEVELS = ("vague", "specific")
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
FEWEST = 12  # right answers, for a prompt to count
SPLITS = 8  # of right answers into halves, of which one stands for samples
HALVINGS = 400  # of all right answers, from which margins are computed
HONEST = 0.95  # at least, the probability that an honest half meets all bars of its level
MEASURES, ENDS = ("distance", "coverage", "recall", "spread", "inside"), ("low", "high")
BOUNDS = 6  # of these measures: spread has two
LEAST, MOST = 0.8, 1.2  # of the spread of right answers, on average over prompts


def ranks(x: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each right answer (m, D) the share in [0, 1) of samples x (n, D) that are nearer to the samples' centre.

    The centre is the mean of one half of the samples, the radii are those of the other half. So a right answer that
    is drawn from the samples' distribution has each rank with the same probability.
    """
    half = len(x) // 2
    centre = x[:half].mean(0)
    radius, own = (np.linalg.norm(some - centre, axis=1) for some in (x[half:], right))
    return (radius[None] < own[:, None]).sum(1) / (len(radius) + 1)


def calibration(u: Sequence[np.ndarray], n: int, **about) -> list[dict]:
    """Share of right answers within the radius that should contain q of them.

    u: `ranks` of each prompt against n - n // 2 radii.
    """
    rows, size = [], n - n // 2 + 1
    for inside in dict.fromkeys(round(q * size) / size for q in SHARES):  # the shares that n radii can resolve
        found = ratio_interval([(some < inside - 1e-9).sum() for some in u], [len(some) for some in u])
        found["inside"] = found.pop("value")
        rows.append({"measure": "calibration", **about, "nominal": inside, **found, "n": sum(map(len, u))})
    return rows


def halves(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Coverage and recall of right answers y (m, D) by samples x (n, D), then by other right answers: (4,).

    Each is the mean over random halves of y, with as many samples as a half has right answers.
    """
    rng, n, found = np.random.default_rng(seed), min(len(x), len(y) // 2), []
    for _ in range(SPLITS):
        order = rng.permutation(len(y))
        one, other = y[order[:n]], y[order[n : 2 * n]]
        found.append([*coverage(x[rng.permutation(len(x))[:n]], one), *coverage(other, one)])
    return np.mean(found, axis=0)


def compare(
    samples: Sequence[np.ndarray], right: Sequence[np.ndarray], seed: int = 0, test: bool = True
) -> dict[str, dict]:
    """{measure: {"value", "low", "high"}} of all prompts' samples (n, D) against their right answers (m, D).

    test: with the permutation test's "p" of the distance.
    """
    right = [y[:SAMPLES] for y in right]
    kernels = [KernelDistance(y) for y in right]
    near, far = (
        np.array([kernel.of(x) for kernel, x in zip(kernels, some)]) for some in (samples, [*right[1:], right[0]])
    )
    shares = np.array([halves(x, y, seed + i) for i, (x, y) in enumerate(zip(samples, right))])
    found = {"distance": ratio_interval(near, far)}
    if test:
        moved = [kernel.permutations(x, seed + i) for i, (kernel, x) in enumerate(zip(kernels, samples))]
        found["distance"]["p"] = share_as_large(np.sum(moved, axis=0))
    found["coverage"], found["recall"] = (ratio_interval(shares[:, i], shares[:, i + 2]) for i in (0, 1))
    found["spread"] = ratio_interval(*zip(*((spread(x), spread(y)) for x, y in zip(samples, right))))
    size = min(map(len, samples))
    u = [ranks(x[:size], y) for x, y in zip(samples, right)]
    last = calibration(u, size)[-1]
    return found | {"inside": {"value": last["inside"], **{key: last[key] for key in ("low", "high", "nominal")}}}


def margins(right: Sequence[np.ndarray], seed: int = 0, times: int = HALVINGS) -> list[dict]:
    """A row per measure: bounds that honest halves of right answers (m, D) meet in `times` random halvings, all of them
    with probability HONEST (Bonferroni). Of prompts with 2 FEWEST right answers; empty for fewer than two prompts.

    "inside" counts from the share that should be inside.
    """
    right = [y for y in right if len(y) >= 2 * FEWEST]
    if len(right) < 2:
        return []
    rng, ends = np.random.default_rng(seed), []
    for i in progress(range(times), "honest halves"):
        mixed = [y[rng.permutation(len(y))] for y in right]
        found = compare([y[::2] for y in mixed], [y[1::2] for y in mixed], seed + i, test=False)
        ends.append([[found[name][end] - found[name].get("nominal", 0.0) for end in ENDS] for name in MEASURES])
    tail = 100 * (1 - HONEST) / BOUNDS
    low, high = np.percentile(ends, tail, axis=0)[:, 0], np.percentile(ends, 100 - tail, axis=0)[:, 1]
    about = {"measure": "margin", "prompts": len(right), "right_answers": sum(map(len, right)), "halvings": times}
    return [{**about, "name": n, "at_least": float(a), "at_most": float(b)} for n, a, b in zip(MEASURES, low, high)]


def bars(found: dict[str, dict], level: str, margins: Sequence[dict]) -> list[dict]:
    """The bars of one level of prompts, from `compare` and `margins`; none is met where there are no margins."""
    nominal, bounds = found["inside"]["nominal"], {row["name"]: row for row in margins}

    def bar(text: str, name: str, *ends: str) -> dict:
        if not margins:
            return target(f"{level}: {text}", None)
        zero = found[name].get("nominal", 0.0)
        return target(f"{level}: {text}", **{end: bounds[name][end] + zero for end in ends}, **found[name])

    return [
        bar("distance / to another prompt's right answers", "distance", "at_most"),
        bar("coverage / by right answers", "coverage", "at_least"),
        bar("recall / by right answers", "recall", "at_least"),
        bar("spread / of right answers", "spread", "at_least", "at_most"),
        bar(f"right answers within the radius of {100 * nominal:.0f} % of the samples", "inside", "at_least"),
    ]


def asked(study: Study, level: str) -> list[tuple[int, dict, np.ndarray]]:
    """(its number, prompt, right answers (m, 512)) of the prompts of a level."""
    first = 2 if study.quick else None
    offset = 1 + 20 * LEVELS.index(level)
    return [
        (offset + k, prompt, right_answers(study, prompt["asks"])[0])
        for k, prompt in enumerate(progress(prompts(level)[:first], f"right answers to {level} prompts"))
    ]


def enough(study: Study, right: np.ndarray) -> bool:
    """Whether a prompt has enough right answers to count."""
    return len(right) >= (2 * (NEIGHBOURS + 1) if study.quick else FEWEST)


def regression_answer(study: Study, text: str) -> tuple[np.ndarray, float]:
    """The baseline's answer on the sphere (512,), and the length of its raw answer."""
    muse = study.muse
    with torch.inference_mode():
        raw = muse.regression.predict(*(x.to(muse.device) for x in muse.text([text])))[0].double().cpu().numpy()
    length = float(np.linalg.norm(raw))
    return raw / max(length, 1e-9), length


def to_nearest(x: np.ndarray, library: np.ndarray) -> float | None:
    """Mean distance of rows of x to the nearest row of the library that is not the same."""
    if not len(x) or not len(library):
        return None
    d = unit_distances(x, library)
    mean = float(np.where(d < 1e-9, np.inf, d).min(1).mean())
    return mean if np.isfinite(mean) else None


def measure_one_to_many(study: Study) -> None:
    """Writes one-to-many.json, diversity.json (spread) and regression.json, from samples of 20 pairs of prompts."""
    n, library = 8 if study.quick else SAMPLES, study.embed(study.split("train"))
    rows: dict[str, list[dict]] = {"one-to-many": [], "diversity": [], "regression": []}
    draws: dict[str, list[np.ndarray]] = {}
    for level in LEVELS:
        prompted, samples, right = asked(study, level), [], []
        honest = margins([y for _, _, y in prompted])
        rows["one-to-many"] += [{**row, "level": level} for row in honest]
        for number, prompt, y in progress(prompted, f"samples of {level} prompts"):
            x = study.samples(prompt["text"], n, SEED + 1000 * number)
            draws.setdefault(level, []).append(spread_draws(x, seed=number))
            answer, length = regression_answer(study, prompt["text"])
            row = {"measure": "prompt", "level": level, "prompt": prompt["text"], "n": len(y)}
            low, high = interval(draws[level][-1])
            real = spread(y) if len(y) > 1 else None
            wide = {"spread": spread(x), "low": low, "high": high, "real": real, "counts": enough(study, y)}
            rows["diversity"].append(row | wide | {"ratio": wide["spread"] / real if real else None})
            near = {"norm": length}
            for name, some in (("regression", answer[None]), ("samples", x), ("real", y)):
                near |= {f"{name}_to_nearest": to_nearest(some, library), f"{name}_to_right": to_nearest(some, y)}
            rows["regression"].append(row | near)
            if enough(study, y):
                samples.append(x)
                right.append(y)
        if len(right) > 1:
            found = compare(samples, right)
            rows["one-to-many"] += [{"measure": name, "level": level, **of} for name, of in found.items()][:-1]
            rows["one-to-many"] += calibration([ranks(x, y) for x, y in zip(samples, right)], n, level=level)
            rows["one-to-many"] += bars(found, level, honest)
        else:
            rows["one-to-many"].append(target(f"{level}: two prompts with enough right answers", None))
        rows["diversity"] += spread_summary(rows["diversity"], level)
        rows["regression"] += nearness_summary(rows["regression"], level)
    wider = sum(interval(vague - specific)[0] > 0 for vague, specific in zip(*draws.values()))
    least = round(0.9 * len(draws["vague"]))
    rows["diversity"].append(target("one to many: pairs whose vague prompt is spread wider", wider, at_least=least))
    rows["regression"] += answer_rows(study) + budget_rows(study)
    for name, some in rows.items():
        study.write(name, some, seed=SEED, embedding=study.embedding_name)


def spread_summary(rows: Sequence[dict], level: str) -> list[dict]:
    """Mean spreads of a level's prompts, and the bar on their ratio."""
    some = [r for r in rows if r.get("level") == level and r.get("counts") and r["ratio"] is not None]
    name = f"one to many, {level}: spread of samples / of right answers"
    if not some:
        return [target(name, None, LEAST, MOST)]
    ratio = mean_interval(np.array([r["ratio"] for r in some]))
    means = {name: float(np.mean([r[name] for r in some])) for name in ("spread", "real", "ratio")}
    bar = target(name, ratio["mean"], LEAST, MOST, low=ratio["low"], high=ratio["high"])
    return [{"measure": "mean", "level": level, "n": len(some), **means}, bar]


def nearness_summary(rows: Sequence[dict], level: str) -> list[dict]:
    """Mean distances to the nearest training clip and to the nearest right answer, with intervals."""
    found = []
    for name in [key for key in rows[0] if key == "norm" or "_to_" in key]:
        values = [r[name] for r in rows if r.get("level") == level and r["measure"] == "prompt" and r[name] is not None]
        if values:
            row = {"measure": "mean", "level": level, "name": name, "n": len(values)}
            found.append(row | mean_interval(np.array(values)))
    return found


def answer_rows(study: Study) -> list[dict]:
    """Kernel distance of n answers, one per evaluation prompt, to held-out clips of the kinds that are asked for."""
    texts = [p["text"] for p in evaluation_prompts(study.n)]
    real = KernelDistance(study.embed(study.prompt_like()))
    sets = {"regression": np.stack([regression_answer(study, text)[0] for text in texts])}
    sets["samples"] = study.sample(study.recipes(texts, SEED, Settings(micro_batch=16)))[0]
    about = {"measure": "answers", "n": len(texts), "m": len(real.reference), "name": "kernel distance (KAD)"}
    return [{**about, "source": source, **real.measured(x)} for source, x in sets.items()]


class Trained(TypedDict):
    """What <part>.train.json beside the weights says of their training."""

    samples: Samples
    tried: NotRequired[Samples]  # of the longest run, where that of `samples` was better on valid


def budget_rows(study: Study) -> list[dict]:
    """Training samples of both networks, where their folder says so: the comparison is fair at equal numbers."""
    rows = []
    for part in ("stage1", "regression"):
        path = study.muse.folder / f"{part}.train.json"
        told = read_json(path, Trained) if path.exists() else {"samples": None}
        rows.append({"measure": "budget", "part": part, "samples": told["samples"], "tried": told.get("tried")})
    flow, mean = (row["tried"] or row["samples"] for row in rows)
    share = mean / flow if mean and flow else None
    return [*rows, target("regression: training samples tried / Stage 1's", share, at_least=0.9)]
