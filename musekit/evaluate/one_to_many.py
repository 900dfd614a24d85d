"""one-to-many: one prompt has many right answers; who gives them?

For 40 prompts from vague to specific, and for "music", of which nothing is asked: how far apart the right answers lie
in held-out data, how far apart Stage 1's samples lie, and where regression's single answer lies. Then both are played.

    calibration   of the right answers, how many lie within the radius that holds a share q of the samples? q, if the
                  samples are spread as the right answers are (exactly, at any number of samples)
    sound         regression's answer and Stage 1's samples through the same Stage 2 with the same seeds, 6 s each
"""

from __future__ import annotations

import numpy as np

from musekit.corpus.captions import prompts
from musekit.corpus.claims import fits
from musekit.evaluate import generated
from musekit.evaluate.ceiling import HELD_OUT
from musekit.evaluate.diversity import SAMPLES, SEED, right_answers, samples
from musekit.evaluate.judge import TEXTURE
from musekit.evaluate.regression import predict
from musekit.evaluate.subject import Subject, bar, cut, read_audio, table
from musekit.muse import Settings
from musekit.statistics import (
    KernelDistance,
    accuracy,
    interval,
    mean_interval,
    neighbours,
    paired_difference,
    spread,
    spread_draws,
    unit_distances,
)

MUSIC = {"text": "music", "asks": {}}
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
PLAYED, PIECES, SECONDS = 8, 4, 6.0  # vague prompts that are heard, pieces of each, their length
SOUND_SEED = 80_000
MEASURES = ("spectral_contrast_db", *TEXTURE, "similarity", "to_nearest")


def asked() -> list[dict]:
    """The prompts with their level and the number of facts that each asks for."""
    some = [{**MUSIC, "level": "anything"}]
    some += [{**p, "level": level} for level in ("vague", "specific") for p in prompts(level)]
    return [{**p, "facts": len(p["asks"])} for p in some]


