"""guidance: guidance scale and number of steps against quality and diversity, of both stages.

Settings are paired: all start from the same noise with the same prompts, and intervals of differences redraw the same
clips for both. Stage 1 is measured on embeddings, which takes seconds per setting: one sample for one caption of each
held-out clip, which should be distributed as the clips' embeddings are, and several for each vague prompt, which should
spread as its right answers do. Stage 2 is measured on audio: a 6 s clip for each of 64 held-out wordings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from musekit.corpus.captions import evaluation_prompts, prompts
from musekit.evaluate.distances import LIBROSA
from musekit.evaluate.diversity import spread_with_interval
from musekit.evaluate.features import spectral_contrast, standardised
from musekit.evaluate.judge import accuracy_rows
from musekit.evaluate.prompts import as_record
from musekit.evaluate.right_answers import right_answers
from musekit.evaluate.sounds import progress, read_audio, rendered, sampled
from musekit.evaluate.study import HELD_OUT, Study
from musekit.muse import Muse, Settings
from musekit.statistics import KernelDistance, mean_interval, neighbours, spread, unit_distances

STAGE1_SEED, STAGE2_SEED = 100_000, 120_000
CLIPS, PROMPTS, EACH = 240, 12, 16  # held-out clips with a caption each; vague prompts; samples of each
STAGE1_SCALES, STAGE1_STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0), (1, 2, 4, 8, 16, 32, 64)
AUTOGUIDANCE = (1.0, 1.5, 2.0, 3.0)
STAGE2_SCALES, STAGE2_STEPS = (1.0, 2.0, 3.0, 5.0), (10, 25, 50)
PIECES, SECONDS = 64, 6.0


def against(kernel: KernelDistance, x: np.ndarray, default: np.ndarray) -> dict:
    """Paired difference of the kernel distances of x and of the default's samples."""
    gap = kernel.paired_difference(x, default)
    return {"against_default": gap["difference"], "against_low": gap["low"], "against_high": gap["high"]}


def similarity(x: np.ndarray, text: np.ndarray) -> dict:
    """Mean cosine of samples (n, 512) and their prompts, with its interval."""
    close = mean_interval((x * text).sum(1))
    return {"similarity": close["mean"], "similarity_low": close["low"], "similarity_high": close["high"]}


def ruler(x: np.ndarray) -> dict:
    """Kernel distance between the halves of a reference set."""
    half = len(x) // 2
    row = {"n": half, "m": len(x) - half, "kernel_distance": None, "low": None, "high": None}
    if half > 1:
        found = KernelDistance(x[half:]).measured(x[:half])
        row |= {"kernel_distance": found["value"], "low": found["low"], "high": found["high"]}
    return row


@dataclass
class Stage1Samples:
    """What one setting sampled."""

    captions: np.ndarray  # (clips, 512): one sample per held-out clip
    spreads: np.ndarray  # (prompts,) of the samples of each vague prompt
    nfe: float  # evaluations of the network per sample; guidance evaluates two rows each time


class Stage1Quality:
    """The held-out side, computed once, and measures of any Stage 1 against it."""

    def __init__(self, study: Study):
        self.study = study
        clips, some, self.each = (6, 2, 3) if study.quick else (CLIPS, PROMPTS, EACH)
        self.clips = study.split(*HELD_OUT)[:clips]
        self.texts = [c["captions"][i % len(c["captions"])]["text"] for i, c in enumerate(self.clips)]
        self.vague = prompts("vague")[:some]
        self.real = study.embeddings(self.clips)
        self.text = study.embed_text(self.texts)
        self.library = study.embeddings(study.split("train"))
        self.kernel = KernelDistance(self.real)

    @cached_property
    def right_spreads(self) -> np.ndarray:
        """Spread of the right answers of each vague prompt; NaN where fewer than two are known."""
        found = [right_answers(self.study, p["asks"])[0] for p in self.vague]
        return np.array([spread_with_interval(x)[0] for x in found], float)

    def sample(self, muse: Muse, settings: Settings) -> Stage1Samples:
        """Sample with a system's Stage 1; always the same seeds, so that settings are paired."""
        settings = replace(settings, micro_batch=16)
        x, nfe = sampled(muse, self.texts, STAGE1_SEED, settings)
        texts = [p["text"] for p in self.vague for _ in range(self.each)]
        vague, _ = sampled(muse, texts, STAGE1_SEED + len(x), settings)
        spreads = [spread(unit_distances(group)) for group in np.split(vague, len(self.vague))]
        return Stage1Samples(x, np.array(spreads), float(nfe.mean()))

    def row(self, found: Stage1Samples, default: Stage1Samples | None = None) -> dict:
        """Kernel distance (and its difference from the default's), similarity, recall and diversity of samples."""
        x, known = found.captions, np.isfinite(self.right_spreads)
        kernel = self.kernel.measured(x)
        row = {"n": len(x), "m": len(self.real), "nfe": found.nfe}
        row |= {"kernel_distance": kernel["value"], "low": kernel["low"], "high": kernel["high"]}
        if default is not None:
            row |= against(self.kernel, x, default.captions)
        row |= similarity(x, self.text)
        inside = neighbours.manifold(x, self.real) if min(len(x), len(self.real)) > neighbours.DENSITY_K else {}
        row |= {name: inside[name]["value"] for name in inside}
        row["spread"] = float(found.spreads.mean())
        row["spread_ratio"] = float((found.spreads / self.right_spreads)[known].mean()) if known.any() else None
        return row | {"to_nearest": float(neighbours.nearest(x, self.library)[0].mean())}

    def ruler(self) -> dict:
        """The same measures of the held-out clips themselves."""
        row = ruler(self.real) | {"similarity": float((self.real * self.text).sum(1).mean())}
        known = self.right_spreads[np.isfinite(self.right_spreads)]
        row["spread"] = float(known.mean()) if len(known) else None
        return row | {"to_nearest": float(neighbours.nearest(self.real, self.library)[0].mean())}


