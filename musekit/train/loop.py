"""The one training loop, for the codec, the embedder and both stages.

    for record in train(model, data, validation, settings, run): ...

`Training` holds what a checkpoint holds; its `steps` are the loop. `train` is the loop with a run folder: it resumes,
logs, saves and previews. Progress is counted in samples, so that runs compare over batch sizes and numbers of ranks.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from musekit import distributed, flow
from musekit.config import MuseError, TrainConfig
from musekit.gpu import compile_block
from musekit.runs import Run
from musekit.train import flops, loader

VALIDATION_CLIPS = 512


@dataclass
class Step:
    """One optimizer step has ended."""

    record: dict | None = None  # metrics since the last record, when settings.log_every samples have passed
    preview: bool = False  # settings.samples_every samples have passed
    done: bool = False  # this was the last step


class Training:
    """The state of a training run: network, moving average, optimizer and the number of samples seen.

    model.training_loss(batch) -> (loss (), metrics) is what is minimised.
    """

    def __init__(self, model: nn.Module, settings: TrainConfig, state: dict | None = None):
        """state: a checkpoint (`state_dict`) to continue from, under these settings instead of the checkpoint's."""
        self.model, self.settings, self.device = model.to(distributed.device()).train(), settings, distributed.device()
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, 0.98), fused=settings.fused
        )
        self.samples = self.step = 0
        if state is not None:
            model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            for saved, new in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
                saved |= {k: v for k, v in new.items() if k != "params"}
            self.optimizer.load_state_dict(state["optimizer"])
            self.samples, self.step = state["samples"], state["step"]

    def state_dict(self) -> dict:
        """A checkpoint. Raises MuseError where the weights are not finite: such a run could not continue."""
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise MuseError(f"the weights are not finite at sample {self.samples:,}; try a smaller --train.lr")
        networks = {"model": self.model.state_dict(), "ema": self.ema.state_dict()}
        return {**networks, "optimizer": self.optimizer.state_dict(), "samples": self.samples, "step": self.step}

    def steps(self, dataset, validation=None) -> Iterator[Step]:
        """Train until `settings.samples`. The time that the caller takes between two steps is not counted.

        Raises MuseError when the loss is not finite.
        """
        settings, device, rank, world = self.settings, self.device, distributed.rank(), distributed.world()
        accumulate, peak = accumulation(settings, world), settings.peak_teraflops * 1e12
        count_flops = flops.TrainingFlops(self.ema)
        if not peak and device.type == "cuda":
            peak = flops.matrix_rate(device, torch.bfloat16 if settings.bf16 else torch.float32)
        if settings.compile:
            compile_blocks(self.model)
        if settings.recompute:
            recompute(self.model)
        wrapped = distributed.wrap(self.model)
        began, counted, work, sums = time.monotonic(), self.samples, 0, {}
        batches = loader.batches(dataset, settings.batch, self.samples, settings.seed, rank, world, settings.workers)
        with contextlib.closing(batches):
            while self.samples < settings.samples:
                batch = distributed.to_device(next(batches))
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(settings, self.samples)
                for i, part in enumerate(split(batch, accumulate)):
                    with distributed.no_sync(wrapped, i < accumulate - 1), autocast(settings):
                        value, metrics = wrapped(part)
                    (value / accumulate).backward()
                    for name, number in {"loss": value, **metrics}.items():
                        sums[name] = sums.get(name, 0.0) + number.detach() / accumulate
                    work += count_flops(part) * world if rank == 0 else 0  # only the first rank's records are written
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip or math.inf)
                sums["gradient_norm"] = sums.get("gradient_norm", 0.0) + norm
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.samples, self.step = self.samples + settings.batch, self.step + 1
                update_ema(self.ema, self.model, settings.ema, self.step)

                step = Step(done=self.samples >= settings.samples)
                step.preview = bool(settings.samples_every) and self.passed(settings.samples_every)
                if self.passed(settings.log_every) or step.done:
                    means = distributed.all_reduce_sum(torch.stack([v.double() for v in sums.values()])) / world
                    seconds, seen = time.monotonic() - began, self.samples - counted
                    record = {"samples": self.samples, "epoch": self.samples / len(dataset)}
                    record["lr"] = learning_rate(settings, self.samples)
                    record |= {k: float(mean) * settings.batch / seen for k, mean in zip(sums, means, strict=True)}
                    if not math.isfinite(record["loss"]):
                        raise MuseError(f"the loss is {record['loss']} at {self.samples:,}; try a smaller --train.lr")
                    record |= {"samples_per_second": seen / seconds, "seconds": seconds}
                    record |= {"memory_gib": flops.peak_memory(device)}
                    record |= {"teraflops": work / seconds / 1e12} if work else {}
                    record |= {"mfu": work / seconds / (peak * world)} if work and peak else {}
                    if validation is not None and (self.passed(settings.validate_every, seen) or step.done):
                        record |= {f"valid_{k}": v for k, v in validate(self.ema, validation, settings).items()}
                    step.record = record
                    began, counted, work, sums = time.monotonic(), self.samples, 0, {}
                paused = time.monotonic()
                yield step
                began += time.monotonic() - paused

    def passed(self, every: int, last: int | None = None) -> bool:
        """Whether the last `last` samples (None: the last step's) passed a multiple of `every`."""
        return self.samples // every != (self.samples - (last or self.settings.batch)) // every


