"""guidance: guidance scale and number of steps against quality and diversity, of both stages.

Settings are paired: all start from the same noise with the same prompts, and intervals of differences redraw the same
clips for both. Stage 1 is measured on embeddings, which takes seconds per setting: one sample for one caption of each
held-out clip, which should be distributed as the clips' embeddings are, and several for each vague prompt, which should
spread as its right answers do. Stage 2 is measured on audio: a 6 s clip for each of 64 held-out wordings.
"""

from __future__ import annotations

import numpy as np

from musekit.corpus.captions import evaluation_prompts, prompts
from musekit.evaluate.distances import LIBROSA
from musekit.evaluate.features import standardised
from musekit.evaluate.judge import accuracy_rows, as_record
from musekit.evaluate.right_answers import right_answers
from musekit.evaluate.study import HELD_OUT, Study, progress
from musekit.muse import Settings
from musekit.statistics import KernelDistance, spread, spread_with_interval

STAGE1_SEED, STAGE2_SEED = 100_000, 120_000
CLIPS, PROMPTS, EACH = 240, 12, 16  # held-out clips with a caption each; vague prompts; samples of each
STAGE1_SCALES, STAGE1_STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0), (1, 2, 4, 8, 16, 32, 64)
AUTOGUIDANCE = (1.0, 1.5, 2.0, 3.0)
STAGE2_SCALES, STAGE2_STEPS = (1.0, 2.0, 3.0, 5.0), (10, 25, 50)
PIECES, SECONDS = 64, 6.0


def paired_rows(kernel: KernelDistance, x: np.ndarray, default: np.ndarray) -> dict[str, float]:
    """The kernel distance of x with its interval, and its paired difference from that of the default's samples."""
    gap = kernel.paired_difference(x, default)
    against = {"against_default": gap["difference"], "against_low": gap["low"], "against_high": gap["high"]}
    return kernel.measured(x) | against


def stage1_rows(study: Study) -> list[dict]:
    """One row per guidance scale and autoguidance at the preset's steps, and per number of Euler steps."""
    clips, some, each = (6, 2, 3) if study.quick else (CLIPS, PROMPTS, EACH)
    held_out = study.split(*HELD_OUT)[:clips]
    captions = [c["captions"][i % len(c["captions"])]["text"] for i, c in enumerate(held_out)]
    vague = prompts("vague")[:some]
    texts = captions + [p["text"] for p in vague for _ in range(each)]
    real = study.embed(held_out)
    kernel = KernelDistance(real)
    right = [spread_with_interval(right_answers(study, p["asks"])[0])[0] for p in vague]

    def sample(**settings) -> tuple[np.ndarray, np.ndarray, float]:
        """Samples for the captions (clips, 512), those for the vague prompts (prompts x each, 512), and the NFE."""
        x, nfe = study.sample(study.recipes(texts, STAGE1_SEED, Settings(micro_batch=16, **settings)))
        return x[: len(real)], x[len(real) :], float(nfe[: len(real)].mean())

    default = sample()[0]
    cases = [("guidance", w, {"stage1_guidance_scale": w}) for w in STAGE1_SCALES]
    cases += [("autoguidance", w, {"stage1_autoguidance": w}) for w in AUTOGUIDANCE]
    cases += [("steps", n, {"stage1_steps": n, "stage1_solver": "euler"}) for n in STAGE1_STEPS]
    rows = []
    for what, value, settings in progress(cases[:2] + cases[-1:] if study.quick else cases, "Stage 1"):
        x, answers, nfe = sample(**settings)
        spreads = [spread(group) for group in np.split(answers, len(vague))]
        ratios = [own / true for own, true in zip(spreads, right) if true]
        row = {"measure": f"stage1 {what}", "value": value, "embedding": study.embedding_name}
        row |= {"n": len(x), "m": len(real), "nfe": nfe, "spread": float(np.mean(spreads))}
        row["spread_ratio"] = float(np.mean(ratios)) if ratios else None
        measured = paired_rows(kernel, x, default)
        rows.append(row | {"kernel_distance": measured.pop("value")} | measured)
    return rows


def stage2_rows(study: Study) -> list[dict]:
    """One row per guidance scale and per number of steps, through the whole system, in two embeddings."""
    defaults, asked = study.muse.config.sample, evaluation_prompts(4 if study.quick else min(PIECES, study.n))
    texts, records = [p["text"] for p in asked], [as_record(p["asks"]) for p in asked]
    seconds, real = min(SECONDS, defaults.seconds), study.prompt_like()[: 8 if study.quick else None]
    real_features = study.features(real, seconds)
    kernels = {
        study.embedding_name: KernelDistance(study.embed(real, seconds)),
        LIBROSA: KernelDistance(standardised(real_features, real_features)),
    }
    embeddings, _ = study.sample(study.recipes(texts, STAGE1_SEED, Settings(micro_batch=16)))  # the same for all rows

    def render(**settings) -> tuple[list[np.ndarray], list[dict]]:
        """A setting's pieces in both embeddings, and their features."""
        recipes = study.recipes(texts, STAGE2_SEED, Settings(seconds=seconds, **settings))
        paths = study.render(embeddings, recipes)
        found = study.features(paths)
        return [study.embed(paths), standardised(found, real_features)], found

    default, _ = render()
    cases = [("guidance", w, {"guidance_scale": w}, defaults.guidance_scale) for w in STAGE2_SCALES]
    cases += [("steps", n, {"steps": n}, defaults.stage2_steps) for n in STAGE2_STEPS]
    rows = []
    for what, value, settings, usual in progress(cases[:1] + cases[-1:] if study.quick else cases, "Stage 2"):
        sets, found = render(**settings)
        row = {"measure": f"stage2 {what}", "value": value, "default": value == usual}
        row |= {"n": len(found), "m": len(real), "seconds": seconds, "spread": spread(sets[0])}
        for name, kernel, x, other in zip(
            ("kernel_distance", "librosa_kernel_distance"), kernels.values(), sets, default
        ):
            measured = paired_rows(kernel, x, other)
            row |= {name: measured.pop("value")} | {f"{name}_{key}": number for key, number in measured.items()}
        judged = accuracy_rows(study, records, found, "generated")
        rows.append(row | {f"heard_{r['attribute']}": r["accuracy"] for r in judged})
    return rows


def measure_guidance(study: Study) -> None:
    """Writes results/guidance.json."""
    study.write("guidance", stage1_rows(study) + stage2_rows(study), seed=STAGE2_SEED)
