"""ablation-noise: Gaussian noise on the embeddings that Stage 2 learns from.

An embedding of 512 numbers names its clip. A network that learns this answers a training clip's embedding with the
clip, and does worse where an embedding is new, or not quite right, as Stage 1's are. Measured as flow-matching losses:
conditioned on the embeddings of training clips, of held-out clips, and of held-out clips a little off (noise 0.03).
"""

from __future__ import annotations

import dataclasses

from musekit.config import MuseConfig
from musekit.evaluate.ablations import small
from musekit.evaluate.subject import Subject, table
from musekit.train.data import Stage2Data

NOISES = (0.0, 0.01, 0.03, 0.1)
OFF = 0.03


def noisy(config: MuseConfig, noise: float) -> MuseConfig:
    """The config with that much noise on Stage 2's training embeddings; a unit vector's coordinates are about 0.04."""
    return dataclasses.replace(config, stage2=dataclasses.replace(config.stage2, embedding_noise=noise))


def measure_noise(subject: Subject) -> None:
    """Writes results/ablation-noise.json."""
    plain, rows = small.small(subject.muse.config), []
    how, limit = small.settings("stage2", subject.quick), 4 if subject.quick else 256
    sets = {
        "train": Stage2Data(subject.cache, "train", noisy(plain, 0.0)),
        "held_out": Stage2Data(subject.cache, "valid", noisy(plain, 0.0)),
        "held_out_off": Stage2Data(subject.cache, "valid", noisy(plain, OFF)),
    }
    for noise in NOISES[:2] if subject.quick else NOISES:
        config = noisy(plain, noise)
        found = small.train(subject, "stage2", config, how, show=f"embedding noise {noise:g}")
        row = {"measure": "embedding noise", "noise": noise, "off": OFF}
        row |= {f"loss_{name}": small.held_out_loss("stage2", found.ema, s, how, limit) for name, s in sets.items()}
        row["gap"] = row["loss_held_out"] - row["loss_train"]
        rows.append(row | small.about(config, "stage2", found, how))
    table(rows, "noise", "loss_train", "loss_held_out", "gap", "loss_held_out_off", "train_seconds")
    subject.write("ablation-noise", rows)
