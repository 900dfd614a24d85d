"""`musekit train`: which network, which data, which run folder; the loop itself is `train.loop`."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import torch

from musekit import distil, distributed, lora, pretrained
from musekit.config import MuseError, TrainConfig, home, identity, preset
from musekit.files import checked, read_json, write_atomic
from musekit.runs import Run, exclusive
from musekit.train.data import DATA, fit_scale
from musekit.train.loop import accumulation, train

CURVE_POINTS = 200  # of the training curve in <part>.train.json
EXPORT_PATIENCE_S = 60.0  # another training may be writing its weights into the same folder


def train_part(options) -> Path:
    """Train `options.part`, or continue its run, and export the weights; returns their file.

    Raises MuseError for what cannot work, before any training, and `distributed.Stopped` after a signal, when the state
    is saved.
    """
    from tqdm import tqdm

    part, settings, config, init = options.part, options.train, preset(options.preset), options.init
    check(part, settings)
    if settings.lora and (part not in ("stage1", "stage2") or init is None):
        raise MuseError("LoRA fine-tunes stage1 or stage2: give --init FOLDER, the trained weights that it begins with")
    if settings.distil and (part != "stage2" or not settings.lora):
        raise MuseError("--train.distil trains a student of stage2 by LoRA: give --train.lora RANK and --init FOLDER")
    distributed.check_gpus(options.require_gpus)
    first = distributed.rank() == 0
    named = "draft" if settings.distil else part
    folder = Path(options.run_folder or home() / "runs" / f"{options.preset}-{named}")
    out, cache = options.out or folder / "weights", options.cache or home() / "caches" / "scores"

    with distributed.signals() as stop, distributed.process_group(), locked(folder):
        dataset, validation = DATA[part](cache, "train", config), DATA[part](cache, "valid", config)
        run = Run(folder, settings.keep)
        network = config.stage1 if part == "regression" else getattr(config, part)
        claim = {"part": part, "config": identity(network)}  # sampling settings may change during a run
        claim |= {"lora": settings.lora} if settings.lora else {}
        claim |= {"distil": settings.distil, "teacher": identity(config.sample)} if settings.distil else {}
        maker = dataset.shards.manifest["maker"] if dataset.shards else "audio"
        claim |= {"data": f"{maker}, {len(dataset)} clips", "made_by": dataset.made_by}
        run.claim(claim, write=first, ranks=distributed.world(), threads=torch.get_num_threads())
        torch.manual_seed(settings.seed)
        model = pretrained.build(part, config)

        def initialise() -> None:
            # Stable Audio Open keeps the scale of its own latents
            if init is None or not pretrained.initialise(model, part, init):
                fit_scale(part, model, dataset)

        if settings.lora:  # the frozen weights stay what they are, their scale included
            if not run.checkpoints() and pretrained.initialise(model, part, init):
                raise MuseError(f"{init} has no network for our embeddings: train {part} from it first, without LoRA")
            lora.adapt(model, settings.lora)
        about = distil.about(pretrained.find(init), config.sample, settings.distil) if settings.distil else {}
        if settings.distil:
            distil.begin(model, config.sample, settings.distil)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.startswith(settings.only))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise MuseError(f"--train.only {settings.only}: no parameter of {part} begins so")

        # a progress bar on a terminal, lines in a log
        with tqdm(total=settings.samples, unit="sample", unit_scale=True, disable=None if first else True) as bar:
            bar.set_description(f"train {part}", refresh=False)
            begin = (lambda: None) if settings.lora else initialise
            for record in train(model, dataset, validation, settings, run, stop, begin):
                losses = {k: f"{record[k]:.4f}" for k in ("loss", "floor", "valid_loss") if k in record}
                bar.set_postfix(losses, refresh=False)
                bar.update(record["samples"] - bar.n)
                if first and bar.disable:
                    shown = ", ".join(f"{k} {v}" for k, v in losses.items())
                    speed = f"{record['samples_per_second']:.1f} samples/s"
                    print(f"{part} {record['samples']:,}/{settings.samples:,}: {shown}, {speed}", file=sys.stderr)
        if not first:
            return out / f"{part}.safetensors"
        with exclusive(Path(out), EXPORT_PATIENCE_S) if Path(out) != folder else contextlib.nullcontext():
            if settings.lora:
                path = Path(out) / (pretrained.STUDENT if settings.distil else f"{part}.lora.safetensors")
                lora.save(path, part, run.load()["ema"], about)
            else:
                model.cpu().load_state_dict(run.load()["ema"])
                path = pretrained.save_part(out, part, model, config)
        summary = summarise(run, named, settings, len(dataset), init)
        write_atomic(path.with_suffix(".train.json"), json.dumps(summary, indent=1) + "\n")
        print(f"{part}: {path}")
        return path


def check(part: str, settings: TrainConfig) -> None:
    """Raise MuseError for settings that train nothing, or not what they say."""
    checked(dataclasses.asdict(settings), TrainConfig, lambda name: f"--train.{name.replace('_', '-')}")
    if settings.shard and (part in ("codec", "embedder") or settings.lora):
        raise MuseError("--train.shard splits the weights of stage1, stage2 or regression, all of which are trained")
    passes = accumulation(settings, distributed.world()) * distributed.world()
    if part == "embedder" and passes > 1:
        why = f"the embedder's loss compares all clips of a batch, which is split into {passes} micro-batches"
        raise MuseError(f"{why}; train in one process, with --train.micro-batch as large as --train.batch")


@contextlib.contextmanager
def locked(folder: Path):
    """Lock the run folder for the length of the block. Raises MuseError on every rank when another run has the lock."""
    with contextlib.ExitStack() as stack:
        refusal = ""
        if distributed.rank() == 0:
            try:
                stack.enter_context(exclusive(folder))
            except MuseError as error:
                refusal = str(error)
        if refusal := distributed.all_gather(refusal)[0]:
            raise MuseError(refusal)
        yield


def summarise(run: Run, part: str, settings: TrainConfig, clips: int, init: str | Path | None) -> dict:
    """What <part>.train.json and the model card say of a run: length, last losses, settings, provenance and curve."""
    records, provenance = run.metrics(), {}
    with contextlib.suppress(OSError, MuseError):  # damaged; the weights are not
        provenance = read_json(run.folder / "provenance.json", dict)
    minutes = round(sum(r.get("seconds", 0) for r in records) / 60, 1)
    last = {k: v for r in records for k, v in r.items() if k in ("loss", "floor") or k.startswith("valid_")}
    about = {"samples": records[-1]["samples"] if records else settings.samples, "minutes": minutes, "clips": clips}
    about |= {"last": last, "init": init and Path(init).name, "settings": dataclasses.asdict(settings)}
    return {"part": part, **about, "provenance": provenance, "metrics": thinned(records)}


def thinned(records: list[dict], most: int = CURVE_POINTS) -> list[dict]:
    """At most so many records of samples and losses: neighbours become one, with the mean of their training losses and
    the last of their validation losses, which are measured less often."""
    size, curve = max(1, -(-len(records) // most)), []
    for start in range(0, len(records), size):
        some = records[start : start + size]
        point = {k: v for r in some for k, v in r.items() if k == "samples" or k.startswith("valid_")}
        point |= {k: sum(r[k] for r in some) / len(some) for k in ("loss", "floor") if all(k in r for r in some)}
        curve.append({k: v if k == "samples" else float(f"{v:.5g}") for k, v in point.items()})
    return curve
