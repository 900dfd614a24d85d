"""Training data is a pure function of (seed, counter): ranks, batch sizes, processes and resuming change nothing."""

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import soundfile
import torch

from musekit import conditions, flow
from musekit.cache import Shards, caption_id, merge_manifest, read_clips
from musekit.config import TONICS, MuseError
from musekit.train import data, loop
from musekit.train.data import CodecData, EmbedderData, Stage1Data, Stage2Data


@pytest.fixture(scope="module", params=[CodecData, EmbedderData, Stage1Data, Stage2Data])
def dataset(request, tiny):
    return request.param(tiny.cache, "train", tiny.config)


def take(dataset, n, **options):
    """The first n batches."""
    with contextlib.closing(loop.batches(dataset, **options)) as batches:
        return [*itertools.islice(batches, n)]


def equal(a: dict, b: dict) -> bool:
    """Bit for bit."""
    same = (torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)
    return a.keys() == b.keys() and all(same)


def joined(parts: list[dict]) -> dict:
    """Batches one after another."""
    first = parts[0]
    join = {k: torch.cat if torch.is_tensor(v) else (lambda lists: sum(lists, [])) for k, v in first.items()}
    return {k: join[k]([p[k] for p in parts]) for k in first}


@pytest.mark.parametrize("seed", [0, -1, 2**63])
@pytest.mark.parametrize(("length", "batch"), [(13, 4), (5, 8), (1, 3), (12, 12)])
def test_every_epoch_is_every_clip_exactly_once(length, batch, seed):
    rows = []
    for number, some in itertools.islice(loop.counters(length, batch, 0, seed), -(-6 * length // batch)):
        assert number == len(rows) // batch and len(some) == batch
        rows += some
    assert [counter for counter, _ in rows] == list(range(len(rows)))
    epochs = [[i for _, i in rows[e * length : (e + 1) * length]] for e in range(6)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 10:
        assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize("world", [2, 8])
def test_ranks_share_the_one_ranks_batch_and_resuming_gives_the_next_one(dataset, world):
    """Of 13 clips, the second batch straddles two epochs."""
    whole = take(dataset, 4, batch=8, start=0, seed=5)
    shares = [take(dataset, 3, batch=8, start=8, seed=5, rank=rank, world=world) for rank in range(world)]
    for number in range(3):
        assert equal(joined([share[number] for share in shares]), whole[number + 1])
    assert not equal(take(dataset, 1, batch=8, start=0, seed=2)[0], whole[0])


def test_a_batch_has_one_shape_whatever_the_clips_lengths(tiny, dataset):
    """One training clip of the tiny cache is shorter than the others. Other splits are not drawn from."""
    split = read_clips(tiny.cache, "train")
    assert [c["id"] for c in dataset.clips] == [c["id"] for c in split] and {c["seconds"] for c in split} == {1.2, 2.0}
    for batch in take(dataset, 4, batch=13, start=0, seed=0):
        assert all(len(v) == 13 for v in batch.values())
        assert all(v.isfinite().all() for v in batch.values() if torch.is_tensor(v))


def test_what_is_missing_or_not_finished_says_what_to_do(tiny, tmp_path):
    with pytest.raises(MuseError, match="has no clip in the split 'tset'.*add other songs"):
        Stage1Data(tiny.cache, "tset", tiny.config)
    cache = shutil.copytree(tiny.cache, tmp_path / "cache", symlinks=True)
    manifest = json.loads((cache / "tokens" / "manifest.json").read_text())
    merge_manifest(cache / "tokens", ["one more"], manifest["maker"])  # as while other ranks are at work
    with pytest.raises(MuseError, match="tokens is not finished"):
        Stage1Data(cache, "train", tiny.config)
    shutil.rmtree(cache / "tokens")
    with pytest.raises(MuseError, match="run `musekit cache`"):
        Stage1Data(cache, "train", tiny.config)


class Toy:
    """Counters as samples; breaks at one of them."""

    def __init__(self, length=10, breaks_at=None):
        self.length, self.breaks_at = length, breaks_at

    def __len__(self):
        return self.length

    def sample(self, index, draws, batch_draws):
        if index == self.breaks_at:
            raise MuseError(f"sample {index} is broken")
        return {"i": torch.tensor(index), "u": torch.tensor(draws.uniform()), "b": torch.tensor(batch_draws.uniform())}


def test_draws_belong_to_a_sample_or_to_a_whole_batch():
    small, large = (take(Toy(), 24 // size, batch=size, start=0, seed=0) for size in (4, 12))
    shared = torch.stack([b["b"] for b in small])
    assert (shared == shared[:, :1]).all() and len(set(shared[:, 0].tolist())) == 6
    small, large = joined(small), joined(large)
    assert torch.equal(small["i"], large["i"]) and torch.equal(small["u"], large["u"])
    assert len(set(small["u"].tolist())) == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_sample_is_raised_to_the_consumer(workers):
    """And nothing that built batches is left."""
    with pytest.raises(MuseError, match="sample 3 is broken"):
        take(Toy(breaks_at=3), 3, batch=4, start=0, seed=0, workers=workers)
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


def test_processes_build_what_the_thread_builds(tiny):
    """From any sample, for any rank, also when the whole job is signalled: the step in hand needs its batches."""
    dataset = Stage2Data(tiny.cache, "train", tiny.config)
    for options in ({"start": 0}, {"start": 18, "rank": 1, "world": 2}):
        thread = take(dataset, 7, batch=6, seed=3, **options)
        batches = loop.batches(dataset, batch=6, seed=3, workers=2, **options)
        found = [next(batches), next(batches)]  # one of each worker: both are ready
        for child, number in itertools.product(multiprocessing.active_children(), ("SIGUSR1", "SIGTERM", "SIGINT")):
            os.kill(child.pid, getattr(signal, number))
        found += itertools.islice(batches, 5)
        assert all(equal(a, b) for a, b in zip(thread, found, strict=True))
        batches.close()
        assert not multiprocessing.active_children()


def sample(dataset, index, counter=0, number=0):
    return dataset.sample(index, flow.SampleRNG(0, counter), flow.SampleRNG(0, loop.BATCH_KEY + number))


def index_of(dataset, seconds):
    return next(i for i, c in enumerate(dataset.clips) if c["seconds"] == seconds)


def test_codec_crops_are_stretches_of_the_clip(tiny):
    dataset = CodecData(tiny.cache, "train", tiny.config)
    starts = set()
    for counter in range(20):
        found = sample(dataset, 0, counter)
        whole = torch.from_numpy(soundfile.read(tiny.cache / dataset.clips[0]["path"], dtype="float32")[0].T)
        audio = found["audio"] if torch.isclose(whole, found["audio"][:, :1]).all(0).any() else found["audio"].flip(0)
        places = torch.nonzero(whole[0] == audio[0, 0])[:, 0].tolist()
        starts.add(next(s for s in places if torch.equal(whole[:, s : s + 65_536], audio)))
        assert found["epsilon"].shape == (32, 8)
    assert len(starts) > 5
    short = index_of(dataset, 1.2)  # repeated: padding is not learned
    audio, n = dataset.crop(short, 0.5, 65_536), round(1.2 * 44100)
    assert audio.shape == (2, 65_536) and torch.equal(audio[:, :12_000], audio[:, n : n + 12_000])


def test_stage1_samples(tiny):
    dataset = Stage1Data(tiny.cache, "train", tiny.config)
    embeddings, tokens = Shards(tiny.cache / "embeddings"), Shards(tiny.cache / "tokens")
    drawn, clip = loop.collate([sample(dataset, 2, counter) for counter in range(2000)]), dataset.clips[2]
    assert drawn["x_0"].shape == (2000, 512) and torch.equal(drawn["x_1"][0], embeddings.row(clip["id"])[0].float())
    for key in (caption_id(c["text"]) for c in clip["captions"]):
        same = (drawn["tokens"] == tokens.row(key)).flatten(1).all(1)
        assert 500 < same.sum() < 800  # of 2000, three captions
        assert (drawn["mask"][same] == tokens.row(key, "mask")).all()
    assert drawn["keep"].float().mean().item() == pytest.approx(0.9, abs=0.03)
    t = drawn["t"]
    assert t.mean() == pytest.approx(1 / 3, abs=0.03) and t.var() == pytest.approx(4 / 45, abs=0.01)  # of u ** 2


def test_stage2_samples(tiny, monkeypatch):
    monkeypatch.setattr(data, "SHORTEST", 8)
    dataset = Stage2Data(tiny.cache, "train", tiny.config)
    assert dataset.lengths == [44, 22, 10, 8]  # 2 s: no crop is longer than any clip
    second, seen, starts = 2048 / 44100, set(), []
    for number in range(40):
        found = sample(dataset, 0, 100 + number, number)
        frames = found["x_1"].shape[1]
        seen.add(frames)
        start = round(found["seconds"][0].item() / second)
        whole = dataset.shards.row(dataset.clips[0]["id"])
        assert found["mask"].all() and torch.equal(found["x_1"].T, whole[start : start + frames])
        assert 2 <= found["seconds"][1] <= 14 and found["embedding"].norm().item() == pytest.approx(1, abs=1e-5)
        starts.append(start)
    assert seen == {44, 22, 10, 8} and starts.count(0) > 10 and max(starts) > 20
    number = next(n for n in range(20) if sample(dataset, 0, 0, n)["x_1"].shape[1] == 44)
    short = index_of(dataset, 1.2)
    found = sample(dataset, short, number=number)
    assert int(found["mask"].sum()) == 26 and not found["x_1"][:, 26:].any()  # the rest is masked
    dataset.clips[short] = {**dataset.clips[short], "ends": True}  # what follows is silence; the length is the piece's
    found, silence = (sample(dataset, short, number=number), dataset.shards.row(dataset.clips[short]["id"], "silence"))
    assert found["mask"].all() and (found["x_1"][:, 26:] == silence[:, None]).all() and silence.any()
    assert found["seconds"].tolist() == pytest.approx([0.0, 1.2])
    drawn = loop.collate([sample(dataset, 0, counter) for counter in range(600)])
    assert drawn["keep"].float().mean().item() == pytest.approx(0.7, abs=0.06)
    z = torch.logit(drawn["t"])
    assert z.mean().item() == pytest.approx(data.STAGE2_LOGIT_MEAN, abs=0.15)
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_stage2_controls_are_those_of_the_crop(tiny, monkeypatch):
    """Each group is dropped on its own, and the frames of a crop have what the whole clip's frames have."""
    monkeypatch.setattr(data, "SHORTEST", 8)
    dataset = Stage2Data(tiny.cache, "train", tiny.config)
    record = {"bpm": 100.0, "beats_per_bar": 3, "first_beat": 0.05, "key": "A", "mode": "minor"}
    record |= {"chords": [[0.05, 9, "min"]], "melody": [[0.1, 0.4, 64], [0.7, 0.5, 67]]}
    dataset.controls[0] = conditions.compact(record)
    whole, present, given = conditions.of_frames(dataset.controls[0], 0, 44, dataset.second), [], []
    for counter in range(600):
        found = sample(dataset, 0, counter, counter)
        start, frames = round(found["seconds"][0].item() / dataset.second), found["x_1"].shape[1]
        here = [bool(found["of_frames"][0, last]) for last in (6, 31, 46)]
        expected = torch.from_numpy(whole[start : start + frames] * np.repeat(here, [7, 25, 15]))
        torch.testing.assert_close(found["of_frames"].float(), expected, atol=2e-3, rtol=0)
        present.append([bool(part.any()) for part in found["of_piece"].split([8, 24, 12])] + here)
        given.append(found["given"].float().mean().item())
    some = (1 - dataset.config.stage2.condition_dropout, dataset.config.stage2.condition_dropout)
    expected = [(some[0] * data.WHOLE[1] + some[1] * data.WHOLE[0]) * p for p in data.GIVEN.values()]
    assert torch.tensor(present).float().mean(0).tolist() == pytest.approx(expected, abs=0.07)
    assert given.count(0.0) / 600 == pytest.approx(0.6, abs=0.08) and 0.8 < sorted(given)[-20] < 1


def test_embedder_samples(tiny):
    dataset = EmbedderData(tiny.cache, "train", tiny.config)
    bands = tiny.config.embedder.bands
    shifts = set()
    for number in range(40):
        found = [sample(dataset, i, 1000 + 13 * number + i, number) for i in range(3)]
        assert len({len(m["view"]) for m in found}) == 1 and 22 <= len(found[0]["view"]) <= 44
        for i, m in enumerate(found):
            whole = dataset.shards.row(dataset.clips[i]["id"]).float()
            # the attacks are not transposed: they tell where the crop starts
            n, attacks = len(m["view"]), m["view"][:, bands:]
            start = next(s for s in range(45) if torch.equal(whole[s : s + n, bands:], attacks))
            crop = whole[start : start + n]
            shift = next(s for s in range(-5, 6) if torch.equal(data.transpose(crop.clone(), bands, s), m["view"]))
            shifts.add(shift)
            if "key" in m["asks"]:
                assert shift == 0 and m["clip"]["key"] == "A"
            else:
                assert m["clip"]["key"] == TONICS[(TONICS.index("A") + shift) % 12]
    assert shifts == set(range(-5, 6))
    held_out = EmbedderData(tiny.cache, "valid", tiny.config)
    assert torch.equal(sample(held_out, 0, 5)["view"], held_out.shards.row(held_out.clips[0]["id"]).float())
