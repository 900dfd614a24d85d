"""Batches of training samples in the order of a keyed permutation, built ahead by a thread or by processes.

Only a rank's share of a batch depends on the rank: a run continues at any sample, on any number of ranks.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from musekit import distributed, flow
from musekit.corpus.processes import ignore_signals

EPOCH_KEY, BATCH_KEY = 1 << 62, 1 << 61  # counters of permutations and of batches; far from those of samples
AHEAD = 3  # batches that the thread builds before they are needed


def collate(samples: list[dict]) -> dict:
    """Stack tensors, list everything else."""
    first = samples[0]
    return {
        k: torch.stack([s[k] for s in samples]) if torch.is_tensor(first[k]) else [s[k] for s in samples] for k in first
    }


def counters(length: int, batch: int, start: int, seed: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(batch number, [(draw counter, dataset index), ...]) of global batches from sample number `start` on.

    counter = epoch * length + position; each epoch is a permutation keyed by (seed, epoch). A batch may straddle two
    epochs, so that no sample is left out.
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
            shared = flow.Draws(self.seed, BATCH_KEY + number)  # the same stream for each sample of the batch
            samples.append(self.dataset.sample(index, flow.Draws(self.seed, counter), shared))
        return collate(samples)


def batches(
    dataset, batch: int, start: int, seed: int, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[dict]:
    """Endless batches of this rank's share from sample number `start` on, built ahead; errors are raised here.

    workers: processes that build batches, in pinned memory where there is a GPU; 0: a thread. Both give the same bits
    in the same order. The batch is a multiple of `world`.
    """
    shares = RankBatches(dataset, seed, slice(rank * batch // world, (rank + 1) * batch // world))
    order = counters(len(dataset), batch, start, seed)
    if workers:
        pin = distributed.device().type == "cuda"
        # forked: they share what the dataset has read, and never touch a GPU
        how = {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": ignore_signals}
        loader = iter(torch.utils.data.DataLoader(shares, batch_size=None, sampler=order, pin_memory=pin, **how))
        try:
            yield from loader  # endless
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
