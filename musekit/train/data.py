"""Training data: cached tensors and the random numbers that go with them.

A dataset has `__len__` and `sample(index, rng, batch_rng) -> dict`. `rng` belongs to the sample, `batch_rng` to
its global batch (which shares, for example, the length of its crops). Noise, noise level, crop, condition dropout and
the choice of caption are all drawn here, so that a batch (`loop.batches`) is a pure function of (seed, counter).

Shapes: C channels and T frames of a latent, D = 512 of an embedding, L tokens of a caption.
"""

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from musekit import conditions, flow, harmony
from musekit.cache import Shards, caption_id, read_clips
from musekit.config import TONICS, MuseConfig, MuseError
from musekit.corpus.sound import BadAudio, Sound
from musekit.encoders.mini import transpose

# Mean of the logit-normal noise level of Stage 2. It leans towards noise: a piece's key and form are decided before
# t = 0.3 (after it, a wrong embedding hardly changes the loss), and the similarity of neighbouring frames hides noise
STAGE2_LOGIT_MEAN = -0.8
CODEC_FRAMES = 32  # frames of the codec's crops
EMBEDDER_FRAMES = 344  # 16 s, the longest crop of the embedder
# Batches of Stage 2 have one of four lengths, since torch.compile takes its time for each: the whole window, or a half,
# a quarter or an eighth of it, but no crop is below SHORTEST frames (6 s)
LENGTHS, SHORTEST = (0.2, 0.2, 0.35, 0.25), 128
FROM_START = 0.3  # probability that a crop begins where its clip does, as every piece does in sampling
GOES_ON = 12.0  # s: of a clip that does not end with its piece, the piece is said to be longer by up to that
# Probability that a group of controls (`conditions.GROUPS`) is given in training, and that not all of them are dropped:
# without the embedding and with it. Guidance leads away from music that has neither
WHOLE = (0.5, 0.9)
GIVEN = {"tempo": 0.7, "key": 0.5, "metre": 0.7, "beats": 0.85, "chords": 0.4, "melody": 0.4}
SCALE_CLIPS = 4096  # clips, evenly over the split, from which Stage 2's mean and scale are estimated


class _Clips:
    """The clips of one split whose `kind` is in the cache."""

    group_size = 16  # clips that validation evaluates together

    def __init__(
        self, cache: Path, split: str, kind: str | None, config: MuseConfig, fields: Collection[str] | None = None
    ):
        """kind: of the rows that are read, None for those that read the audio. fields: those of each clip's record that
        stay in memory, None for all.
        """
        self.cache, self.split, self.config = Path(cache), split, config
        self.made_by: dict[str, str] = {}  # of each kind that is read: the front end or the weights that computed it
        if not self.cache.is_dir():
            raise MuseError(f"there is no cache at {self.cache}: give --cache FOLDER, or make it with `musekit cache`")
        self.shards, clips = self.open(kind) if kind else None, read_clips(self.cache, split, fields)
        if not clips:
            raise MuseError(f"{self.cache} has no clip in the split {split!r}: add other songs")
        self.clips = [c for c in clips if kind is None or c["id"] in self.shards]
        if not self.clips:
            raise MuseError(f"{self.cache / kind} holds no clip of the split {split!r}; run `musekit cache` first")

    def __len__(self) -> int:
        return len(self.clips)

    def open(self, kind: str) -> Shards:
        """The shards of a kind. Raises MuseError where the cache is not finished: a run would miss clips for good."""
        shards = Shards(self.cache / kind)
        if not shards.manifest["complete"]:
            raise MuseError(f"{shards.folder} is not finished: wait for its jobs, or run `musekit cache` again")
        self.made_by[kind] = shards.manifest["maker"]
        return shards

    def check_width(self, shards: Shards, wanted: int) -> None:
        """Raise MuseError when cached rows have another number of values than the preset's."""
        if (width := shards.row(next(iter(shards.index)), stop=1).shape[-1]) != wanted:
            raise MuseError(
                f"{shards.folder} has {width} values a frame, and {self.config.name} wants {wanted}: see --cache"
            )

    def caption(self, clip: dict, rng: flow.SampleRNG) -> tuple[dict, dict]:
        """One of a clip's captions, and its {"tokens": (L, text width), "mask": (L,) bool: which tokens are real}."""
        caption = clip["captions"][rng.integer(len(clip["captions"]))]
        key = caption_id(caption["text"])
        return caption, {"tokens": self.tokens.row(key), "mask": self.tokens.row(key, "mask")}


