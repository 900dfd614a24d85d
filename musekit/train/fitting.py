"""`musekit train`: which model, which data, which defaults; the loop itself is `train.fit`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import torch

from musekit import distributed, pretrained
from musekit.config import MuseConfig, MuseError, TrainConfig, home, identity, preset
from musekit.files import write_atomic
from musekit.runs import Run
from musekit.runs.lock import hold
from musekit.train import accumulation, data, fit
from musekit.train.listen import Listener

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

SCALED_BY = 4096  # clips, evenly over the split, that tell Stage 2 the latents' mean and scale


def fit_scale(part: str, model, dataset, n: int = 256) -> None:
    """Give a new model its data's mean and scale, from the first training clips (all embeddings for Stage 1)."""

    def frames(clips: list[dict], every: int) -> torch.Tensor:  # of the clips, and not of what pads a short one
        shards, ids = dataset.shards, [c["id"] for c in clips]
        return torch.cat([shards.row(i, stop=shards.row_length(i))[::every].float() for i in ids])

    if part == "codec":
        model.fit_scale(frames(dataset.clips[:n], 8))
    elif part == "embedder":
        model.fit_scale(frames(dataset.clips[:n], 4))
    elif part == "stage2":
        model.fit_scale(frames(dataset.clips[:: -(-len(dataset.clips) // SCALED_BY)], 8))
    else:
        model.fit_scale(dataset.embeddings)


def run_folder(options) -> Path:
    """Where `musekit train` with these options keeps metrics and checkpoints."""
    return Path(options.run_folder or home() / "runs" / f"{options.preset}-{options.part}")


def train_part(options) -> Path:
    """Train `options.part` and write its weights; returns their file. Progress bar, metrics, same command resumes.

    What cannot work is refused before any work: a MuseError in one line. A signal saves and raises `Stopped`.
    """
    with contextlib.ExitStack() as held, distributed.signals() as stop:
        return _train(options, stop, held)


def _train(options, stop, held: contextlib.ExitStack) -> Path:
    from tqdm import tqdm

    part, settings, config, first = options.part, options.train, preset(options.preset), distributed.rank() == 0
    accumulation(settings, distributed.world())
    distributed.check_gpus(getattr(options, "require_gpus", 0))
    folder = run_folder(options)
    out = options.out or folder / "weights"
    run = Run(folder, settings.keep, settings.tensorboard and first)
    cache = options.cache or home() / "caches" / "scores"
    dataset = DATA[part](cache, "train", config, damaged=settings.damaged)
    validation = held_out(part, cache, config, settings.damaged)
    claim = {"part": part, "config": identity(SHAPE[part](config)), "data": dataset_hash(dataset)}
    claim = json.dumps({**claim, "made_by": dataset.made_by}, indent=1)
    run.claim(claim, write=False)  # a mistake is told before ranks wait for each other
    listen = listener(options, validation, config, folder)
    with distributed.process_group():
        alone(folder, held)
        run.claim(claim, write=first)
        torch.manual_seed(settings.seed)
        model = pretrained.build(part, config)
        init = getattr(options, "init", None)
        if init is None or not pretrained.initialise(model, part, init):  # Stable Audio Open's latents keep their scale
            fit_scale(part, model, dataset)
        # a bar on a terminal, lines in a log
        bar = tqdm(total=settings.samples, unit="sample", unit_scale=True, disable=None if first else True)
        with bar:
            for record in fit(model, dataset, validation, settings, run, stop, listen):
                told = {k: f"{record[k]:.4f}" for k in ("loss", "floor", "valid_loss") if k in record}
                bar.set_description(f"train {part}", refresh=False)
                bar.set_postfix(told, refresh=False)
                bar.update(record["samples"] - bar.n)
                if first and bar.disable:
                    speed = f"{record['samples_per_second']:.1f} samples/s"
                    losses = ", ".join(f"{k} {v}" for k, v in told.items())
                    print(f"{part} {record['samples']:,}/{settings.samples:,}: {losses}, {speed}", file=sys.stderr)
        if not first:
            return out / f"{part}.safetensors"
    state = run.load()
    if state is None:
        raise MuseError(f"{folder} has no whole checkpoint; run the same command again")
    model.load_state_dict(state["ema"])
    path = pretrained.save_part(out, part, model, config)
    write_atomic(
        out / f"{part}.train.json",
        json.dumps(after(init, summary(run, part, settings, len(dataset))), indent=1) + "\n",
    )
    print(f"{part}: {path}")
    return path


def alone(folder: Path, held: contextlib.ExitStack) -> None:
    """Lock the run's folder until `held` is closed. Raises MuseError on every rank when another run trains there."""
    refused = ""
    if distributed.rank() == 0:
        try:
            if (lock := hold(folder, lambda text: print(f"musekit: note: {text}", file=sys.stderr))) is not None:
                held.enter_context(lock)
        except MuseError as error:
            refused = str(error)
    if refused := distributed.gathered(refused)[0]:  # the ranks end together
        raise MuseError(refused)


def listener(options, validation, config: MuseConfig, folder: Path) -> Listener | None:
    """What decodes pieces of a Stage 2 in training, where that is asked for. Raises MuseError without a codec."""
    if not options.train.samples_every:
        return None
    if options.part != "stage2":
        raise MuseError("--train.samples-every decodes what Stage 2 makes; no other part makes sound")
    if pretrained.public("codec", config):
        codec = pretrained.load_public("codec", config)[0]
    else:
        codec = pretrained.load_part(getattr(options, "codec", None) or config.name, "codec")[0]
    return Listener(codec, validation, config, folder)


def export(folder: Path, part: str, config: MuseConfig, out: Path) -> Path:
    """Write the moving average of a run's newest checkpoint as weights, while the run goes on."""
    state = Run(folder).load()
    if state is None:
        raise MuseError(f"{folder} has no checkpoint yet")
    model = pretrained.build(part, config)
    model.load_state_dict(state["ema"])
    return pretrained.save_part(out, part, model, config)


def held_out(part: str, cache: Path, config: MuseConfig, damaged: str = "refuse"):
    """The validation split, without augmentation."""
    if part == "embedder":
        return data.EmbedderData(cache, "valid", config, augment=False, damaged=damaged)
    return DATA[part](cache, "valid", config, damaged=damaged)


def dataset_hash(dataset) -> str:
    """What was learned from: the shards' maker and number of clips."""
    return f"{dataset.shards.manifest['maker']}, {len(dataset)} clips"


def after(init: str | Path | None, told: dict) -> dict:
    """A summary with the trainings before it, which made the weights that it began from: `before`, the oldest first.

    Samples and minutes are then those of all of them together, and the curves follow one another.
    """
    try:
        earlier = json.loads((pretrained.find(init) / f"{told['part']}.train.json").read_text()) if init else None
    except (MuseError, OSError, ValueError):
        earlier = None  # weights from elsewhere, which tell nothing of themselves
    if earlier is None:
        return told
    chain = earlier.get("before") or []
    chain = [chain] if isinstance(chain, dict) else chain  # a file of before there were several
    done = sum(run["samples"] for run in chain), sum(run["minutes"] for run in chain)
    own = {"samples": earlier["samples"] - done[0], "minutes": round(earlier["minutes"] - done[1], 1)}
    own |= {k: earlier[k] for k in ("clips", "settings", "provenance", "note") if k in earlier}
    moved = [{**row, "samples": row["samples"] + earlier["samples"]} for row in told["metrics"]]
    total = {"samples": earlier["samples"] + told["samples"], "minutes": round(earlier["minutes"] + told["minutes"], 1)}
    return told | total | {"before": [*chain, own], "metrics": earlier["metrics"] + moved}


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
