"""guidance: guidance scale and steps against quality and diversity, of Stage 1 on embeddings and of Stage 2 by ear.

Settings are paired: all start from the same noise with the same prompts, and intervals of differences redraw the same
clips for both. Audio: one clip for each of 64 held-out wordings, 6 s, against held-out clips of the same length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from musekit.corpus.captions import evaluation_prompts
from musekit.evaluate import generated
from musekit.evaluate.ceiling import like_prompts, verdicts
from musekit.evaluate.distances import LIBROSA, standardised
from musekit.evaluate.judge import ATTRIBUTES
from musekit.evaluate.obeyed import as_record
from musekit.evaluate.one_to_many import spectral_contrast
from musekit.evaluate.quality import Quality, sampled
from musekit.evaluate.subject import Subject, bar, read_audio, table
from musekit.muse import Settings
from musekit.statistics import KernelDistance, mean_interval, spread, unit_distances

SCALES_1, STEPS_1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0), (1, 2, 4, 8, 16, 32, 64)
SHARPER = (1.0, 1.5, 2.0, 3.0)  # autoguidance
SCALES_2, STEPS_2 = (1.0, 2.0, 3.0, 5.0), (10, 25, 50)
PIECES, SECONDS = 64, 6.0
SEED = 120_000


def measure_stage1(subject: Subject) -> list[dict]:
    """One row a guidance scale at the preset's steps, and one a number of Euler steps at the preset's scale."""
    defaults, quality, rows = subject.muse.config.sample, Quality(subject), []
    base = quality.sample(subject.muse, Settings())
    wanted = [("guidance", w, Settings(stage1_guidance_scale=w)) for w in SCALES_1]
    wanted += [("autoguidance", w, Settings(stage1_autoguidance=w)) for w in SHARPER]
    wanted += [("steps", s, Settings(stage1_steps=s, stage1_solver="euler")) for s in STEPS_1]
    for what, value, settings in bar(wanted[:2] + wanted[-1:] if subject.quick else wanted, "Stage 1"):
        row = {"measure": f"stage1 {what}", "value": value, "embedding": subject.embedding_name}
        rows.append(row | quality.row(quality.sample(subject.muse, settings), base))
    about = {"value": defaults.stage1_guidance_scale, "steps": defaults.stage1_steps, "solver": defaults.stage1_solver}
    rows.append({"measure": "stage1 default", **about, **quality.row(base)})
    return [*rows, {"measure": "stage1 ruler", "value": None, **quality.ruler()}]


@dataclass
class Ear:
    """Held-out clips of the length that is generated, and what any generated set is worth beside them."""

    subject: Subject
    seconds: float

    @cached_property
    def prompts(self) -> list[dict]:
        """What is asked for."""
        return evaluation_prompts(4 if self.subject.quick else min(PIECES, self.subject.n))

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Stage 1's answers (n, 512): every setting of Stage 2 renders the same ones."""
        return sampled(self.subject.muse, [p["text"] for p in self.prompts], Settings())[0]

    @cached_property
    def real(self) -> list[dict]:
        """Held-out clips of the kind that is asked for."""
        return like_prompts(self.subject)[: 8 if self.subject.quick else None]

    @cached_property
    def kernel(self) -> KernelDistance:
        """Distance to the held-out clips, in the joint embedding of sounds of this length."""
        return KernelDistance(self.subject.embed_files([self.subject.path(c) for c in self.real], self.seconds))

    @cached_property
    def shown(self) -> list[dict]:
        """What librosa hears of them."""
        paths = [self.subject.path(c) for c in self.real]
        return self.subject.hear_files(paths, "listening to held-out clips", self.seconds)

    @cached_property
    def plain(self) -> KernelDistance:
        """Distance to them in what librosa hears."""
        return KernelDistance(standardised(self.shown, self.shown))

    @cached_property
    def told(self) -> np.ndarray:
        """The prompts' embeddings."""
        return self.subject.muse.embedder.embed_text([p["text"] for p in self.prompts]).double().numpy()

    def play(self, settings: Settings, name: str) -> list[Path]:
        """The set of that setting, made where it is not there yet."""
        muse = self.subject.muse
        recipes = [muse.recipe(p["text"], SEED + i, settings) for i, p in enumerate(self.prompts)]
        paths = [self.subject.folder / "guidance" / name / f"{i:03d}.flac" for i in range(len(recipes))]
        return generated.rendered(self.subject, self.embeddings, recipes, paths, f"playing {name}")

    def row(self, paths: list[Path], base: list[Path]) -> dict:
        """All measures of a set; differences are paired with the set `base`."""
        subject, row = self.subject, {"n": len(paths), "m": len(self.real), "seconds": self.seconds}
        x = subject.embed_files(paths)
        heard, default = (standardised(subject.hear_files(p), self.shown) for p in (paths, base))
        for name, kernel, one, other in (
            ("kernel_distance", self.kernel, x, subject.embed_files(base)),
            ("librosa_kernel_distance", self.plain, heard, default),
        ):
            found, gap = kernel.measured(one), kernel.paired_difference(one, other)
            row |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
            row |= {f"{name}_against_default": gap["difference"]}
            row |= {f"{name}_against_low": gap["low"], f"{name}_against_high": gap["high"]}
        close = mean_interval((x * self.told).sum(1))
        row |= {"similarity": close["mean"], "similarity_low": close["low"], "similarity_high": close["high"]}
        row["spread"] = spread(unit_distances(x))
        row["spectral_contrast_db"] = float(np.mean([spectral_contrast(*read_audio(p)) for p in paths]))
        said = verdicts(subject, [as_record(p["asks"]) for p in self.prompts], subject.hear_files(paths), name)
        return row | {f"heard_{v['attribute']}": v["accuracy"] for v in said if v["attribute"] in ATTRIBUTES}


