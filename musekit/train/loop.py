"""The one training loop, for the codec, the embedder and both stages.

`Training` is one optimizer step and what a checkpoint holds; `train` resumes, logs and saves; `batches` are built
ahead, in the order of a keyed permutation. Progress is counted in samples, so that runs compare over batch sizes and
numbers of ranks. Only a rank's share of a batch depends on the rank: a run continues on any number of them.
"""

import collections
import contextlib
import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from musekit import distributed, flow, gpu
from musekit.config import MuseError, TrainConfig
from musekit.corpus.processes import follow_parent
from musekit.runs import Run

VALIDATION_CLIPS = 512
EPOCH_KEY, BATCH_KEY = 1 << 62, 1 << 61  # counters of permutations and of batches; far from those of samples
AHEAD = 3  # batches that the thread builds before they are needed


class Training:
    """Network, moving average, optimizer, the number of samples seen, and the metrics since the last record.

    model.training_loss(batch) -> (loss (), metrics) is what is minimised.
    """

    def __init__(self, model: nn.Module, settings: TrainConfig, state: dict | None = None):
        """state: a checkpoint (`state_dict`) to continue from, under these settings instead of the checkpoint's."""
        self.model, self.settings, self.device = model.to(distributed.device()).train(), settings, distributed.device()
        self.ema = copy.deepcopy(model).requires_grad_(False)
        for average, p in zip(self.ema.parameters(), model.parameters(), strict=True):
            if not p.requires_grad:
                average.data = p.data  # one copy in memory: it does not change
        if state is not None:
            model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
        change_blocks(model, settings)
        self.loss = distributed.wrap(model, settings.shard)
        self.accumulate = accumulation(settings, distributed.world())
        self.average = distributed.wrap(self.ema, shard=True) if settings.shard else self.ema
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, 0.98), fused=True
        )
        self.samples = self.steps = 0
        if state is not None:
            for saved, new in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
                saved |= {k: v for k, v in new.items() if k != "params"}
            self.optimizer.load_state_dict(state["optimizer"])
            for parameter, moments in self.optimizer.state.items():
                moments |= {name: distributed.share(value, parameter) for name, value in moments.items()}
            self.samples, self.steps = state["samples"], state["step"]
        self.start_record()

    def start_record(self) -> None:
        """Forget the metrics of the steps so far."""
        self.began, self.counted, self.sums = time.monotonic(), self.samples, {}

    def state_dict(self) -> dict:
        """A checkpoint. Raises MuseError where the weights are not finite: such a run could not continue."""
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise MuseError(f"the weights are not finite at sample {self.samples:,}; try a smaller --train.lr")
        networks = {"model": self.model.state_dict(), "ema": self.ema.state_dict()}
        return {**networks, "optimizer": self.optimizer.state_dict(), "samples": self.samples, "step": self.steps}

    def step(self, batch: dict) -> None:
        """One optimizer step on this rank's share of a batch."""
        settings, sums = self.settings, self.sums
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.samples)
        for i, part in enumerate(split(distributed.to_device(batch), self.accumulate)):
            summed = distributed.world() == 1 or i == self.accumulate - 1  # the last backward pass sums over ranks
            with distributed.sum_over_ranks(self.loss, summed), autocast(settings):
                value, metrics = self.loss(part)
            (value / self.accumulate).backward()
            for name, number in {"loss": value, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + number.detach() / self.accumulate
        norm = distributed.whole(nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip or math.inf))
        sums["gradient_norm"] = sums.get("gradient_norm", 0.0) + norm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.samples, self.steps = self.samples + settings.batch, self.steps + 1
        update_ema(self.ema, self.model, settings.ema, self.steps)

    def record(self, epoch: int) -> dict:
        """Mean metrics of all ranks since the last record; epoch: its samples. MuseError where a loss is not finite."""
        world, seen = distributed.world(), self.samples - self.counted
        means = distributed.all_reduce_sum(torch.stack([v.double() for v in self.sums.values()])) / world
        seconds = time.monotonic() - self.began
        record = {"samples": self.samples, "epoch": self.samples / epoch}
        record["lr"] = learning_rate(self.settings, self.samples)
        record |= {k: float(v) * self.settings.batch / seen for k, v in zip(self.sums, means, strict=True)}
        if not math.isfinite(record["loss"]):
            raise MuseError(f"the loss is {record['loss']} at {self.samples:,}; try a smaller --train.lr")
        record |= {"samples_per_second": seen / seconds, "seconds": seconds}
        if self.device.type == "cuda":
            record["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self.start_record()
        return record

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
    initialise: Callable[[], None] = lambda: None,
) -> Iterator[dict]:
    """Train `model` in a run folder; yields the records that it writes to metrics.jsonl, on every rank.

    Continues from the run's newest checkpoint; where there is none, calls `initialise` first. The last checkpoint's
    "ema" is the result. stop: called after each step; where it returns other than 0 on any rank, all ranks save and
    raise `distributed.Stopped`. With `settings.minutes` each record estimates anew how many samples they allow.
    """
    rank, world = distributed.rank(), distributed.world()
    state = run.load(print if rank == 0 else lambda text: None)
    if state is None:
        initialise()
    training = Training(model, settings, state)
    del state
    if distributed.all_reduce_max(training.samples) != -distributed.all_reduce_max(-training.samples):
        raise MuseError(f"the ranks see different checkpoints in {run.folder}; put it where all machines see it")
    ahead = batches(dataset, settings.batch, training.samples, settings.seed, rank, world, settings.workers)
    saved = began = time.monotonic()
    writing = None
    with contextlib.closing(ahead), ThreadPoolExecutor(1) as writer:
        while training.samples < settings.samples:
            training.step(next(ahead))
            paused, done = time.monotonic(), training.samples >= settings.samples
            if training.passed(settings.log_every) or done:
                seen = training.samples - training.counted
                record, paused = training.record(len(dataset)), time.monotonic()
                if settings.minutes:
                    left = began + 60 * settings.minutes - paused
                    more = distributed.all_reduce_max(int(max(0.0, left) * record["samples_per_second"]))
                    total = training.samples + more // settings.batch * settings.batch
                    settings = training.settings = dataclasses.replace(settings, samples=total)
                    done = done or training.samples >= total
                if validation is not None and (training.passed(settings.validate_every, seen) or done):
                    record |= {f"valid_{k}": v for k, v in validate(training.average, validation, settings).items()}
                if rank == 0:
                    run.log(record)
                yield record
            code = distributed.all_reduce_max(stop())
            due = done or code or time.monotonic() - saved > 60 * settings.checkpoint_minutes
            if writing is not None and (due or writing.done()):
                writing.result()  # raises what the write has met
                writing = None
            if due:
                if rank == 0 or settings.shard:  # training goes on while a copy is written
                    copied = host_copy(training.state_dict(), keep=rank == 0)
                    writing = writer.submit(run.save, training.samples, copied) if rank == 0 else None
                saved = time.monotonic()
            if done or code:
                if writing is not None:
                    writing.result()
                distributed.barrier()  # all ranks end together, after the first one has saved
            if code and not done:
                if rank == 0:
                    print(f"stopped by a signal; saved at sample {training.samples:,} in {run.folder}: run it again")
                raise distributed.Stopped(code)
            training.began += time.monotonic() - paused


