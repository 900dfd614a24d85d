"""The mini preset's joint text-audio embedding: the audio tower's features, and two towers trained here."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit.claims import attribute_of, matches
from musekit.codec import TemporalBlock
from musekit.config import TONICS, EmbedderConfig, MuseError, TextConfig
from musekit.encoders.text import TextEncoder


def mono(audio: Tensor, sample_rate: int, target: int) -> Tensor:
    """audio (B, 1 or 2, N) at `sample_rate` Hz -> (B, N') at `target` Hz, float32. Raises MuseError on its shape."""
    if audio.dim() != 3 or audio.shape[1] not in (1, 2) or audio.shape[2] < 1:
        raise MuseError(f"embed_audio wants audio of shape (B, 1 or 2, N), not {tuple(audio.shape)}")
    x = audio.float().mean(1)
    if sample_rate != target:
        from torchaudio.functional import resample

        x = resample(x, sample_rate, target)
    return x


def log_frequency_filters(config: EmbedderConfig, n_fft: int) -> Tensor:
    """Triangles 24 an octave from 55 Hz, at least one STFT bin wide: (bands, n_fft / 2 + 1)."""
    hz = torch.arange(n_fft // 2 + 1) * config.sample_rate / n_fft
    centre = 55.0 * 2 ** (torch.arange(-1, config.bands + 1) / 24)
    half = (centre[2:] - centre[:-2]).div(2).clamp_min(config.sample_rate / n_fft)
    return (1 - (hz - centre[1:-1, None]).abs() / half[:, None]).clamp_min(0)


HOP, LONG_WINDOW = 2048, 8192  # samples: one frame, and the window whose bins separate pitches
SHORT_HOP, SHORT_WINDOW = 512, 1024  # samples: the same for attacks


def features_size(config: EmbedderConfig) -> int:
    """Values per frame of `features`."""
    return config.bands + (HOP // SHORT_HOP) * config.onset_bands


def features(config: EmbedderConfig, audio: Tensor, sample_rate: int) -> Tensor:
    """audio (B, 1 or 2, N) at `sample_rate` Hz -> the audio tower's input (B, T, D), one frame per 46 ms: the mono
    signal at equal loudness through log-frequency bands of a long window (pitch) and mel bands up to 16 kHz of a short
    one (attacks), log1p compressed. Raises MuseError for another shape.
    """
    from torchaudio.functional import melscale_fbanks

    x = mono(audio, sample_rate, config.sample_rate)
    level = x.square().mean(-1, keepdim=True).sqrt()
    x = x / level.clamp_min(1e-4)  # silence stays near silence
    frames = max(1, -(-x.shape[-1] // HOP))
    x = F.pad(x, (0, frames * HOP - x.shape[-1]))
    power = _stft(x, LONG_WINDOW, HOP)[..., :frames]
    pitch = torch.einsum("kf,bft->btk", log_frequency_filters(config, LONG_WINDOW).to(x), power)
    power = _stft(x, SHORT_WINDOW, SHORT_HOP)[..., : frames * (HOP // SHORT_HOP)]
    mel = melscale_fbanks(SHORT_WINDOW // 2 + 1, 0.0, 16000.0, config.onset_bands, config.sample_rate).T.contiguous()
    onset = torch.einsum("kf,bft->btk", mel.to(x), power)
    onset = onset.reshape(len(x), frames, -1)
    return torch.cat([torch.log1p(pitch / 30), torch.log1p(onset / 10)], dim=-1)


def transpose(frames: Tensor, bands: int, semitones: int) -> Tensor:
    """Shift the log-frequency part of `features` (T, D) by semitones; silence enters at the edge."""
    if not semitones:
        return frames
    low, rest = frames[:, :bands], frames[:, bands:]
    low = low.roll(2 * semitones, dims=1)
    edge = slice(0, 2 * semitones) if semitones > 0 else slice(2 * semitones, None)
    low[:, edge] = 0
    return torch.cat([low, rest], dim=1)


def _stft(x: Tensor, n_fft: int, hop: int) -> Tensor:
    window = torch.hann_window(n_fft, device=x.device, dtype=x.dtype)
    # zeros before and after, not reflection, so that very short audio is accepted
    return torch.stft(x, n_fft, hop, window=window, pad_mode="constant", return_complex=True).abs()


def head(inputs: int, config: EmbedderConfig) -> nn.Sequential:
    """Pooled features (B, inputs) -> the joint space (B, 512)."""
    width = config.head_width
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, config.dim))


class AttentionPool(nn.Module):
    """(B, T, D) -> (B, heads * D): each head is a softmax-weighted mean over the frames where mask (B, T) is true."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.score = nn.Linear(width, heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        score = self.score(x).float()  # (B, T, heads)
        if mask is not None:
            score = score.masked_fill(~mask[..., None], float("-inf"))
        weight = score.softmax(dim=1)
        return torch.einsum("bth,btd->bhd", weight, x.float()).flatten(1)


class TonalPool(nn.Module):
    """Features of a pitch-class profile that do not depend on the key: one network on all 12 rotations, then a maximum.
    Without this layer the audio tower did not learn the mode.
    """

    REGISTERS = ((0, 2), (2, 4), (4, 6))  # octaves from 55 Hz: bass, middle, treble

    def __init__(self, width: int):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(len(self.REGISTERS) * 24, width), nn.SiLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def profile(self, pitch: Tensor) -> Tensor:
        """Mean log-frequency spectrum (B, bands), 24 an octave -> pitch-class profiles of the registers, (B, 3, 24)."""
        octaves = pitch.unflatten(-1, (-1, 24))
        profile = torch.stack([octaves[:, a:b].mean(1) for a, b in self.REGISTERS], dim=1)
        profile = profile - profile.mean(-1, keepdim=True)
        return profile / (profile.std(-1, keepdim=True) + 1e-3)

    def forward(self, profile: Tensor) -> Tensor:
        """Profiles (B, 3, 24) -> (B, width), the same in every key."""
        turned = torch.stack([profile.roll(2 * semitones, -1) for semitones in range(12)], dim=1)
        return self.norm(self.network(turned.flatten(2)).float().amax(1))


class MiniEmbedder(nn.Module):
    """Two towers into one sphere, trained with a sigmoid loss on true matches (Zhai et al. 2023, arXiv 2303.15343): a
    caption matches every clip for which all its claims are true, so a vague one may lie near many clips.
    """

    PATCH = 2  # feature frames per frame of the audio tower
    TONAL_WIDTH = 64
    # Predicted by one linear layer from either tower's embedding, an auxiliary loss of training. Matching finds the
    # mode slowly, since neither tower gains from it before the other represents it. Stage 2 can only keep to a scale
    # that its embedding contains: with a mode but no tonic it played neither mode.
    ATTRIBUTES = {
        "mode": ("major", "minor"),
        "speed": ("slow", "medium", "fast"),
        "dynamic": ("soft", "medium", "loud"),
        "scale": tuple(f"{tonic} {mode}" for tonic in TONICS for mode in ("major", "minor")),
        "tempo": tuple(map(str, range(18))),  # each 8 % faster, from 50 BPM on
    }

    def __init__(self, config: EmbedderConfig, text: TextConfig):
        super().__init__()
        self.config = config
        width, heads, size = config.width, 4, features_size(config)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        blocks = [TemporalBlock(width) for _ in range(config.depth)]
        self.listen = nn.Sequential(nn.Linear(self.PATCH * size, width), *blocks)
        self.listen_pool = AttentionPool(width, heads)
        self.tonal = TonalPool(self.TONAL_WIDTH)
        self.pool_norm = nn.LayerNorm((heads + 1) * width)
        self.audio_head = head((heads + 1) * width + self.TONAL_WIDTH + 24 * len(TonalPool.REGISTERS), config)
        self.read = nn.Sequential(nn.Linear(text.dim, config.text_width), nn.SiLU())
        self.read_pool = AttentionPool(config.text_width, heads)
        self.text_head = head(heads * config.text_width, config)
        self.attributes = nn.Linear(config.dim, sum(map(len, self.ATTRIBUTES.values())), bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def fit_scale(self, frames: Tensor) -> None:
        """Set the features' mean and standard deviation from training frames (n, D)."""
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0).clamp_min(0.05))

    def audio_tower(self, frames: Tensor) -> Tensor:
        """Features (B, T, D) -> (B, 512), unit length."""
        h = (frames - self.mean) / self.std
        h = F.pad(h, (0, 0, 0, -h.shape[1] % self.PATCH)).unflatten(1, (-1, self.PATCH)).flatten(2)
        h = self.listen(h).float()
        profile = self.tonal.profile(frames[..., : self.config.bands].mean(1))
        pooled = self.pool_norm(torch.cat([self.listen_pool(h), h.mean(1)], dim=-1))
        pooled = torch.cat([pooled, self.tonal(profile), profile.flatten(1)], dim=-1)
        return F.normalize(self.audio_head(pooled).float(), dim=-1)

    def text_tower(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token states (B, L, 384) -> (B, 512) unit length."""
        return F.normalize(self.text_head(self.read_pool(self.read(tokens.float()), mask)).float(), dim=-1)

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over pairs of log(1 + exp(-s (scale a.b + bias))), s = +1 for pairs that match, else -1."""
        a = self.audio_tower(batch["view"].float())
        b = self.text_tower(batch["tokens"], batch["mask"])
        match = [[matches(asks, clip) for clip in batch["clip"]] for asks in batch["asks"]]
        match = torch.tensor(match, device=a.device)
        with torch.autocast(a.device.type, enabled=False):
            logits = b @ a.T * self.scale.exp() + self.bias  # captions by clips, in float32
        each = F.softplus(torch.where(match, -logits, logits))
        # a caption's matching and other clips weigh the same, however vague it is
        positive = (each * match).sum(1) / match.sum(1).clamp_min(1)
        negative = (each * ~match).sum(1) / (~match).sum(1).clamp_min(1)
        top = match.gather(1, logits.argmax(1, keepdim=True)).float().mean()
        auxiliary = self.attribute_loss(a, batch["clip"]) + self.attribute_loss(b, batch["asks"])
        return (positive + negative).mean() + 0.2 * auxiliary, {"top1": top, "attributes": auxiliary}

    def attribute_loss(self, embedding: Tensor, records: Sequence[dict]) -> Tensor:
        """Cross-entropy of the attributes predicted from embeddings (B, 512), where the records state them."""
        logits = self.attributes(embedding).float() * 8.0  # a unit vector's coordinates are small
        total, start = logits.new_zeros(()), 0
        for name, values in self.ATTRIBUTES.items():
            true = [attribute_of(record, name) for record in records]
            index = [values.index(x) if x in values else -100 for x in true]  # -100: not counted
            target = torch.tensor(index, device=logits.device)
            if (target >= 0).any():
                total = total + F.cross_entropy(logits[:, start : start + len(values)], target)
            start += len(values)
        return total


class JointEmbedder:
    """`MiniEmbedder` with its text encoder, with the same calls as `MuQ`."""

    def __init__(self, network: MiniEmbedder, encode_text: TextEncoder):
        self.network, self.encode_text = network.eval(), encode_text

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(B, 512), unit length; one text at a time, so no text's bits depend on the others."""
        return torch.cat([self.network.text_tower(*self.encode_text([text])) for text in texts])

    @torch.no_grad()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """(B, 512), unit length, of audio (B, 1 or 2, N) at `sample_rate` Hz."""
        return torch.cat(
            [self.network.audio_tower(features(self.network.config, clip[None], sample_rate)) for clip in audio]
        )
