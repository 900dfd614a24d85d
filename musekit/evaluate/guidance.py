"""guidance: obedience against coverage of right answers, for the guidance and the steps of both stages.

More guidance makes samples more obedient and less various. The defaults belong at the knee of that curve, so this
measurement runs on the valid split only. All settings start from the same noise with the same prompts. Stage 1 is
measured on embeddings: a sample of each evaluation prompt (obedience, and distance to held-out clips) and several of
each prompt of `conditional` (coverage of its right answers). Stage 2 is measured on audio: 6 s for each of 64 prompts.
The pulse is that of transcribed notes.
"""

from __future__ import annotations

import numpy as np

from musekit.corpus.captions import evaluation_prompts
from musekit.evaluate import theory
from musekit.evaluate.conditional import LEVELS, asked, compare, enough, halves
from musekit.evaluate.distances import LIBROSA
from musekit.evaluate.features import standardised
from musekit.evaluate.judge import accuracy_rows, as_record, zero_shot
from musekit.evaluate.study import Study, progress
from musekit.evaluate.transcribe import notes_of
from musekit.muse import Settings
from musekit.statistics import KernelDistance, spread

STAGE1_SEED, STAGE2_SEED = 100_000, 120_000
EACH = 24  # samples of each prompt with right answers
STAGE1 = [("guidance", w, {"stage1_guidance_scale": w}) for w in (0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)]
STAGE1 += [("steps", n, {"stage1_steps": n, "stage1_solver": "euler"}) for n in (1, 2, 4, 8, 16, 32, 64)]
STAGE2 = [("guidance", w, {"guidance_scale": w}) for w in (1.0, 1.5, 2.0, 2.5, 3.0, 5.0)]
STAGE2 += [(f"steps, shift {s:g}", n, {"steps": n, "shift": s}) for s, n in ((1, 4), (1, 8), (1, 16), (1, 32), (4, 16))]
STUDENT = "student, steps"  # the draft's
PIECES, SECONDS = 64, 6.0


def obedience(rows: list[dict], prefix: str) -> dict[str, float]:
    """The accuracy of each attribute, and their mean."""
    found = {f"{prefix}_{r['attribute']}": r["accuracy"] for r in rows}
    return {"obedience": float(np.mean(list(found.values()))), **found}


def stage1_rows(study: Study) -> list[dict]:
    """Held-out clips, then a row per setting: obedience, coverage of right answers, distance to held-out ones."""
    each, prompts = 4 if study.quick else EACH, evaluation_prompts(study.n)
    groups = [(p, y) for level in LEVELS for _, p, y in asked(study, level) if enough(study, y)]
    texts = [p["text"] for p in prompts] + [p["text"] for p, _ in groups for _ in range(each)]
    records, real = [as_record(p["asks"]) for p in prompts], study.embed(study.prompt_like())
    told = obedience(zero_shot(study, study.prompt_like(), real, ""), "said")
    kernel, rows = KernelDistance(real), [{"measure": "stage1 held-out clips", "n": len(real), **told}]
    for what, value, settings in progress(STAGE1[:2] + STAGE1[-1:] if study.quick else STAGE1, "Stage 1"):
        x, nfe = study.sample(study.recipes(texts, STAGE1_SEED, Settings(micro_batch=16, **settings)))
        first, answers = x[: len(prompts)], np.split(x[len(prompts) :], max(1, len(groups)))
        row = {"measure": f"stage1 {what}", "value": value, "embedding": study.embedding_name}
        row |= {"n": len(first), "m": len(real), "nfe": float(nfe.mean())}
        row |= obedience(zero_shot(study, records, first, ""), "said")
        if len(groups) > 1:
            found = compare(answers, [y for _, y in groups])
            row |= {name: found[name]["value"] for name in ("distance", "coverage", "recall", "inside")}
            row |= {"spread_ratio": found["spread"]["value"], "coverage_low": found["coverage"]["low"]}
        measured = kernel.measured(first)
        rows.append(row | {"kernel_distance": measured.pop("value")} | measured)
    return rows


def stage2_rows(study: Study) -> list[dict]:
    """One row per setting, through the whole system: obedience by the judge, coverage by features of the sound."""
    defaults, prompts = study.muse.config.sample, evaluation_prompts(4 if study.quick else min(PIECES, study.n))
    texts, records = [p["text"] for p in prompts], [as_record(p["asks"]) for p in prompts]
    seconds, real = min(SECONDS, defaults.seconds), study.prompt_like()
    real_features = study.features(real, seconds)
    sets = {"kernel_distance": study.embed(real, seconds)}
    sets["librosa_kernel_distance"] = standardised(real_features, real_features)
    embeddings, _ = study.sample(study.recipes(texts, STAGE1_SEED, Settings(micro_batch=16)))  # the same for all rows
    rows, systems, cases = [], {STUDENT: study.muse.draft}, STAGE2[:1] + STAGE2[-1:] if study.quick else STAGE2
    if study.muse.draft is not study.muse:
        cases = [*cases, (STUDENT, study.muse.draft.config.sample.stage2_steps, {})]
    for what, value, settings in progress(cases, "Stage 2"):
        settings, muse = Settings(seconds=seconds, **settings), systems.get(what, study.muse)
        paths = study.render(embeddings, study.recipes(texts, STAGE2_SEED, settings, muse))
        found = study.features(paths)
        own = {"kernel_distance": study.embed(paths), "librosa_kernel_distance": standardised(found, real_features)}
        row = {"measure": f"stage2 {what}", "value": value, "n": len(found), "m": len(real), "seconds": seconds}
        row |= {"features": LIBROSA, "spread": spread(own["kernel_distance"])}
        row |= obedience(accuracy_rows(study, records, found, "generated"), "heard")
        onsets = [theory.onsets_of(notes)[0] for notes in notes_of(study, paths)]
        row |= {"pulse": float(np.mean([theory.pulse_in(times, seconds) for times in onsets]))}
        shares = halves(own["librosa_kernel_distance"], sets["librosa_kernel_distance"], seed=0)
        row |= {"coverage": shares[0] / shares[2], "recall": shares[1] / shares[3]}
        for name, x in own.items():
            measured = KernelDistance(sets[name]).measured(x)
            row |= {name: measured.pop("value")} | {f"{name}_{key}": number for key, number in measured.items()}
        rows.append(row)
    return rows


def measure_guidance(study: Study) -> None:
    """Writes results/guidance.json."""
    study.write("guidance", stage1_rows(study) + stage2_rows(study), held_out=False, seed=STAGE2_SEED)
