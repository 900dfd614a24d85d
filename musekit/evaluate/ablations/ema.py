"""ablation-ema: is the moving average of the weights worth keeping, and does a falling learning rate replace it?"""

from __future__ import annotations

from musekit.evaluate.ablations import small
from musekit.evaluate.quality import Quality
from musekit.evaluate.subject import Subject, table
from musekit.muse import Settings
from musekit.train.data import Stage1Data


def measure_ema(subject: Subject) -> None:
    """Writes results/ablation-ema.json. One run gives both: the average is kept beside the weights."""
    quality, rows, config = Quality(subject), [], small.small(subject.muse.config)
    validation = Stage1Data(subject.cache, "valid", config)
    for decay in (0.5, 0.0):
        how = small.settings("stage1", subject.quick, decay=decay)
        found = small.train(subject, "stage1", config, how, show=f"learning rate's decay {decay:g}")
        sets = {True: quality.sample(found.muse(subject), Settings())}
        sets[False] = quality.sample(found.muse(subject, averaged=False), Settings())
        for averaged, sample in sets.items():
            row = {"measure": "ema", "lr_decay": decay, "ema": how.ema if averaged else None}
            folder = found.ema if averaged else found.last
            row["valid_loss"] = small.held_out_loss("stage1", folder, validation, how)
            row |= quality.row(sample, sets[False])
            rows.append(row | small.about(config, "stage1", found, how))
    columns = ("kernel_distance", "low", "high", "against_default", "against_low", "against_high", "similarity")
    table(rows, "lr_decay", "ema", "valid_loss", *columns)
    subject.write("ablation-ema", rows, embedding=subject.embedding_name, against="the last weights of the same run")
