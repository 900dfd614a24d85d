"""Training data: rows of the cache and the keyed draws that go with them.

Every dataset has `__len__` and `sample(index, draws, batch_draws) -> dict`. `draws` belongs to the sample,
`batch_draws` to its global batch (what a whole batch must share, such as a crop's length). Noise, times, crops,
dropout and the choice of caption are all drawn here, so a batch (`feed`) is a pure function of (seed, counter).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from musekit import distributed, flow
from musekit.cache import Shards, caption_id, read_clips
from musekit.codec import bands
from musekit.config import TONICS, MuseConfig, MuseError
from musekit.encoders import transpose

# Stage 2's times lean to the noise: a piece's key and form are decided before t = 0.3 (from there on, a wrong embedding
# costs the loss next to nothing), and latents of neighbouring frames repeat each other, which hides noise
EARLY = -0.8


class _Clips:
    """The clips of one split that a shard folder holds."""

    together = 16  # clips that validation evaluates at once

    def __init__(self, cache: Path, split: str, needs: str, damaged: str = "refuse"):
        self.cache, self.damaged = Path(cache), damaged
        self.made_by: dict[str, str] = {}  # which front end or weights made each kind that is read
        if not self.cache.is_dir():
            raise MuseError(f"there is no cache at {self.cache}: give --cache FOLDER, or make it with `musekit cache`")
        self.shards = self.open(needs)
        self.clips = [c for c in read_clips(self.cache, split) if c["id"] in self.shards]
        if not self.clips:
            raise MuseError(f"{self.cache / needs} holds no clip of the split {split!r}; run `musekit cache` first")

    def __len__(self) -> int:
        return len(self.clips)

    def open(self, kind: str) -> Shards:
        """The shards of a kind; damaged ones are refused, or skipped and counted, as the settings say.

        Raises MuseError where some are still to be made: a run would learn from a part of its clips for good.
        """
        warn = print if distributed.rank() == 0 else lambda text: None
        shards = Shards(self.cache / kind, damaged=self.damaged, warn=warn)
        if not shards.manifest["complete"]:
            raise MuseError(
                f"{shards.folder} is not finished: {shards.manifest['rows']:,} rows are made; wait for those that make"
                " it, or run the same `musekit cache` command again"
            )
        self.made_by[kind] = shards.manifest["maker"]
        return shards

    def open_tokens(self) -> Shards:
        """The captions' tokens; captions whose tokens were skipped are left out, and clips that have no other."""
        tokens = self.open("tokens")
        if tokens.skipped:
            for clip in self.clips:
                clip["captions"] = [c for c in clip["captions"] if caption_id(c["text"]) in tokens]
            self.clips = [clip for clip in self.clips if clip["captions"]]
        return tokens

    def check_width(self, shards: Shards, key: str, wanted: int, whose: str) -> None:
        """Raise MuseError when a cached row has not so many values a frame: another preset's, or of other weights."""
        width = shards.row(key, stop=1).shape[-1]
        if width != wanted:
            raise MuseError(
                f"{shards.folder} holds {width} values a frame and {whose} wants {wanted}: it was made for another"
                " preset or by other weights; give that preset, or make a cache for this one with `musekit cache --out`"
            )


class CodecData(_Clips):
    """Crops of compressed spectra and the posterior's noise."""

    def __init__(self, cache: Path, split: str, config: MuseConfig, frames: int = 32, damaged: str = "refuse"):
        super().__init__(cache, split, "spectra", damaged)
        self.config, self.frames = config, frames
        values = config.codec.frames * 2 * bands(config.codec)
        self.check_width(self.shards, self.clips[0]["id"], values, f"the {config.name} preset's codec")

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

    together = 128  # its loss compares the clips of a batch

    def __init__(self, cache: Path, split: str, config: MuseConfig, augment: bool = True, damaged: str = "refuse"):
        super().__init__(cache, split, "views", damaged)
        self.tokens, self.config, self.augment = self.open_tokens(), config, augment
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


def moved(clip: dict, semitones: int) -> dict:
    """The record of a transposed clip: its key moves along, all else stays."""
    return {**clip, "key": TONICS[(TONICS.index(clip["key"]) + semitones) % 12]} if clip.get("key") else clip