def ranks(x: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each right answer (m, D) the share in [0, 1) of samples x (n, D) that lie nearer to their centre.

    The centre is the mean of one half of the samples, the radii are the other half's: so a right answer that is drawn
    as the samples are has each rank with the same probability.
    """
    half = len(x) // 2
    centre = x[:half].mean(0)
    radius, own = (np.linalg.norm(some - centre, axis=1) for some in (x[half:], right))
    return (radius[None] < own[:, None]).sum(1) / (len(radius) + 1)


def calibration(u: np.ndarray, n: int, **about) -> list[dict]:
    """Share of right answers within the radius that should hold q of them; u are `ranks` against n - n // 2 radii."""
    rows, size = [], n - n // 2 + 1
    for inside in dict.fromkeys(round(q * size) / size for q in SHARES):  # the nearest that so many samples can tell
        found = accuracy(u < inside - 1e-9)
        rows.append({"measure": "calibration", **about, "nominal": inside, "inside": found["accuracy"]})
        rows[-1] |= {"low": found["low"], "high": found["high"], "n": len(u)}
    return rows


def answer(subject: Subject, text: str) -> tuple[np.ndarray, float]:
    """Regression's answer on the sphere (512,), and the length of what it said."""
    raw = predict(subject, text)
    length = float(np.linalg.norm(raw))
    return raw / max(length, 1e-9), length


def measure_prompt(subject: Subject, prompt: dict, k: int, n: int, library: np.ndarray) -> tuple[dict, np.ndarray]:
    """The row of prompt k, and the ranks of its right answers. library: what "nearest" is of, the training clips."""
    x = samples(subject, prompt["text"], n, SEED + 1000 * k)
    right, source, held_out = right_answers(subject, prompt["asks"])
    one, length = answer(subject, prompt["text"])
    row = {"measure": "prompt", "level": prompt["level"], "facts": prompt["facts"], "prompt": prompt["text"]}
    row |= {"reference": source, "held_out": held_out, "n": n, "m": len(right), "regression_length": length}
    for name, some in (("samples", x), ("right", right)):
        known = len(some) > 1
        row[f"spread_{name}"] = spread(unit_distances(some)) if known else None
        low, high = interval(spread_draws(unit_distances(some), seed=k)) if known else (None, None)
        row |= {f"spread_{name}_low": low, f"spread_{name}_high": high}
    row["ratio"] = row["spread_samples"] / row["spread_right"] if row["spread_right"] else None
    for name, some in (("samples", x), ("right", right), ("regression", one[None])):
        row[f"{name}_to_nearest"] = float(neighbours.nearest(some, library)[0].mean()) if len(some) else None
    kernel = KernelDistance(right) if len(right) > 2 else None
    for name, some in (("samples", x), ("regression", np.repeat(one[None], n, 0))):
        row[f"{name}_kernel_distance"] = kernel.of(some) if kernel else None
    return row, ranks(x, right)


def means(rows: list[dict], by: str) -> list[dict]:
    """Means over prompts, with intervals, for each value of `by`; and regression less samples, paired by prompt."""
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


def spectral_contrast(audio: np.ndarray, rate: int) -> float:
    """Mean difference (dB) of peaks and valleys in 7 octave bands (Jiang et al. 2002), over bands and frames, mono."""
    import librosa

    return float(librosa.feature.spectral_contrast(y=audio.mean(0), sr=rate).mean())


def heard_as(subject: Subject, paths: list, text: np.ndarray, library: np.ndarray) -> dict[str, np.ndarray]:
    """`MEASURES` of files, (n,) each; text (512,) is the prompt's embedding. And their embeddings as "x"."""
    x = subject.embed_files(paths, SECONDS)
    heard = subject.hear_files(paths, "listening", SECONDS)
    contrast = [spectral_contrast(*cut(*read_audio(p), SECONDS)) for p in paths]
    found = {"spectral_contrast_db": np.array(contrast), "similarity": x @ text, "x": x}
    found["to_nearest"] = neighbours.nearest(x, library)[0] if len(x) else np.zeros(0)
    return found | {t: np.array([h["texture"][i] for h in heard]) for i, t in enumerate(TEXTURE)}


def measure_sound(subject: Subject, played: int, pieces: int, library: np.ndarray) -> list[dict]:
    """Rows of what regression's answer sounds like beside samples and right answers, paired by prompt."""
    muse, settings = subject.muse, Settings(seconds=min(SECONDS, subject.muse.config.sample.seconds))
    sources, held_out = {"samples": [], "regression": [], "right answers": []}, subject.split(*HELD_OUT)
    for k, prompt in enumerate(prompts("vague")[:played]):
        told = muse.embedder.embed_text([prompt["text"]])[0].double().numpy()
        seeds = range(SOUND_SEED + 100 * k, SOUND_SEED + 100 * k + pieces)
        recipes = [muse.recipe(prompt["text"], seed, settings) for seed in seeds]
        x = samples(subject, prompt["text"], pieces, seeds[0])
        one = np.repeat(answer(subject, prompt["text"])[0][None], pieces, 0)
        by = {"samples": "samples", "regression": f"regression-{subject.hashes['regression'][:8]}"}
        for source, embeddings in (("samples", x), ("regression", one)):
            paths = [subject.folder / "one-to-many" / by[source] / f"{k:02d}-{i:02d}.flac" for i in range(pieces)]
            paths = generated.rendered(subject, embeddings, recipes, paths, f"playing {source}, {prompt['text']!r}")
            sources[source].append(heard_as(subject, paths, told, library))
        clips = [c for c in held_out if fits(prompt["asks"], c)][:pieces]
        sources["right answers"].append(heard_as(subject, [subject.path(c) for c in clips], told, library))
    rows, about = [], {"prompts": played, "pieces": pieces, "seconds": settings.seconds}
    by_prompt = {
        s: {n: np.array([f[n].mean() for f in f_s if len(f[n])]) for n in MEASURES} for s, f_s in sources.items()
    }
    for source, found in sources.items():
        several = [f["x"] for f in found if len(f["x"]) > 1]
        spreads = [spread(unit_distances(x)) for x in several]
        for name, values in [*by_prompt[source].items(), ("spread", spreads)]:
            if len(values):
                rows.append({"measure": "sound", "source": source, "name": name, **about, **mean_interval(values)})
    for name in MEASURES:
        gap = paired_difference(by_prompt["regression"][name], by_prompt["samples"][name])
        rows.append({"measure": "sound difference", "source": "regression - samples", "name": name, **about, **gap})
    return rows


def measure_one_to_many(subject: Subject) -> None:
    """Writes results/one-to-many.json."""
    from scipy.stats import spearmanr

    n, first, played, pieces = (8, 4, 1, 2) if subject.quick else (SAMPLES, None, PLAYED, PIECES)
    library = subject.embeddings(subject.split("train"))
    rows, ranked = [], {}
    for k, prompt in enumerate(bar(asked()[:first], "one to many, prompts")):
        row, u = measure_prompt(subject, prompt, k, n, library)
        rows.append(row)
        ranked.setdefault(prompt["level"], []).append(u)
    curve = [r for level, u in ranked.items() for r in calibration(np.concatenate(u), n, level=level)]
    curve += calibration(np.concatenate([u for some in ranked.values() for u in some]), n, level="all")
    both = [(r["spread_samples"], r["spread_right"]) for r in rows if r["spread_right"] is not None]
    agree = spearmanr(*np.array(both).T).statistic if len(both) > 2 else float("nan")
    order = [
        {"measure": "rank correlation", "name": "spread of samples and of right answers", "n": len(both)}
        | {"value": float(agree) if np.isfinite(agree) else None}
    ]
    summary = means(rows, "level") + means(rows, "facts")
    sound = measure_sound(subject, played, pieces, library)
    table(rows, "facts", "spread_samples", "spread_right", "ratio", "m", "regression_length", "prompt")
    table([r for r in summary if "level" in r], "level", "name", "n", "mean", "difference", "low", "high")
    table(curve, "level", "nominal", "inside", "low", "high", "n")
    table(sound, "source", "name", "mean", "difference", "low", "high")
    subject.write("one-to-many", rows + summary + curve + order + sound, seed=SEED, embedding=subject.embedding_name)
