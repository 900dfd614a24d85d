"""Batches of training samples: whose turn it is, and each rank's share of them, built ahead in a thread or processes.

Nothing here depends on the rank but which part of a batch it gets: a run goes on at any sample, on any number of ranks.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator

import torch

from musekit import distributed, flow
from musekit.config import MuseError

EPOCH_KEY, BATCH_KEY = 1 << 62, 1 << 61  # counters of permutations and of batches, apart from those of samples


def collate(samples: list[dict]) -> dict:
    """Stack tensors, list what is not one."""
    first = samples[0]
    return {
        k: torch.stack([s[k] for s in samples]) if torch.is_tensor(first[k]) else [s[k] for s in samples] for k in first
    }


def counters(length: int, batch: int, start: int, seed: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(batch number, [(draw counter, dataset index), ...]) of global batches from sample number `start` on.

    counter = epoch * length + position; each epoch is a permutation keyed by (seed, epoch). A batch may straddle
    two epochs, so no sample is ever left out.
    """
    epoch, order = -1, None
    while True:
        rows = []
        for counter in range(start, start + batch):
            if counter // length != epoch:
                epoch = counter // length
                order = flow.generator(seed, EPOCH_KEY + epoch).permutation(length)
            rows.append((counter, int(order[counter % length])))
        yield start // batch, rows
        start += batch


class Shares:
    """Global batch (number, rows) -> this rank's share of it as tensors: the same bits in whatever process."""

    def __init__(self, dataset, batch: int, seed: int, rank: int = 0, world: int = 1):
        self.dataset, self.seed = dataset, seed
        self.share = slice(rank * batch // world, (rank + 1) * batch // world)

    def __getitem__(self, turn: tuple[int, list[tuple[int, int]]]) -> dict:
        return collate([*self.samples(*turn)])

    def samples(self, number: int, rows: list[tuple[int, int]]) -> Iterator[dict]:
        """The samples of the share, one by one."""
        for counter, index in rows[self.share]:
            shared = flow.Draws(self.seed, BATCH_KEY + number)  # the same stream for each sample of the batch
            yield self.dataset.sample(index, flow.Draws(self.seed, counter), shared)


def batches(
    dataset, batch: int, start: int, seed: int, rank: int = 0, world: int = 1, ahead: int = 3, workers: int = 0
) -> Iterator[dict]:
    """Endless batches of this rank's share, built ahead; an error there is raised here.

    workers: processes that build whole batches, in their order; 0: a thread of this one. The bits are the same.
    """
    if batch % world:
        raise MuseError(f"the global batch {batch} cannot be split over {world} ranks; choose a multiple")
    shares, turns = Shares(dataset, batch, seed, rank, world), counters(len(dataset), batch, start, seed)
    yield from from_processes(shares, turns, workers) if workers else from_thread(shares, turns, ahead)


def from_processes(shares: Shares, turns: Iterator, workers: int) -> Iterator[dict]:
    """Batches built by so many processes; in memory that a GPU copies from by itself, where there is one."""
    loader = torch.utils.data.DataLoader(
        shares,
        batch_size=None,
        sampler=turns,
        num_workers=workers,
        multiprocessing_context="fork",  # they share what the data set has read, and never touch a GPU
        pin_memory=distributed.device().type == "cuda",
        prefetch_factor=2,
        worker_init_fn=deaf,
    )
    made = iter(loader)
    try:
        yield from made
    finally:
        if hasattr(made, "_shutdown_workers"):
            made._shutdown_workers()  # now, not when the garbage collector comes to it


def deaf(number: int) -> None:
    """In a process that builds batches: Slurm, torchrun and Ctrl-C tell all of a job to stop.

    The process that trains decides when, and finishes its step first; those that build for it end with it.
    """
    for told in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(told, signal.SIG_IGN)


def from_thread(shares: Shares, turns: Iterator, ahead: int) -> Iterator[dict]:
    """Batches built by one thread, up to `ahead` of them before they are asked for."""
    made: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()

    def hand_over(item) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return made.put(item, timeout=0.2)

    def work():
        try:
            for turn in turns:
                samples = []
                for sample in shares.samples(*turn):
                    if stop.is_set():
                        return
                    samples.append(sample)
                hand_over(collate(samples))
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            hand_over(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(30)  # a thread at work when Python ends would turn its exit code into a crash
