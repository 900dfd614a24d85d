"""The small models of the ablations: the preset's design, narrower and shallower, trained in a minute or two.

A model is trained once per configuration, training settings and clips; a stopped run goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from musekit import pretrained
from musekit.cache import config_hash
from musekit.config import MuseConfig, TrainConfig, home, identity
from musekit.evaluate.study import Study
from musekit.files import write_atomic
from musekit.muse import Muse
from musekit.runs import Run
from musekit.train.data import Stage1Data, Stage2Data, fit_scale
from musekit.train.loop import train as train_network
from musekit.train.loop import validate

SAMPLES = {"stage1": 90_000, "stage2": 24_000}
BATCH = {"stage1": 256, "stage2": 32}
DATA = {"stage1": Stage1Data, "stage2": Stage2Data}


def small(config: MuseConfig) -> MuseConfig:
    """The configuration of the small model: Stage 1 of 2 x 128, Stage 2 of 4 x 128. `smoke` is small enough."""
    if config.name == "smoke":
        return config
    stage1 = dataclasses.replace(config.stage1, width=128, depth=2, heads=4, ff_mult=2)
    stage2 = dataclasses.replace(
        config.stage2, width=128, depth=4, head_dim=64, kv_heads=1, ff_mult=2.0, condition_dim=96,
        stable_audio=False, modulation=True, embedding_noise=0.0,
    )  # fmt: skip
    return dataclasses.replace(config, stage1=stage1, stage2=stage2)


def settings(part: str, quick: bool, **changes) -> TrainConfig:
    """Training settings of a small model; float32, so that results do not depend on the machine's matrix units."""
    batch, samples = (8, 16) if quick else (BATCH[part], SAMPLES[part])
    plain = TrainConfig(
        samples=samples, batch=batch, micro_batch=batch, lr=1e-3, warmup=min(6_000, samples // 4),
        log_every=max(batch, samples // 20), validate_every=10 * samples, checkpoint_minutes=1.0, bf16=False,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def subset(dataset: Stage1Data, n: int) -> Stage1Data:
    """The dataset cut to n of its clips, chosen by a hash of their ids: smaller sets are subsets of larger ones."""
    order = sorted(range(len(dataset)), key=lambda i: hashlib.sha256(dataset.clips[i]["id"].encode()).digest())[:n]
    dataset.clips, dataset.embeddings = [dataset.clips[i] for i in order], dataset.embeddings[order]
    return dataset


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    ema: Path  # folder of the moving average's weights
    last: Path  # folder of the last step's weights
    about: dict  # what each row states of the model: name, parameters, samples, seconds of training

    def muse(self, study: Study, averaged: bool = True) -> Muse:
        """A system with this Stage 1; the text encoder is the study's."""
        muse = Muse.from_pretrained(self.ema if averaged else self.last)
        muse.text = study.muse.text
        return muse


def train(
    study: Study, part: str, config: MuseConfig, how: TrainConfig, dataset=None, label: str = "", show: str = ""
) -> Trained:
    """Train a part of the small model; dataset: the training split where None. label: a further part of the key."""
    from tqdm import tqdm

    dataset = DATA[part](study.cache, "train", config) if dataset is None else dataset
    ids = hashlib.sha256("\n".join(c["id"] for c in dataset.clips).encode()).hexdigest()
    made = [study.hashes.get(p) for p in ("embedder", "codec")]
    key = config_hash(part, identity(getattr(config, part)), dataclasses.asdict(how), ids, made, label)
    folder = home() / "eval" / "ablations" / f"{part}-{key}"
    done, run = folder / "done.json", Run(folder)
    if not done.exists():
        torch.manual_seed(how.seed)
        model = pretrained.build(part, config)
        fit_scale(part, model, dataset)
        with tqdm(total=how.samples, desc=show or f"train {part}", unit="sample", leave=False, delay=2) as bar:
            for record in train_network(model, dataset, None, how, run):
                bar.update(record["samples"] - bar.n)
        state = run.load()
        for name in ("ema", "model"):
            model.load_state_dict(state[name])
            pretrained.save_part(folder / name, part, model, config, half=False)
        name = "smoke" if config.name == "smoke" else f"{config.name}-small"
        about = {"model": name, "parameters": sum(p.numel() for p in model.parameters()), "samples": how.samples}
        about["train_seconds"] = sum(row["seconds"] for row in run.metrics())
        write_atomic(done, json.dumps(about) + "\n")
        for path in run.checkpoints():  # needed only to go on
            path.unlink()
    return Trained(folder / "ema", folder / "model", json.loads(done.read_text()))


@torch.no_grad()
def held_out_loss(part: str, folder: Path, dataset, how: TrainConfig, limit: int = 256) -> float:
    """Mean flow-matching loss of a folder's weights on a dataset, with fixed draws and stratified times."""
    model = pretrained.load_part(folder, part)[0]
    return float(validate(model, dataset, how, min(limit, len(dataset)))["loss"])
