"""ablation-data: Stage 1 learns from a part of the clips, with as many samples seen. Does it copy what it has seen?"""

from __future__ import annotations

from musekit.evaluate.ablations import small
from musekit.evaluate.quality import Quality
from musekit.evaluate.subject import Subject, table
from musekit.muse import Settings
from musekit.statistics import neighbours, percentile_difference
from musekit.train.data import Stage1Data

PARTS = (16, 4, 1)


def measure_data(subject: Subject) -> None:
    """Writes results/ablation-data.json."""
    quality, rows, config = Quality(subject), [], small.small(subject.muse.config)
    how = small.settings("stage1", subject.quick)
    validation = Stage1Data(subject.cache, "valid", config)
    whole = len(Stage1Data(subject.cache, "train", config))
    for part in PARTS[1:] if subject.quick else PARTS:
        dataset = small.subset(Stage1Data(subject.cache, "train", config), max(2, whole // part))
        seen = subject.unit(dataset.embeddings.double().numpy())  # before training, in the run's own order
        found = small.train(subject, "stage1", config, how, dataset, show=f"1 / {part} of the clips")
        sample = quality.sample(found.muse(subject), Settings())
        row = {"measure": "data size", "share": 1 / part, "clips": len(dataset)}
        row["train_loss"] = small.held_out_loss("stage1", found.ema, dataset, how)
        row["valid_loss"] = small.held_out_loss("stage1", found.ema, validation, how)
        row |= quality.row(sample)
        # nearer to what it has seen than held-out clips are: copies
        own, real = (neighbours.nearest(x, seen)[0] for x in (sample.captions, quality.real))
        row |= {"to_seen": float(own.mean()), "held_out_to_seen": float(real.mean())}
        gap = percentile_difference(own, real, 5, seed=0)
        row |= {"copies_difference": gap["difference"], "copies_low": gap["low"], "copies_high": gap["high"]}
        rows.append(row | small.about(config, "stage1", found, how))
    columns = ("train_loss", "valid_loss", "kernel_distance", "low", "high", "spread_ratio")
    table(rows, "clips", *columns, "to_seen", "held_out_to_seen")
    subject.write("ablation-data", rows, embedding=subject.embedding_name)