class CodecData(_Clips):
    """Crops of the audio and the noise of the codec's posterior."""

    def __init__(self, cache: Path, split: str, config: MuseConfig):
        super().__init__(cache, split, None, config)

    def crop(self, index: int, place: float, samples: int) -> Tensor:
        """(2, samples) of a clip, from the fraction `place` of what is left on; a shorter clip is repeated. Of a file
        that cannot be read, the next clip's instead; MuseError when there is no other.
        """
        import soxr  # of the extra `corpus`

        for clip in (self.clips[i % len(self)] for i in range(index, index + len(self))):
            try:
                sound = Sound(self.cache / clip["path"])
                ratio = sound.samplerate / self.config.codec.sample_rate
                have, wanted = round(clip["seconds"] * sound.samplerate), math.ceil(samples * ratio)
                first = round((clip.get("start") or 0.0) * sound.samplerate) + int(place * max(0, have - wanted))
                blocks = [block[:, :2] for block in sound.blocks(first, min(wanted, have))]
            except BadAudio:
                continue
            if blocks:
                x = np.concatenate(blocks)
                x = x if ratio == 1 else soxr.resample(x, sound.samplerate, self.config.codec.sample_rate)
                return fill(torch.from_numpy(x).expand(-1, 2), samples)[:samples].T.contiguous()
        raise MuseError(f"no clip of {self.cache} can be read as audio; make its clips again: `musekit cache`")

    def sample(self, index: int, rng: flow.SampleRNG, batch_rng: flow.SampleRNG) -> dict:
        """{"audio": (2, 32 hop), left and right changed in half of the training crops, "epsilon": (32, C) noise}."""
        audio = self.crop(index, rng.uniform(), CODEC_FRAMES * self.config.codec.hop)
        if self.split == "train" and rng.uniform() < 0.5:
            audio = audio.flip(0)
        return {"audio": audio, "epsilon": rng.normal(CODEC_FRAMES, self.config.codec.latent_dim)}


class EmbedderData(_Clips):
    """Crops of the embedder's log-frequency features, and a caption of each clip.

    Training crops and transposes a clip, by shifting its bands (24 per octave: two per semitone), unless its caption
    names a key.
    """

    group_size = 128  # the loss compares the clips of a batch with each other

    def __init__(self, cache: Path, split: str, config: MuseConfig):
        super().__init__(cache, split, "views", config)
        self.tokens = self.open("tokens")
        self.frames = min(EMBEDDER_FRAMES, max(self.shards.row_length(c["id"]) for c in self.clips))

    def sample(self, index: int, rng: flow.SampleRNG, batch_rng: flow.SampleRNG) -> dict:
        """{"view": (T, bands + 1) features, "tokens", "mask", "asks": what the caption says, "clip": the clip's
        (transposed) record}.

        T is the batch's: the first `frames` of the clip, or in training a crop of half as many or more.
        """
        clip = self.clips[index]
        caption, text = self.caption(clip, rng)
        have, crop, start = self.shards.row_length(clip["id"]), self.frames, 0
        if self.split == "train":
            crop = int(crop * (0.5 + 0.5 * batch_rng.uniform()))
            start = rng.integer(max(1, have - crop + 1))
        view = fill(self.shards.row(clip["id"], start=start, stop=min(have, start + crop)).float(), crop)
        if self.split == "train":
            shift = 0 if "key" in caption.get("asks", ()) else rng.integer(11) - 5
            view = transpose(view, self.config.embedder.bands, shift)
            if clip.get("key"):
                clip = {**clip, "key": TONICS[(TONICS.index(clip["key"]) + shift) % 12]}
        return {"view": view, **text, "asks": caption.get("asks", {}), "clip": clip}


