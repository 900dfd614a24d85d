"""Batches of training samples: whose turn it is, and each rank's share of them, built ahead in a thread.

Nothing here depends on the rank but which part of a batch it gets: a run goes on at any sample, on any number of ranks.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import torch

from musekit import flow
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


def batches(
    dataset, batch: int, start: int, seed: int, rank: int = 0, world: int = 1, ahead: int = 3
) -> Iterator[dict]:
    """Endless batches of this rank's share, built ahead in a thread; an error there is raised here."""
    if batch % world:
        raise MuseError(f"the global batch {batch} cannot be split over {world} ranks; choose a multiple")
    made: queue.Queue = queue.Queue(ahead)
    stop = threading.Event()

    def hand_over(item) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return made.put(item, timeout=0.2)

    def work():
        try:
            for number, rows in counters(len(dataset), batch, start, seed):
                samples = []
                for counter, index in rows[rank * batch // world : (rank + 1) * batch // world]:
                    if stop.is_set():
                        return
                    shared = flow.Draws(seed, BATCH_KEY + number)  # the same stream for each sample of the batch
                    samples.append(dataset.sample(index, flow.Draws(seed, counter), shared))
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
