"""The one training loop, for the codec, the embedder and both stages.

    for record in fit(model, data, validation, settings, run): ...

yields a metrics record now and then; the caller prints, plots or stops. Progress is counted in samples, so runs
compare across batch sizes and world sizes. To resume, run the same command again.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as computed_again

from musekit import distributed, flow
from musekit.config import MuseError, TrainConfig
from musekit.gpu import Compiled
from musekit.runs import Run
from musekit.train import feed, flops

LEAST = dict.fromkeys(("samples", "batch", "micro_batch", "log_every", "validate_every"), 1)
LEAST |= dict.fromkeys(("lr", "weight_decay", "clip", "samples_every", "feeders"), 0)


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
def validate(model: nn.Module, dataset, settings: TrainConfig, limit: int = 512) -> dict[str, float]:
    """Mean metrics over the first clips of a held-out split, with fixed draws and stratified times.

    Clips are evaluated in groups of `dataset.together`, which ranks share out: neither the micro-batch nor the number
    of ranks changes a bit of the result, which all ranks have.
    """
    training = model.training
    model.eval()
    n, size = min(limit, len(dataset)), getattr(dataset, "together", 16)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    found = {}
    for group, start in list(enumerate(range(0, n, size)))[distributed.rank() :: distributed.world()]:
        rows = list(range(start, min(n, start + size)))
        batch = feed.collate([dataset.sample(i, flow.Draws(1, i), flow.Draws(2, start)) for i in rows])
        if "t" in batch:
            batch["t"] = flow.stratified_time(n)[order[rows]]
            batch["keep"] = torch.ones_like(batch["keep"])
        with torch.autocast(distributed.device().type, torch.bfloat16, enabled=settings.bf16):
            value, metrics = model.training_loss(distributed.to_device(batch))
        found[group] = {name: float(number) * len(rows) / n for name, number in {"loss": value, **metrics}.items()}
    model.train(training)
    groups = {k: v for some in distributed.gathered(found) for k, v in some.items()}
    return {name: sum(groups[k][name] for k in sorted(groups)) for name in groups[0]}


def fit(
    model: nn.Module,
    dataset,
    validation,
    settings: TrainConfig,
    run: Run,
    stop: Callable[[], int] = lambda: 0,
    listen: Callable[[nn.Module, int], None] | None = None,
) -> Iterator[dict]:
    """Train until `settings.samples`; yields records and leaves `run` holding checkpoints and metrics.jsonl.

    model.training_loss(batch) -> (scalar, metrics). The moving average ends in `run` as checkpoint["ema"].
    stop: looked at after each step; when it says other than 0 on any rank, all save and raise `distributed.Stopped`.
    listen(ema, samples): called on every rank each `samples_every` samples.
    """
    device, rank, world = distributed.device(), distributed.rank(), distributed.world()
    accumulate = accumulation(settings, world)
    model.to(device).train()
    ema = copy.deepcopy(model).requires_grad_(False)
    work_of = flops.TrainingFlops(ema)
    peak = settings.peak_teraflops * 1e12
    if not peak and device.type == "cuda":
        peak = flops.matrix_rate(device, torch.bfloat16 if settings.bf16 else torch.float32)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, 0.98), fused=settings.fused
    )
    samples = step = 0
    if (state := run.load(print if rank == 0 else lambda text: None)) is not None:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        for saved, asked in zip(state["optimizer"]["param_groups"], optimizer.param_groups, strict=True):
            saved |= {k: v for k, v in asked.items() if k != "params"}  # this command's settings, not the last one's
        optimizer.load_state_dict(state["optimizer"])
        samples, step = state["samples"], state["step"]
        del state
    if distributed.highest(samples) != -distributed.highest(-samples):
        raise MuseError(f"the ranks see different checkpoints in {run.folder}; put it where all machines see it")
    best = run.best()  # one beyond the checkpoint that was read is damaged, and comes again
    best = best.get("valid_loss", math.inf) if best.get("samples", math.inf) <= samples else math.inf
    heard = settings.samples_every if listen is not None else 0
    if settings.compile:
        compile_blocks(model)
    if settings.recompute:
        recompute(model)
    wrapped = distributed.wrap(model)
    began, saved, counted, work, sums = time.monotonic(), time.monotonic(), samples, 0, {}

    def checkpoint(valid_loss: float | None = None):
        if rank == 0:
            if not all(p.isfinite().all() for p in model.parameters()):
                raise MuseError(f"the weights are not finite at sample {samples:,}; try a smaller --train.lr")
            parts = {
                "model": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            run.save(samples, {**parts, "samples": samples, "step": step}, valid_loss)

    with contextlib.closing(
        feed.batches(dataset, settings.batch, samples, settings.seed, rank, world, workers=settings.feeders)
    ) as made:
        while samples < settings.samples:
            batch = distributed.to_device(next(made))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, samples)
            for i, part in enumerate(split(batch, accumulate)):
                with (
                    distributed.no_sync(wrapped, i < accumulate - 1),
                    torch.autocast(device.type, torch.bfloat16, settings.bf16),
                ):
                    value, metrics = wrapped(part)
                (value / accumulate).backward()
                for name, number in {"loss": value, **metrics}.items():
                    sums[name] = sums.get(name, 0.0) + number.detach() / accumulate
                work += work_of(part) * world if rank == 0 else 0  # who writes the metrics counts
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            sums["gradient_norm"] = sums.get("gradient_norm", 0.0) + norm
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            samples, step = samples + settings.batch, step + 1
            update_ema(ema, model, settings.ema, step)

            done, better = samples >= settings.samples, None
            if crossed(samples, settings.batch, settings.log_every) or done:
                means = distributed.total(torch.stack([value.double() for value in sums.values()])) / world
                seconds, seen = time.monotonic() - began, samples - counted
                record = {
                    "samples": samples,
                    "epoch": samples / len(dataset),
                    "lr": learning_rate(settings, samples),
                }
                record |= {name: float(mean) * settings.batch / seen for name, mean in zip(sums, means, strict=True)}
                if not math.isfinite(record["loss"]):
                    raise MuseError(f"the loss is {record['loss']} at sample {samples:,}; try a smaller --train.lr")
                record |= {"samples_per_second": seen / seconds, "seconds": seconds}
                record |= {"memory_gib": flops.peak_memory(device)}
                record |= {"teraflops": work / seconds / 1e12} if work else {}
                record |= {"mfu": work / seconds / (peak * world)} if work and peak else {}
                if validation is not None and (crossed(samples, seen, settings.validate_every) or done):
                    record |= {f"valid_{k}": v for k, v in validate(ema, validation, settings).items()}
                    if record["valid_loss"] < best:
                        best = better = record["valid_loss"]
                began, counted, work, sums = time.monotonic(), samples, 0, {}
                if rank == 0:
                    run.log(record)
                yield record
            if heard and crossed(samples, settings.batch, heard):
                paused = time.monotonic()
                listen(ema, samples)
                began += time.monotonic() - paused
            asked = distributed.highest(stop())
            if done or asked or better is not None or time.monotonic() - saved > 60 * settings.checkpoint_minutes:
                checkpoint(better)
                saved = time.monotonic()
            if asked or done:
                distributed.barrier()  # all ranks end together, and after the first one's checkpoint
            if asked and not done:
                if rank == 0:
                    print(f"stopped by a signal; saved at sample {samples:,} in {run.folder}: the same command goes on")
                raise distributed.Stopped(asked)


def accumulation(settings: TrainConfig, world: int) -> int:
    """Forward passes of each rank in one optimizer step. Raises MuseError for a batch that does not split evenly, and
    for any number that is below its `LEAST`.
    """
    for name, least in LEAST.items():
        if not getattr(settings, name) >= least:
            raise MuseError(f"--train.{name.replace('_', '-')} must be {least} or more, not {getattr(settings, name)}")
    accumulate = max(1, -(-settings.batch // (settings.micro_batch * world)))
    if settings.batch % (accumulate * world):
        raise MuseError(
            f"a batch of {settings.batch} cannot be split evenly over {world} rank(s) in parts of at most"
            f" {settings.micro_batch}; choose a batch that is a multiple of {accumulate * world}"
        )
    return accumulate


def recompute(model: nn.Module) -> None:
    """Each block computes its activations again for its backward pass (Chen et al. 2016, arXiv 1604.06174)."""
    for block in getattr(model, "blocks", ()):
        block.forward = functools.partial(computed_again, block.forward, use_reentrant=False)


def compile_blocks(model: nn.Module) -> None:
    """Each block's passes, forward and backward, by torch.compile: once for a shape, for all blocks.

    Comes before `recompute`, which then computes a compiled block again.
    """
    for block in getattr(model, "blocks", ()):
        block.forward = Compiled(block.forward)


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