def fill(x: Tensor, frames: int) -> Tensor:
    """x (T, D) repeated from its start to (frames, D), if it is shorter."""
    return x if len(x) >= frames else x[torch.arange(frames) % len(x)]


class Stage1Data(_Clips):
    """A clip's embedding and one of its captions, with noise, noise level and condition dropout."""

    def __init__(self, cache: Path, split: str, config: MuseConfig):
        super().__init__(cache, split, "embeddings", config, ("id", "captions"))
        self.tokens = self.open("tokens")
        self.check_width(self.shards, config.stage1.dim)
        self.check_width(self.tokens, config.stage1.text_dim)

    def embeddings(self) -> Tensor:
        """Of all clips, (n, D)."""
        return self.shards.all([c["id"] for c in self.clips])[:, 0].float()

    def sample(self, index: int, rng: flow.SampleRNG, batch_rng: flow.SampleRNG) -> dict:
        """{"x_1": (D,) embedding, "x_0": (D,) noise, "t": () in [0, 1), "tokens", "mask", "keep": () bool, False where
        the condition is dropped}.
        """
        clip = self.clips[index]
        _, text = self.caption(clip, rng)
        return {
            **text,
            "x_1": self.shards.row(clip["id"])[0].float(),
            "x_0": rng.normal(self.config.stage1.dim),
            "t": torch.tensor(rng.uniform() ** 2),  # leans towards noise, where key and instrument are decided
            "keep": torch.tensor(rng.uniform() >= self.config.stage1.condition_dropout),
        }