@torch.no_grad()
def validate(model: nn.Module, dataset, settings: TrainConfig, limit: int = VALIDATION_CLIPS) -> dict[str, float]:
    """Mean metrics over the first `limit` clips of a held-out split, with fixed noise and stratified times.

    Ranks share groups of `dataset.group_size` clips: neither the micro-batch nor the ranks change a bit of the result.
    Where each holds a part of the weights, all compute every group together.
    """
    training = model.training
    model.eval()
    n, size = min(limit, len(dataset)), getattr(dataset, "group_size", 16)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    found = {}
    first, step = (0, 1) if settings.shard else (distributed.rank(), distributed.world())
    for group, start in list(enumerate(range(0, n, size)))[first::step]:
        indices = list(range(start, min(n, start + size)))
        batch = collate([dataset.sample(i, flow.SampleRNG(1, i), flow.SampleRNG(2, start)) for i in indices])
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
    fast = settings.bf16 and gpu.fast_precision(device) == torch.bfloat16
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
        pairs = [(e, p) for e, p in zip(ema.parameters(), model.parameters(), strict=True) if p.requires_grad]
        torch._foreach_lerp_([e for e, _ in pairs], [p.detach() for _, p in pairs], 1 - decay)
        for old, new in zip(ema.buffers(), model.buffers(), strict=True):
            old.copy_(new)


