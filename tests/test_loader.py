"""Batches built by processes: the thread's bits in the thread's order, from any sample, and no process left behind."""

import itertools
import multiprocessing
import os
import signal

import pytest
import torch

from musekit import distributed
from musekit.cache import Shards
from musekit.train import loader
from musekit.train.data import Stage2Data


def take(n, dataset, **options):
    made = loader.batches(dataset, batch=6, seed=3, **options)
    try:
        return [{k: v.clone() for k, v in batch.items()} for batch in itertools.islice(made, n)]
    finally:
        made.close()


def same(one, other) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("rank, world", [(0, 1), (1, 2)])
def test_processes_build_what_the_thread_builds(tiny, rank, world):
    dataset = Stage2Data(tiny.cache, "train", tiny.config)
    thread = take(7, dataset, start=0, rank=rank, world=world)
    assert same(take(7, dataset, start=0, rank=rank, world=world, workers=3), thread)
    assert same(take(4, dataset, start=18, rank=rank, world=world, workers=2), thread[3:])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("told", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_processes_go_on_when_the_whole_job_is_told_to_stop(tiny, told):
    """scancel and torchrun signal all processes, and the step in hand still needs its batches."""
    dataset = Stage2Data(tiny.cache, "train", tiny.config)
    made = loader.batches(dataset, batch=6, start=0, seed=3, workers=2)
    found = [next(made)]
    for child in multiprocessing.active_children():
        os.kill(child.pid, told)
    found += itertools.islice(made, 6)
    made.close()
    assert same(found, take(7, dataset, start=0))
    assert not multiprocessing.active_children()


class Broken:
    def __len__(self):
        return 6

    def sample(self, index, draws, shared):
        raise ValueError("a mistake in a sample")


def test_a_mistake_in_a_process_is_raised_here_and_ends_them_all():
    with pytest.raises(ValueError, match="a mistake in a sample"):
        take(1, Broken(), start=0, workers=2)
    assert not multiprocessing.active_children()


def test_processes_do_not_hash_again_what_was_read(tiny, monkeypatch):
    dataset = Stage2Data(tiny.cache, "train", tiny.config)
    for clip in dataset.clips:
        dataset.latents(dataset.clips.index(clip), 4)
    monkeypatch.setattr(Shards, "damage", lambda self, number: "was hashed again")
    assert len(take(2, dataset, start=0, workers=2)) == 2


def test_a_row_is_the_readers_own(tiny):
    """Writing to a row changes no later reader's: the files are mapped, and rows are copies."""
    shards = Shards(tiny.cache / "latents")
    key = next(iter(shards.index))
    before = shards.row(key).clone()
    shards.row(key).zero_()
    assert torch.equal(shards.row(key), before) and before.any()


def test_memory_that_a_gpu_copies_from_is_asked_for_where_there_is_one(monkeypatch):
    """Without a GPU nothing is pinned; with one, the loader is told so."""
    told = []

    class Loader:
        def __init__(self, *args, pin_memory, **options):
            told.append(pin_memory)

        def __iter__(self):
            return iter([{"x": torch.zeros(1)}])

    monkeypatch.setattr(torch.utils.data, "DataLoader", Loader)
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(distributed, "device", lambda kind=kind: torch.device(kind))
        list(loader.from_processes(None, iter(()), 1))
    assert told == [False, True]
