"""The one training loop, for the codec, the embedder and both stages.

    for record in fit(model, data, validation, settings, run): ...

yields a metrics record now and then; the caller prints, plots or stops. Progress is counted in samples, so runs
compare across batch sizes and world sizes. To resume, run the same command again.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from musekit import data as data_module
from musekit import dist, flow
from musekit.config import MuseError
from musekit.runs import Run


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the model's own shape is in `MuseConfig`."""

    samples: int = 100_000  # training samples to see, all epochs and ranks together
    batch: int = 64  # samples an optimizer step, over all ranks and accumulation steps
    micro_batch: int = 64  # samples a forward pass on one rank
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 6_000  # samples
    decay: float = 0.5  # the last part of training, with the learning rate falling linearly to zero
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999  # decay of the weights' exponential moving average, a step
    seed: int = 0
    bf16: bool = True  # autocast
    log_every: int = 6_400  # samples
    validate_every: int = 64_000  # samples
    checkpoint_minutes: float = 3.0


def learning_rate(settings: TrainConfig, samples: int) -> float:
    """Linear warm-up, constant, linear decay to zero (a trapezoid: more samples can be added before the decay)."""
    rise = min(1.0, (samples + settings.batch) / max(1, settings.warmup))
    fall = (settings.samples - samples) / max(1, settings.decay * settings.samples)
    return settings.lr * max(0.0, min(rise, fall, 1.0))


def update_ema(ema: torch.nn.Module, model: torch.nn.Module, decay: float, step: int) -> None:
    """ema <- d ema + (1 - d) model with d warmed up, so that the first steps are forgotten soon; buffers are copied."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        pairs = list(zip(ema.parameters(), model.parameters(), strict=True))
        torch._foreach_lerp_([e for e, _ in pairs], [p.detach() for _, p in pairs], 1 - decay)
        for old, new in zip(ema.buffers(), model.buffers(), strict=True):
            old.copy_(new)


@torch.no_grad()
def validate(model: torch.nn.Module, dataset, settings: TrainConfig, limit: int = 512) -> dict[str, float]:
    """Mean metrics over the first clips of a held-out split, with fixed draws and stratified times."""
    model.eval()
    n = min(limit, len(dataset))
    total: dict[str, float] = {}
    for start in range(0, n, settings.micro_batch):
        rows = range(start, min(n, start + settings.micro_batch))
        batch = data_module.collate([dataset.sample(i, flow.Draws(1, i), flow.Draws(2, start)) for i in rows])
        if "t" in batch:
            batch["t"] = flow.stratified_time(n)[
                torch.randperm(n, generator=torch.Generator().manual_seed(0))[list(rows)]
            ]
            batch["keep"] = torch.ones_like(batch["keep"])
        with torch.autocast(dist.device().type, torch.bfloat16, enabled=settings.bf16):
            value, metrics = model.training_loss(dist.to_device(batch))
        for name, number in {"loss": value, **metrics}.items():
            total[name] = total.get(name, 0.0) + float(number) * len(rows) / n
    model.train()
    return total


def fit(model, dataset, validation, settings: TrainConfig, run: Run) -> Iterator[dict]:
    """Train until `settings.samples`; yields records and leaves `run` holding checkpoints and metrics.jsonl.

    model.training_loss(batch) -> (scalar, metrics). The moving average ends in `run` as checkpoint["ema"].
    """
    device, rank, world = dist.device(), dist.rank(), dist.world()
    model.to(device).train()
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, 0.98), fused=True
    )
    samples = step = 0
    if (state := run.load()) is not None:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        samples, step = state["samples"], state["step"]
    wrapped = dist.wrap(model)
    accumulate = max(1, -(-settings.batch // (settings.micro_batch * world)))
    if settings.batch % (accumulate * world):
        raise MuseError(
            f"a batch of {settings.batch} cannot be split evenly over {world} rank(s) in parts of at most"
            f" {settings.micro_batch}; choose a batch that is a multiple of {accumulate * world}"
        )
    feed = data_module.batches(dataset, settings.batch, samples, settings.seed, rank, world)
    began, saved, counted, sums = time.monotonic(), time.monotonic(), samples, {}

    def checkpoint():
        if rank == 0:
            parts = {
                "model": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            run.save(samples, {**parts, "samples": samples, "step": step})

    while samples < settings.samples:
        batch = dist.to_device(next(feed))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, samples)
        for i, part in enumerate(split(batch, accumulate)):
            with (
                dist.no_sync(wrapped, i < accumulate - 1),
                torch.autocast(device.type, torch.bfloat16, settings.bf16),
            ):
                value, metrics = wrapped(part)
            (value / accumulate).backward()
            for name, number in {"loss": value, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + number.detach() / accumulate
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        sums["gradient_norm"] = sums.get("gradient_norm", 0.0) + norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        samples, step = samples + settings.batch, step + 1
        update_ema(ema, model, settings.ema, step)

        done = samples >= settings.samples
        if crossed(samples, settings.batch, settings.log_every) or done:
            seconds, seen = time.monotonic() - began, samples - counted
            record = {
                "samples": samples,
                "epoch": samples / len(dataset),
                "lr": learning_rate(settings, samples),
            }
            record |= {name: float(value) * settings.batch / seen for name, value in sums.items()}
            if not math.isfinite(record["loss"]):
                raise MuseError(f"the loss is {record['loss']} at sample {samples:,}; try a smaller --train.lr")
            record |= {"samples_per_second": seen / seconds, "seconds": seconds}
            began, counted, sums = time.monotonic(), samples, {}
            if validation is not None and (crossed(samples, seen, settings.validate_every) or done):
                record |= {f"valid_{k}": v for k, v in validate(ema, validation, settings).items()}
                began = time.monotonic()
            if rank == 0:
                run.log(record)
            yield record
        if done or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
            checkpoint()
            saved = time.monotonic()


def crossed(samples: int, step: int, every: int) -> bool:
    """Whether the last `step` samples passed a multiple of `every`."""
    return samples // every != (samples - step) // every


def split(batch: dict, parts: int) -> list[dict]:
    """A batch in equal parts along its first axis."""
    n = len(next(iter(batch.values()))) // parts
    return [{k: v[i * n : (i + 1) * n] for k, v in batch.items()} for i in range(parts)]


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay, vectors and scalars do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, rest = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