class Stage1Data(_Clips):
    """A clip's embedding, one of its captions, noise, time and condition dropout.

    Where the cache holds embeddings of the transposed clips too, training draws one of all the keys, unless the caption
    names its key: a caption that does not is as true of the piece in another.
    """

    def __init__(self, cache: Path, split: str, config: MuseConfig, damaged: str = "refuse"):
        super().__init__(cache, split, "embeddings", damaged)
        self.tokens, self.config = self.open_tokens(), config
        whose, first = f"the {config.name} preset's Stage 1", self.clips[0]
        self.check_width(self.shards, first["id"], config.stage1.dim, whose)
        self.check_width(self.tokens, caption_id(first["captions"][0]["text"]), config.stage1.text_dim, whose)
        self.embeddings = self.shards.all(c["id"] for c in self.clips)[:, 0].float()  # (n, 512)
        self.transposed = self.open_transposed() if split == "train" else None

    def open_transposed(self) -> Shards | None:
        """The embeddings of these clips in other keys, if the cache has them, of the same embedder."""
        if not (self.cache / "transposed" / "manifest.json").exists():
            return None
        shards = self.open("transposed")
        if shards.manifest["maker"].split()[-1] != self.shards.manifest["maker"].split()[-1]:
            raise MuseError(
                f"{shards.folder} and {self.shards.folder} are of different embedders; make both with the same weights:"
                " `musekit cache --kinds embeddings transposed --remake`"
            )
        return shards

    def x_1(self, clip: dict, index: int, caption: dict, draws: flow.Draws) -> torch.Tensor:
        """The clip's embedding, or that of its transposition; (512,)."""
        if self.transposed is None or "key" in caption.get("asks", ()) or clip["id"] not in self.transposed:
            return self.embeddings[index]
        k = draws.integer(self.transposed.row_length(clip["id"]) + 1)
        return self.transposed.row(clip["id"])[k - 1].float() if k else self.embeddings[index]

    def sample(self, index: int, draws: flow.Draws, batch_draws: flow.Draws) -> dict:
        clip = self.clips[index]
        caption = clip["captions"][draws.integer(len(clip["captions"]))]
        key = caption_id(caption["text"])
        return {
            "x_1": self.x_1(clip, index, caption, draws),
            "tokens": self.tokens.row(key),
            "mask": self.tokens.row(key, "mask"),
            "x_0": draws.normal(self.config.stage1.dim),
            "t": torch.tensor(draws.uniform() ** 2),  # leans to the noise, where a key and an instrument are decided
            "keep": torch.tensor(draws.uniform() >= self.config.stage1.condition_dropout),
        }


class Stage2Data(_Clips):
    """A clip's latents, cut to the batch's length, its embedding, noise, time, timing and condition dropout.

    Crops are at most as long as the split's longest clip. A clip that is shorter than its batch's crop is padded: the
    loss leaves the padding out, but self-attention sees it (standardised silence under noise), as in Stable Audio.
    """

    def __init__(self, cache: Path, split: str, config: MuseConfig, whole: float = 0.4, damaged: str = "refuse"):
        super().__init__(cache, split, "latents", damaged)
        self.config, self.whole = config, whole
        embeddings = self.open("embeddings")
        self.clips = [c for c in self.clips if c["id"] in embeddings]
        if not self.clips:
            raise MuseError(f"{embeddings.folder} and {self.shards.folder} share no clip; run `musekit cache` for both")
        whose = f"the {config.name} preset's Stage 2"
        self.check_width(self.shards, self.clips[0]["id"], config.stage2.latent_dim, whose)
        self.check_width(embeddings, self.clips[0]["id"], config.stage2.embedding_dim, whose)
        longest = max(c["seconds"] for c in self.clips) * config.codec.sample_rate / config.codec.hop  # latent frames
        self.window = min(config.stage2.max_frames, max(4 * config.stage2.patch, math.ceil(longest - 1e-6)))
        self.embeddings = embeddings.all(c["id"] for c in self.clips)[:, 0].float()  # (n, 512)

    def sample(self, index: int, draws: flow.Draws, batch_draws: flow.Draws) -> dict:
        key, config = self.clips[index]["id"], self.config
        window, patch = self.window, config.stage2.patch
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
            "t": flow.logit_normal_time(draws.normal(1), EARLY)[0],
            "keep": torch.tensor(draws.uniform() >= config.stage2.condition_dropout),
        }

    def latents(self, index: int, most: int) -> torch.Tensor:
        """The first latent frames of a clip, (C, T), as they were cached."""
        key = self.clips[index]["id"]
        return self.shards.row(key, stop=min(most, self.shards.row_length(key))).float().T