def train(
    model: nn.Module,
    dataset,
    validation,
    settings: TrainConfig,
    run: Run,
    stop: Callable[[], int] = lambda: 0,
    preview: Callable[[nn.Module, int], None] | None = None,
    initialise: Callable[[], None] = lambda: None,
) -> Iterator[dict]:
    """Train `model` in a run folder; yields the records that it writes to metrics.jsonl, on every rank.

    Continues from the run's newest checkpoint; where there is none, calls `initialise` first. The last checkpoint's
    "ema" is the result. stop: called after each step; where it returns other than 0 on any rank, all ranks save and
    raise `distributed.Stopped`. preview(ema, samples): called on every rank each `settings.samples_every` samples.
    """
    first = distributed.rank() == 0
    state = run.load(print if first else lambda text: None)
    if state is None:
        initialise()
    training = Training(model, settings, state)
    del state
    if distributed.all_reduce_max(training.samples) != -distributed.all_reduce_max(-training.samples):
        raise MuseError(f"the ranks see different checkpoints in {run.folder}; put it where all machines see it")
    saved = time.monotonic()
    for step in training.steps(dataset, validation):
        if step.record is not None:
            if first:
                run.log(step.record)
            yield step.record
        if step.preview and preview is not None:
            preview(training.ema, training.samples)
        code = distributed.all_reduce_max(stop())
        due = time.monotonic() - saved > 60 * settings.checkpoint_minutes
        if step.done or code or due:
            if first:
                run.save(training.samples, training.state_dict())
            saved = time.monotonic()
        if step.done or code:
            distributed.barrier()  # all ranks end together, after the first one has saved
        if code and not step.done:
            if first:
                print(f"stopped by a signal; saved at sample {training.samples:,} in {run.folder}: run it again")
            raise distributed.Stopped(code)


@torch.no_grad()
def validate(model: nn.Module, dataset, settings: TrainConfig, limit: int = VALIDATION_CLIPS) -> dict[str, float]:
    """Mean metrics over the first `limit` clips of a held-out split, with fixed noise and stratified times.

    Clips are evaluated in groups of `dataset.group_size`, which ranks share: neither the micro-batch nor the number of
    ranks changes a bit of the result, which all ranks return.
    """
    training = model.training
    model.eval()
    n, size = min(limit, len(dataset)), getattr(dataset, "group_size", 16)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    found = {}
    for group, start in list(enumerate(range(0, n, size)))[distributed.rank() :: distributed.world()]:
        indices = list(range(start, min(n, start + size)))
        batch = loader.collate([dataset.sample(i, flow.Draws(1, i), flow.Draws(2, start)) for i in indices])
        if "t" in batch:
            batch["t"] = flow.stratified_time(n)[order[indices]]
            batch["keep"] = torch.ones_like(batch["keep"])
        with autocast(settings):
            value, metrics = model.training_loss(distributed.to_device(batch))
        found[group] = {name: float(number) * len(indices) / n for name, number in {"loss": value, **metrics}.items()}
    model.train(training)
    groups = {k: v for some in distributed.all_gather(found) for k, v in some.items()}
    return {name: sum(groups[k][name] for k in sorted(groups)) for name in groups[0]}


def autocast(settings: TrainConfig) -> torch.autocast:
    """bfloat16 for matrix products where `settings` allow it and this device has units for them, else float32."""
    device = distributed.device()
    fast = settings.bf16 and distributed.fast_precision(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def learning_rate(settings: TrainConfig, samples: int) -> float:
    """Linear warm-up, constant, linear decay to zero (a trapezoid: more samples can be added before the decay)."""
    rise = min(1.0, (samples + settings.batch) / max(1, settings.warmup))
    fall = (settings.samples - samples) / max(1, settings.decay * settings.samples)
    return settings.lr * max(0.0, min(rise, fall, 1.0))


def update_ema(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """ema <- d ema + (1 - d) model, with d = min(decay, (1 + step) / (10 + step)): a warm-up. Buffers are copied."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        pairs = list(zip(ema.parameters(), model.parameters(), strict=True))
        torch._foreach_lerp_([e for e, _ in pairs], [p.detach() for _, p in pairs], 1 - decay)
        for old, new in zip(ema.buffers(), model.buffers(), strict=True):
            old.copy_(new)


def accumulation(settings: TrainConfig, world: int) -> int:
    """Forward passes of each rank per optimizer step. Raises MuseError for a batch that does not split evenly."""
    accumulate = max(1, -(-settings.batch // (settings.micro_batch * world)))
    if settings.batch % (accumulate * world):
        raise MuseError(
            f"a batch of {settings.batch} cannot be split evenly over {world} rank(s) in micro-batches of at most"
            f" {settings.micro_batch}; choose a batch that is a multiple of {accumulate * world}"
        )
    return accumulate


def split(batch: dict, n: int) -> list[dict]:
    """A batch in n equal micro-batches."""
    size = len(next(iter(batch.values()))) // n
    return [{k: v[i * size : (i + 1) * size] for k, v in batch.items()} for i in range(n)]


def recompute(model: nn.Module) -> None:
    """Let each block compute its activations again in the backward pass (Chen et al. 2016, arXiv 1604.06174)."""
    for block in getattr(model, "blocks", ()):
        block.forward = functools.partial(recomputed, block.forward, use_reentrant=False)


def compile_blocks(model: nn.Module) -> None:
    """Compile each block's forward and backward pass. Comes before `recompute`, which then repeats a compiled block."""
    for block in getattr(model, "blocks", ()):
        block.forward = compile_block(block.forward)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices, none for vectors and scalars."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, rest = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
