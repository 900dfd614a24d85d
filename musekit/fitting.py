"""`musekit train`: which model, which data, which defaults; the loop itself is `train.fit`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from musekit import data, dist, pretrained
from musekit.config import MuseConfig, MuseError, home, preset
from musekit.runs import Run, write_atomic
from musekit.train import TrainConfig, fit

DATA = {
    "codec": data.CodecData,
    "embedder": data.EmbedderData,
    "stage1": data.Stage1Data,
    "regression": data.Stage1Data,
    "stage2": data.Stage2Data,
}

SHAPE = {  # the part of the config that a run must keep: how pieces are sampled later is not its business
    "codec": lambda config: config.codec,
    "embedder": lambda config: config.embedder,
    "stage1": lambda config: config.stage1,
    "regression": lambda config: config.stage1,
    "stage2": lambda config: config.stage2,
}

RECOMMENDED = {  # what trained the packaged weights; `--train.*` overrides
    "codec": TrainConfig(samples=330_000, batch=32, micro_batch=32, lr=1.2e-3),
    "embedder": TrainConfig(
        samples=80_000, batch=128, micro_batch=128, lr=1e-3, weight_decay=0.05, ema=0.995, validate_every=25_600
    ),
    "stage1": TrainConfig(samples=500_000, batch=256, micro_batch=256, lr=1e-3, weight_decay=0.01),
    "regression": TrainConfig(samples=150_000, batch=256, micro_batch=256, lr=1e-3, weight_decay=0.01),
    "stage2": TrainConfig(samples=106_000, batch=32, micro_batch=32, lr=1e-3, validate_every=32_000),
}


def fit_scale(part: str, model, dataset, n: int = 256) -> None:
    """Give a new model its data's mean and scale, from the first training clips (all embeddings for Stage 1)."""
    clips = [c["id"] for c in dataset.clips[:n]]
    if part == "codec":
        model.fit_scale(torch.cat([dataset.shards.row(i)[::8].float() for i in clips]))
    elif part == "embedder":
        model.fit_scale(torch.cat([dataset.shards.row(i)[::4].float() for i in clips]))
    elif part == "stage2":
        everything = [dataset.shards.row(c["id"])[::8].float() for c in dataset.clips]
        model.fit_scale(torch.cat(everything))
    else:
        model.fit_scale(dataset.embeddings)


def train_part(options) -> Path:
    """Train `options.part` and write its weights; returns their file. Progress bar, metrics, same command resumes."""
    from tqdm import tqdm

    part, config = options.part, preset(options.preset)
    settings = merged(RECOMMENDED[part], options.train)
    cache = options.cache or home() / "caches" / "scores"
    folder = options.run_folder or home() / "runs" / f"{config.name}-{part}"
    out = options.out or folder / "weights"
    dataset, validation = DATA[part](cache, "train", config), held_out(part, cache, config)
    run = Run(folder)
    with dist.process_group():
        torch.manual_seed(settings.seed)
        model = pretrained.build(part, config)
        fit_scale(part, model, dataset)
        if dist.rank() == 0:
            shape = dataclasses.asdict(SHAPE[part](config))
            run.claim(json.dumps({"part": part, "config": shape, "data": dataset_hash(dataset)}, indent=1))
        quiet = dist.rank() != 0
        with tqdm(total=settings.samples, unit="sample", unit_scale=True, desc=f"train {part}", disable=quiet) as bar:
            for record in fit(model, dataset, validation, settings, run):
                bar.update(record["samples"] - bar.n)
                bar.set_postfix({k: f"{record[k]:.4f}" for k in ("loss", "floor", "valid_loss") if k in record})
        if dist.rank() == 0:
            state = run.load()
            if state is None:
                raise MuseError(f"{folder} has no whole checkpoint; run the same command again")
            model.load_state_dict(state["ema"])
            path = pretrained.save_part(out, part, model, config)
            write_atomic(
                out / f"{part}.train.json",
                json.dumps(summary(run, part, settings, len(dataset)), indent=1) + "\n",
            )
            print(f"{part}: {path}")
            return path
    return out / f"{part}.safetensors"


def export(folder: Path, part: str, config: MuseConfig, out: Path) -> Path:
    """Write the moving average of a run's newest checkpoint as weights, while the run goes on."""
    state = Run(folder).load()
    if state is None:
        raise MuseError(f"{folder} has no checkpoint yet")
    model = pretrained.build(part, config)
    model.load_state_dict(state["ema"])
    return pretrained.save_part(out, part, model, config)


def held_out(part: str, cache: Path, config: MuseConfig):
    """The validation split, without augmentation."""
    if part == "embedder":
        return data.EmbedderData(cache, "valid", config, augment=False)
    return DATA[part](cache, "valid", config)


def dataset_hash(dataset) -> str:
    """What was learned from: the shards' maker and number of clips."""
    return f"{dataset.shards.manifest['maker']}, {len(dataset)} clips"


def merged(defaults: TrainConfig, given: TrainConfig) -> TrainConfig:
    """The part's defaults, with the options that differ from `TrainConfig()`'s."""
    plain = TrainConfig()
    changed = {
        f.name: getattr(given, f.name)
        for f in dataclasses.fields(TrainConfig)
        if getattr(given, f.name) != getattr(plain, f.name)
    }
    return dataclasses.replace(defaults, **changed)


def summary(run: Run, part: str, settings: TrainConfig, clips: int) -> dict:
    """What the model card tells of a training: command, minutes, hardware, last losses."""
    rows = run.metrics()
    provenance = json.loads((run.folder / "provenance.json").read_text())
    last = {k: v for r in rows for k, v in r.items() if k in ("loss", "floor") or k.startswith("valid_")}
    minutes = sum(r["seconds"] for r in rows) / 60
    done = {"samples": rows[-1]["samples"], "minutes": round(minutes, 1), "clips": clips}
    return {
        "part": part,
        **done,
        "last": last,
        "settings": dataclasses.asdict(settings),
        "provenance": provenance,
        "metrics": thinned(rows),
    }


def thinned(rows: list[dict], most: int = 200) -> list[dict]:
    """At most so many rows for a training curve: samples and losses, neighbours joined, their training losses averaged.

    A validation loss is measured more rarely than rows are written: the last one of its neighbours is kept.
    """
    size, thin = max(1, -(-len(rows) // most)), []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        row = {k: v for r in part for k, v in r.items() if k == "samples" or k.startswith("valid_")}
        means = {k: sum(r[k] for r in part) / len(part) for k in ("loss", "floor") if all(k in r for r in part)}
        thin.append({k: v if k == "samples" else float(f"{v:.5g}") for k, v in {**row, **means}.items()})
    return thin