class Stage2Data(_Clips):
    """A clip's latents, cropped to the batch's length, and its embedding, with controls, noise level and dropout.

    A window is at most as long as the split's longest clip. Behind a clip that ends with its piece there is silence,
    which is learned, too; the loss leaves out other padding.
    """

    def __init__(self, cache: Path, split: str, config: MuseConfig):
        fields = ("id", "seconds", "ends", *(conditions.FIELDS if config.stage2.controls else ()))
        super().__init__(cache, split, "latents", config, fields)
        self.vectors = self.open("embeddings")
        self.clips = [c for c in self.clips if c["id"] in self.vectors]
        if not self.clips:
            raise MuseError(
                f"{self.vectors.folder} and {self.shards.folder} share no clip; run `musekit cache` for both"
            )
        self.check_width(self.shards, config.stage2.latent_dim)
        self.check_width(self.vectors, config.stage2.embedding_dim)
        patch, self.second = config.stage2.patch, config.codec.hop / config.codec.sample_rate
        longest = max(c["seconds"] for c in self.clips) / self.second  # latent frames
        self.window = min(config.stage2.max_frames, max(4 * patch, math.ceil(longest - 1e-6)))
        shortest = min(SHORTEST, self.window)
        self.lengths = [self.window, *(max(shortest, self.window // (patch * n) * patch) for n in (2, 4, 8))]
        self.controls = [conditions.compact(c) for c in self.clips] if config.stage2.controls else []
        for clip in self.clips:
            for name in fields[3:]:
                clip.pop(name, None)

    def sample(self, index: int, rng: flow.SampleRNG, batch_rng: flow.SampleRNG) -> dict:
        """{"x_1": (C, T) latents, half precision, "noise": key of `flow.keyed_noise`, "t": () in (0, 1), "mask": (T,)
        bool: frames that count, "embedding": (D,) of length 1, with a little noise, "seconds": (2,) where the crop
        starts and how long the piece is, "keep": () bool, False where the condition is dropped}, and for a network with
        controls {"of_piece": (GLOBALS,), "of_frames": (T, LOCALS) half precision, "given": (T,) bool}.

        T is the batch's, one of `lengths`. As in Stable Audio, start and total are those of the piece. A clip that
        "ends" is as long as its piece; any other one belongs to a piece that goes on for up to GOES_ON seconds.
        """
        clip, config = self.clips[index], self.config.stage2
        frames = self.lengths[sum(batch_rng.uniform() >= sum(LENGTHS[:i]) for i in (1, 2, 3))]
        have = self.shards.row_length(clip["id"])
        start = 0 if rng.uniform() < FROM_START else rng.integer(max(1, have - frames + 1))
        x_1 = self.shards.row(clip["id"], start=start, stop=min(have, start + frames)).T
        music, ends = x_1.shape[1], bool(clip.get("ends"))
        mask = torch.arange(frames) < music
        x_1 = torch.nn.functional.pad(x_1, (0, frames - music))
        if ends and music < frames and self.shards.has(clip["id"], "silence"):
            x_1[:, music:], mask[:] = self.shards.row(clip["id"], "silence")[:, None], True
        total = clip["seconds"] + (0.0 if ends else GOES_ON * rng.uniform())
        noise = rng.normal(config.embedding_dim) * config.embedding_noise
        found = {
            "x_1": x_1.half(),
            "mask": mask,
            "embedding": torch.nn.functional.normalize(self.vectors.row(clip["id"])[0].float() + noise, dim=0),
            "seconds": torch.tensor([start * self.second, total]),
            "noise": rng.integer(2**63 - 1),
            "t": flow.logit_normal_time(rng.normal(1), STAGE2_LOGIT_MEAN)[0],
            "keep": torch.tensor(rng.uniform() >= config.condition_dropout),
        }
        if config.controls:
            given = torch.from_numpy(conditions.given_frames(frames, [rng.uniform() for _ in range(3)]))
            groups = {name for name, p in GIVEN.items() if rng.uniform() < p}
            groups = groups if rng.uniform() < WHOLE[bool(found["keep"])] else set()
            local = conditions.of_frames(self.controls[index], start, frames, self.second, groups)
            found["of_piece"] = torch.from_numpy(conditions.of_piece(self.controls[index], groups))
            found |= {"of_frames": torch.from_numpy(local).half(), "given": given & mask}
        return found


DATA = {"codec": CodecData, "embedder": EmbedderData, "stage1": Stage1Data, "stage2": Stage2Data}
DATA["regression"] = Stage1Data


def fit_scale(part: str, model, dataset, n: int = 256) -> None:
    """Set a new model's mean and scale from its data: of the first n clips (for the codec, of crops of them), for Stage
    2 of `SCALE_CLIPS` clips, for Stage 1 of all embeddings. Stage 2's read-out of embeddings and its chain of chords
    are fitted, too.
    """
    if DATA[part] is Stage1Data:
        model.fit_scale(dataset.embeddings())
        return
    if part == "codec":
        crops = (dataset.crop(i, 0.5, CODEC_FRAMES * dataset.config.codec.hop) for i in range(min(n, len(dataset))))
        model.fit_scale(list(crops))
        return
    shards, clips, every = dataset.shards, dataset.clips[:n], 4 if part == "embedder" else 8
    if part == "stage2":
        clips = dataset.clips[:: -(-len(dataset.clips) // SCALE_CLIPS)]
        timed = [i for i, c in enumerate(dataset.controls) if {"bpm", "beats_per_bar", "first_beat"} <= c.keys()]
        if model.config.controls and len(timed) > 1:
            bpm, metre = (torch.tensor([dataset.controls[i][k] for i in timed]) for k in ("bpm", "beats_per_bar"))
            vectors = dataset.vectors.all([dataset.clips[i]["id"] for i in timed])[:, 0].float()
            key = torch.tensor([conditions.key_index(dataset.controls[i]) for i in timed])
            model.fit_readout(vectors, bpm.float(), metre, key)
            model.harmony.copy_(torch.from_numpy(harmony.chain(dataset.controls)))
    # a row's length leaves out the padding of a short clip
    frames = [shards.row(c["id"], stop=shards.row_length(c["id"]))[::every].float() for c in clips]
    model.fit_scale(torch.cat(frames))