def measure_stage2(subject: Subject) -> list[dict]:
    """One row a guidance scale, one a number of steps, both through the whole system."""
    defaults = subject.muse.config.sample
    seconds = min(SECONDS, defaults.seconds)
    ear, rows = Ear(subject, seconds), []
    base = ear.play(Settings(seconds=seconds), "default")
    wanted = [("guidance", w, Settings(seconds=seconds, guidance_scale=w)) for w in SCALES_2]
    wanted += [("steps", s, Settings(seconds=seconds, steps=s)) for s in STEPS_2]
    for what, value, settings in bar(wanted[:1] + wanted[-1:] if subject.quick else wanted, "Stage 2"):
        default = value == (defaults.guidance_scale if what == "guidance" else defaults.stage2_steps)
        paths = base if default else ear.play(settings, f"{what}-{value:g}")
        rows.append({"measure": f"stage2 {what}", "value": value, "default": default} | ear.row(paths, base))
    half = len(ear.real) // 2
    embeddings = {subject.embedding_name: ear.kernel.reference, LIBROSA: ear.plain.reference}
    for name, x in embeddings.items():
        ruler = KernelDistance(x[half:]).measured(x[:half]) if half > 1 else {"value": None, "low": None, "high": None}
        rows.append({"measure": "stage2 ruler", "embedding": name, "n": half, "m": len(x) - half, "seconds": seconds})
        rows[-1] |= {"kernel_distance": ruler["value"], "low": ruler["low"], "high": ruler["high"]}
    return rows


def measure_guidance(subject: Subject) -> None:
    """Writes results/guidance.json."""
    one, two = measure_stage1(subject), measure_stage2(subject)
    columns = ("kernel_distance", "low", "high", "against_default", "similarity", "recall", "spread", "spread_ratio")
    table(one, "measure", "value", "nfe", *columns)
    columns = ("kernel_distance", "kernel_distance_low", "kernel_distance_high", "librosa_kernel_distance")
    more = ("similarity", "spread", "spectral_contrast_db", *(f"heard_{a}" for a in ATTRIBUTES))
    table(two, "measure", "value", *columns, *more)
    subject.write("guidance", one + two, seed=SEED)
