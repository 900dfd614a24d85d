"""ablation-guidance: guidance needs a network that also knows the answer to no question. What does teaching it cost?

Stage 1 is trained with its condition dropped in a share p of the samples, then sampled with several guidance scales w.
With p = 0 the network has never seen the null token: only w = 1, which does not ask for it, can be right.
"""

from __future__ import annotations

import dataclasses

from musekit.evaluate.ablations import small
from musekit.evaluate.quality import Quality
from musekit.evaluate.subject import Subject, bar, table
from musekit.muse import Settings

DROPOUTS, SCALES = (0.0, 0.1, 0.3), (1.0, 2.0, 3.0)


def measure_guidance(subject: Subject) -> None:
    """Writes results/ablation-guidance.json."""
    quality, rows = Quality(subject), []
    plain, how = small.small(subject.muse.config), small.settings("stage1", subject.quick)
    for p in DROPOUTS[:2] if subject.quick else DROPOUTS:
        config = dataclasses.replace(plain, stage1=dataclasses.replace(plain.stage1, condition_dropout=p))
        found = small.train(subject, "stage1", config, how, show=f"condition dropout {p:g}")
        muse = found.muse(subject)
        for w in bar(SCALES[:1] if subject.quick else SCALES, "guidance scales"):
            row = {"measure": "guidance", "condition_dropout": p, "guidance_scale": w}
            row |= quality.row(quality.sample(muse, Settings(stage1_guidance_scale=w)))
            rows.append(row | small.about(config, "stage1", found, how))
    columns = ("kernel_distance", "low", "high", "similarity", "recall", "spread_ratio")
    table(rows, "condition_dropout", "guidance_scale", *columns)
    subject.write("ablation-guidance", rows, embedding=subject.embedding_name)
