"""Training data: rows of the cache and the keyed draws that go with them.

Every dataset has `__len__` and `sample(index, draws, batch_draws) -> dict`. `draws` belongs to the sample,
`batch_draws` to its global batch (what a whole batch must share, such as a crop's length). Noise, times, crops,
dropout and the choice of caption are all drawn here, so a batch is a pure function of (seed, counter).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from musekit import flow
from musekit.cache import Shards, caption_id, read_clips
from musekit.config import MuseConfig, MuseError

EPOCH_KEY, BATCH_KEY = (
    1 << 62,
    1 << 61,
)  # counters of permutations and of batches, apart from those of samples


class _Clips:
    """The clips of one split that a shard folder holds."""

    def __init__(self, cache: Path, split: str, needs: str):
        self.cache = Path(cache)
        self.shards = Shards(self.cache / needs)
        self.clips = [c for c in read_clips(self.cache) if c["split"] == split and c["id"] in self.shards]
        if not self.clips:
            raise MuseError(f"{self.cache / needs} holds no clip of the split {split!r}; run `musekit cache` first")

    def __len__(self) -> int:
        return len(self.clips)


class CodecData(_Clips):
    """Crops of compressed spectra and the posterior's noise."""

    def __init__(self, cache: Path, split: str, config: MuseConfig, frames: int = 32):
        super().__init__(cache, split, "spectra")
        self.config, self.frames = config, frames

    def sample(self, index: int, draws: flow.Draws, batch_draws: flow.Draws) -> dict:
        key = self.clips[index]["id"]
        have = self.shards.row_length(key)
        start = draws.integer(max(1, have - self.frames + 1))
        c = fill(self.shards.row(key, start=start, stop=min(have, start + self.frames)), self.frames)
        return {"c": c, "epsilon": draws.normal(self.frames, self.config.codec.latent_dim)}


class EmbedderData(_Clips):
    """Crops of the embedder's view, a caption's tokens, and which captions of the batch fit which clips.

    A clip is transposed by rolling its log-frequency bands (24 an octave: two a semitone), unless its caption
    names a key.
    """

    def __init__(self, cache: Path, split: str, config: MuseConfig, augment: bool = True):
        super().__init__(cache, split, "views")
        self.tokens, self.config, self.augment = Shards(self.cache / "tokens"), config, augment
        self.frames = max(self.shards.row_length(c["id"]) for c in self.clips)  # of the longest clip

    def sample(self, index: int, draws: flow.Draws, batch_draws: flow.Draws) -> dict:
        clip = self.clips[index]
        caption = clip["captions"][draws.integer(len(clip["captions"]))]
        view = self.shards.row(clip["id"], stop=self.shards.row_length(clip["id"])).float()
        view, frames = fill(view, self.frames), self.frames
        if self.augment:
            crop = int(frames * (0.5 + 0.5 * batch_draws.uniform()))
            start = draws.integer(frames - crop + 1)
            view = view[start : start + crop]
            shift = 0 if "key" in caption["asks"] else draws.integer(11) - 5
            view, clip = transpose(view, self.config.embedder.bands, shift), moved(clip, shift)
        key = caption_id(caption["text"])
        return {
            "view": view,
            "tokens": self.tokens.row(key),
            "mask": self.tokens.row(key, "mask"),
            "asks": caption["asks"],
            "clip": clip,
        }


def fill(x: torch.Tensor, frames: int) -> torch.Tensor:
    """x (T, D) repeated from its start until it has so many frames; a batch's clips are equally long."""
    return x if len(x) >= frames else x[torch.arange(frames) % len(x)]


def transpose(view: torch.Tensor, bands: int, semitones: int) -> torch.Tensor:
    """Shift the log-frequency part of a view (T, D) by semitones; what comes in at the edge is silence."""
    if not semitones:
        return view
    low, rest = view[:, :bands], view[:, bands:]
    low = low.roll(2 * semitones, dims=1)
    edge = slice(0, 2 * semitones) if semitones > 0 else slice(2 * semitones, None)
    low[:, edge] = 0
    return torch.cat([low, rest], dim=1)


def moved(clip: dict, semitones: int) -> dict:
    """The record of a transposed clip: its key is no longer what was written, all else stays."""
    return {**clip, "key": None} if semitones else clip


class Stage1Data(_Clips):
    """A clip's embedding, one of its captions, noise, time and condition dropout."""

    def __init__(self, cache: Path, split: str, config: MuseConfig):
        super().__init__(cache, split, "embeddings")
        self.tokens, self.config = Shards(self.cache / "tokens"), config
        self.embeddings = self.shards.all(c["id"] for c in self.clips)[:, 0].float()  # (n, 512)

    def sample(self, index: int, draws: flow.Draws, batch_draws: flow.Draws) -> dict:
        captions = self.clips[index]["captions"]
        key = caption_id(captions[draws.integer(len(captions))]["text"])
        return {
            "x_1": self.embeddings[index],
            "tokens": self.tokens.row(key),
            "mask": self.tokens.row(key, "mask"),
            "x_0": draws.normal(self.config.stage1.dim),
            "t": torch.tensor(draws.uniform()),
            "keep": torch.tensor(draws.uniform() >= self.config.stage1.condition_dropout),
        }


class Stage2Data(_Clips):
    """A clip's latents, cut to the batch's length, its embedding, noise, time, timing and condition dropout."""

    def __init__(self, cache: Path, split: str, config: MuseConfig, whole: float = 0.4):
        super().__init__(cache, split, "latents")
        self.config, self.whole = config, whole
        embeddings = Shards(self.cache / "embeddings")
        self.clips = [c for c in self.clips if c["id"] in embeddings]
        self.embeddings = embeddings.all(c["id"] for c in self.clips)[:, 0].float()  # (n, 512)

    def sample(self, index: int, draws: flow.Draws, batch_draws: flow.Draws) -> dict:
        key, config = self.clips[index]["id"], self.config
        window, patch = config.stage2.max_frames, config.stage2.patch
        # a share of batches sees the whole window, the others a crop of a quarter to a half of it
        whole = batch_draws.uniform() < self.whole
        frames = window if whole else patch * int(window / patch * (0.25 + 0.25 * batch_draws.uniform()))
        have = self.shards.row_length(key)
        start = draws.integer(max(1, have - frames + 1))
        x_1 = self.shards.row(key, start=start, stop=min(have, start + frames)).float().T  # (C, T)
        mask = torch.arange(frames) < x_1.shape[1]
        x_1 = torch.nn.functional.pad(x_1, (0, frames - x_1.shape[1]))
        second = config.codec.hop / config.codec.sample_rate
        noise = draws.normal(config.stage2.embedding_dim) * config.stage2.embedding_noise
        return {
            "x_1": x_1,
            "mask": mask,
            "embedding": torch.nn.functional.normalize(self.embeddings[index] + noise, dim=0),
            "seconds": torch.tensor([start * second, frames * second]),
            "x_0": draws.normal(*x_1.shape),
            "t": flow.logit_normal_time(draws.normal(1))[0],
            "keep": torch.tensor(draws.uniform() >= config.stage2.condition_dropout),
        }


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

    def work():
        try:
            for number, rows in counters(len(dataset), batch, start, seed):
                shared = lambda n=number: flow.Draws(seed, BATCH_KEY + n)  # noqa: E731 - a fresh stream for each sample
                share = rows[rank * batch // world : (rank + 1) * batch // world]
                item = collate([dataset.sample(index, flow.Draws(seed, counter), shared()) for counter, index in share])
                while not stop.is_set():
                    try:
                        made.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            made.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