def measure_stage1(study: Study) -> list[dict]:
    """One row per guidance scale and autoguidance at the preset's steps, and per number of Euler steps."""
    defaults, quality, rows = study.muse.config.sample, Stage1Quality(study), []
    default = quality.sample(study.muse, Settings())
    cases = [("guidance", w, Settings(stage1_guidance_scale=w)) for w in STAGE1_SCALES]
    cases += [("autoguidance", w, Settings(stage1_autoguidance=w)) for w in AUTOGUIDANCE]
    cases += [("steps", n, Settings(stage1_steps=n, stage1_solver="euler")) for n in STAGE1_STEPS]
    for what, value, settings in progress(cases[:2] + cases[-1:] if study.quick else cases, "Stage 1"):
        row = {"measure": f"stage1 {what}", "value": value, "embedding": study.embedding_name}
        rows.append(row | quality.row(quality.sample(study.muse, settings), default))
    about = {"value": defaults.stage1_guidance_scale, "steps": defaults.stage1_steps, "solver": defaults.stage1_solver}
    rows.append({"measure": "stage1 default", **about, **quality.row(default)})
    return [*rows, {"measure": "stage1 ruler", "value": None, **quality.ruler()}]


class Stage2Quality:
    """Held-out clips of the length that is generated, in two embeddings, and measures of any generated set."""

    def __init__(self, study: Study, seconds: float):
        self.study, self.seconds = study, seconds
        self.prompts = evaluation_prompts(4 if study.quick else min(PIECES, study.n))
        texts = [p["text"] for p in self.prompts]
        self.text = study.embed_text(texts)
        # every setting of Stage 2 renders the same embeddings
        self.embeddings, _ = sampled(study.muse, texts, STAGE1_SEED, Settings(micro_batch=16))
        paths = study.paths(study.prompt_like()[: 8 if study.quick else None])
        self.shown = study.features(paths, seconds)
        self.kernels = {
            study.embedding_name: KernelDistance(study.embed_files(paths, seconds)),
            LIBROSA: KernelDistance(standardised(self.shown, self.shown)),
        }

    def render(self, settings: Settings) -> list[Path]:
        """The pieces of a setting."""
        muse = self.study.muse
        recipes = [muse.recipe(p["text"], STAGE2_SEED + i, settings) for i, p in enumerate(self.prompts)]
        return rendered(muse, self.embeddings, recipes, "rendering a setting")

    def row(self, paths: list[Path], default: list[Path]) -> dict:
        """All measures of a set; differences are paired with the set `default`."""
        study = self.study
        row = {"n": len(paths), "m": len(self.shown), "seconds": self.seconds}
        x, found = study.embed_files(paths), study.features(paths)
        pairs = (x, study.embed_files(default)), [standardised(f, self.shown) for f in (found, study.features(default))]
        for name, kernel, pair in zip(("kernel_distance", "librosa_kernel_distance"), self.kernels.values(), pairs):
            measured = kernel.measured(pair[0]) | against(kernel, *pair)
            row |= {name: measured.pop("value")} | {f"{name}_{key}": value for key, value in measured.items()}
        row |= similarity(x, self.text) | {"spread": spread(unit_distances(x))}
        row["spectral_contrast_db"] = float(np.mean([spectral_contrast(*read_audio(p)) for p in paths]))
        judged = accuracy_rows(study, [as_record(p["asks"]) for p in self.prompts], found, "generated")
        return row | {f"heard_{r['attribute']}": r["accuracy"] for r in judged}


def measure_stage2(study: Study) -> list[dict]:
    """One row per guidance scale and per number of steps, through the whole system."""
    defaults = study.muse.config.sample
    seconds = min(SECONDS, defaults.seconds)
    quality, rows = Stage2Quality(study, seconds), []
    default = quality.render(Settings(seconds=seconds))
    cases = [("guidance", w, Settings(seconds=seconds, guidance_scale=w)) for w in STAGE2_SCALES]
    cases += [("steps", n, Settings(seconds=seconds, steps=n)) for n in STAGE2_STEPS]
    for what, value, settings in progress(cases[:1] + cases[-1:] if study.quick else cases, "Stage 2"):
        is_default = value == (defaults.guidance_scale if what == "guidance" else defaults.stage2_steps)
        row = {"measure": f"stage2 {what}", "value": value, "default": is_default}
        rows.append(row | quality.row(quality.render(settings), default))
    for name, kernel in quality.kernels.items():
        row = {"measure": "stage2 ruler", "embedding": name, "seconds": seconds}
        rows.append(row | ruler(kernel.reference))
    return rows


def measure_guidance(study: Study) -> None:
    """Writes results/guidance.json."""
    study.write("guidance", measure_stage1(study) + measure_stage2(study), seed=STAGE2_SEED)