def accumulation(settings: TrainConfig, world: int) -> int:
    """Forward passes of each rank per optimizer step. Raises MuseError for a batch that does not split evenly."""
    accumulate = max(1, -(-settings.batch // (settings.micro_batch * world)))
    if settings.batch % (accumulate * world):
        why = f"over {world} rank(s) in micro-batches of at most {settings.micro_batch}"
        raise MuseError(f"a batch of {settings.batch} cannot be split {why}; choose a multiple of {accumulate * world}")
    return accumulate


def split(batch: dict, n: int) -> list[dict]:
    """A batch in n equal micro-batches."""
    size = len(next(iter(batch.values()))) // n
    return [{k: v[i * size : (i + 1) * size] for k, v in batch.items()} for i in range(n)]


def change_blocks(model: nn.Module, settings: TrainConfig) -> None:
    """Compile each block, and let it compute its activations again in the backward pass (Chen et al. 2016, arXiv
    1604.06174), where `settings` ask for it. A compiled block is computed again as a whole."""
    for block in getattr(model, "blocks", ()):
        if settings.compile:
            block.forward = gpu.compile_block(block.forward, dynamic=True)  # the length of crops varies
        if settings.recompute:
            block.forward = functools.partial(recomputed, block.forward, use_reentrant=False)


def host_copy(state, keep: bool = True):
    """A state with copies of its tensors in the host's memory: the next step changes the tensors themselves.

    Tensors of which each rank holds a part are gathered: all ranks call this, and those that do not `keep` get nothing.
    """
    if torch.is_tensor(state):
        value = distributed.whole(state.detach())
        return value.to("cpu", copy=True) if keep else None
    if isinstance(state, dict):
        return {key: host_copy(value, keep) for key, value in state.items()}
    return [host_copy(value, keep) for value in state] if isinstance(state, list) else state


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices, none for vectors and scalars."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, rest = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def collate(samples: list[dict]) -> dict:
    """Stack tensors, list everything else."""
    first = samples[0]
    return {
        k: torch.stack([s[k] for s in samples]) if torch.is_tensor(first[k]) else [s[k] for s in samples] for k in first
    }


def counters(length: int, batch: int, start: int, seed: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(batch number, [(draw counter, dataset index), ...]) of global batches from sample number `start` on.

    counter = epoch * length + position; each epoch is a permutation keyed by (seed, epoch). No sample is left out.
    """
    epoch, order = -1, None
    while True:
        pairs = []
        for counter in range(start, start + batch):
            if counter // length != epoch:
                epoch = counter // length
                order = flow.generator(seed, EPOCH_KEY + epoch).permutation(length)
            pairs.append((counter, int(order[counter % length])))
        yield start // batch, pairs
        start += batch


class RankBatches:
    """What `counters` yields -> this rank's share of that batch: the same bits in any process."""

    def __init__(self, dataset, seed: int, share: slice):
        self.dataset, self.seed, self.share = dataset, seed, share

    def __getitem__(self, numbered: tuple[int, list[tuple[int, int]]]) -> dict:
        number, pairs = numbered
        samples = []
        for counter, index in pairs[self.share]:
            shared = flow.SampleRNG(self.seed, BATCH_KEY + number)  # the same stream for each sample of the batch
            samples.append(self.dataset.sample(index, flow.SampleRNG(self.seed, counter), shared))
        batch, move = collate(samples), None
        if torch.utils.data.get_worker_info():  # else the queue's own thread would move it, and keep an error to itself
            move = torch.Tensor.share_memory_
        elif distributed.device().type == "cuda":
            move = torch.Tensor.pin_memory  # copies need not wait
        try:
            return {k: move(v) if move and torch.is_tensor(v) else v for k, v in batch.items()}
        except RuntimeError as error:
            raise MuseError("/dev/shm is too small for --train.workers; give 0 workers") from error


def batches(
    dataset, batch: int, start: int, seed: int, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[dict]:
    """Endless batches of this rank's share from sample number `start` on, built ahead; errors are raised here.

    workers: processes that build batches; 0: a thread. Both give the same bits in the same order.
    """
    shares = RankBatches(dataset, seed, slice(rank * batch // world, (rank + 1) * batch // world))
    order = counters(len(dataset), batch, start, seed)
    if workers:
        pin = distributed.device().type == "cuda"
        # forked: they share what the dataset has read, and never touch a GPU
        how = {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": follow_parent}
        loader = iter(torch.utils.data.DataLoader(shares, batch_size=None, sampler=order, pin_memory=pin, **how))
        try:
            yield from loader  # endless
        except MuseError as error:  # a worker's, with its traceback
            raise MuseError(str(error).strip().rpartition("MuseError: ")[2]) from None
        finally:
            loader._shutdown_workers()  # at once, not when the garbage is collected
    pool, pending = ThreadPoolExecutor(1), collections.deque()
    try:
        while True:
            while len(pending) <= AHEAD:
                pending.append(pool.submit(shares.__getitem__, next(order)))
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
