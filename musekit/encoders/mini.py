"""The mini preset's joint text-audio embedding: what the audio tower hears, and two towers trained here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit.config import TONICS, EmbedderConfig, MuseError, TextConfig
from musekit.encoders.text import TokenStates
from musekit.layers import AttentionPool, TemporalBlock


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


def mel_filters(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangles evenly spaced on the mel scale up to 16 kHz: (bands, n_fft / 2 + 1)."""
    top = 2595 * math.log10(1 + 16000 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    hz = torch.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0)


HOP, LONG, SHORT, STEP = (
    2048,
    8192,
    1024,
    512,
)  # samples: frame, window that hears pitch, window that hears attacks


def view_size(config: EmbedderConfig) -> int:
    """Values of one frame of a view."""
    return config.bands + (HOP // STEP) * config.onset_bands


def view(config: EmbedderConfig, audio: Tensor, sample_rate: int) -> Tensor:
    """audio (B, 1 or 2, N) -> what the audio tower hears, (B, T, D), a frame every 46 ms.

    The mono signal at equal loudness, through log-frequency bands of a long window (pitch) and mel bands of a
    short one (attacks); log1p compressed, zero for silence. Raises MuseError for another shape.
    """
    x = mono(audio, sample_rate, config.sample_rate)
    level = x.square().mean(-1, keepdim=True).sqrt()
    x = x / level.clamp_min(1e-4)  # silence stays near silence
    frames = max(1, -(-x.shape[-1] // HOP))
    x = F.pad(x, (0, frames * HOP - x.shape[-1]))
    power = _stft(x, LONG, HOP)[..., :frames]
    pitch = torch.einsum("kf,bft->btk", log_frequency_filters(config, LONG).to(x), power)
    power = _stft(x, SHORT, STEP)[..., : frames * (HOP // STEP)]
    onset = torch.einsum("kf,bft->btk", mel_filters(config.onset_bands, SHORT, config.sample_rate).to(x), power)
    onset = onset.reshape(len(x), frames, -1)
    return torch.cat([torch.log1p(pitch / 30), torch.log1p(onset / 10)], dim=-1)


#: The other keys that a clip is also embedded in, in semitones: each pitch class once, none far from its register.
SHIFTS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)


def transpose(view: Tensor, bands: int, semitones: int) -> Tensor:
    """Shift the log-frequency part of a view (T, D) by semitones; what comes in at the edge is silence."""
    if not semitones:
        return view
    low, rest = view[:, :bands], view[:, bands:]
    low = low.roll(2 * semitones, dims=1)
    edge = slice(0, 2 * semitones) if semitones > 0 else slice(2 * semitones, None)
    low[:, edge] = 0
    return torch.cat([low, rest], dim=1)


def _stft(x: Tensor, n_fft: int, hop: int) -> Tensor:
    window = torch.hann_window(n_fft, device=x.device, dtype=x.dtype)
    pad = n_fft // 2  # zeros, not reflection: very short audio is welcome
    return torch.stft(F.pad(x, (pad, pad)), n_fft, hop, window=window, center=False, return_complex=True).abs()


def head(features: int, config: EmbedderConfig) -> nn.Sequential:
    """Pooled features -> the joint space."""
    width = config.head_width
    return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, config.dim))


class TonalPool(nn.Module):
    """A pitch-class profile in whatever key it stands: one network under all 12 rotations, then a maximum.

    Major and minor differ by how pitch classes lie around the tonic, wherever the tonic is, so the answer must not
    change when all of them are rotated. Without this the audio tower did not learn the mode at all.
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


def attribute_of(record: dict, name: str) -> str | None:
    """What a clip's record or a caption says of an attribute; "scale" is its tonic and mode, where both are known."""
    return f"{record.get('key')} {record.get('mode')}" if name == "scale" else record.get(name)


class MiniEmbedder(nn.Module):
    """Two towers into one sphere, trained with a sigmoid loss on true matches (Zhai et al. 2023, arXiv 2303.15343).

    A caption fits every clip of which all it asks is true, not only the clip it was written for, so the loss
    knows which pairs of a batch match and vague captions may lie near many clips.
    """

    PATCH = 2  # view frames that the audio tower joins in one
    TONAL = 64  # features of the pitch-class profile
    # told by one linear layer from either tower's embedding, a loss that helps training only: matching alone is
    # slow to find the mode, since neither tower gains from it before the other knows it; and Stage 2 can only keep to
    # a scale that its embedding names: given the mode without the tonic it played in neither
    ATTRIBUTES = {
        "mode": ("major", "minor"),
        "speed": ("slow", "medium", "fast"),
        "dynamic": ("soft", "medium", "loud"),
        "scale": tuple(f"{tonic} {mode}" for tonic in TONICS for mode in ("major", "minor")),
    }

    def __init__(self, config: EmbedderConfig, text: TextConfig):
        super().__init__()
        self.config = config
        width, heads, size = config.width, 4, view_size(config)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        blocks = [TemporalBlock(width) for _ in range(config.depth)]
        self.listen = nn.Sequential(nn.Linear(self.PATCH * size, width), *blocks)
        self.listen_pool = AttentionPool(width, heads)
        self.tonal = TonalPool(self.TONAL)
        self.pool_norm = nn.LayerNorm((heads + 1) * width)
        self.audio_head = head((heads + 1) * width + self.TONAL + 24 * len(TonalPool.REGISTERS), config)
        self.read = nn.Sequential(nn.Linear(text.dim, config.text_width), nn.SiLU())
        self.read_pool = AttentionPool(config.text_width, heads)
        self.text_head = head(heads * config.text_width, config)
        self.attributes = nn.Linear(config.dim, sum(map(len, self.ATTRIBUTES.values())), bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def fit_scale(self, views: Tensor) -> None:
        """Set the views' mean and standard deviation from training frames (n, D)."""
        self.mean.copy_(views.mean(0))
        self.std.copy_(views.std(0).clamp_min(0.05))

    def audio_tower(self, views: Tensor) -> Tensor:
        """Views (B, T, D) -> (B, 512) unit length."""
        h = (views - self.mean) / self.std
        h = F.pad(h, (0, 0, 0, -h.shape[1] % self.PATCH)).unflatten(1, (-1, self.PATCH)).flatten(2)
        h = self.listen(h).float()
        profile = self.tonal.profile(views[..., : self.config.bands].mean(1))
        pooled = self.pool_norm(torch.cat([self.listen_pool(h), h.mean(1)], dim=-1))
        features = torch.cat([pooled, self.tonal(profile), profile.flatten(1)], dim=-1)
        return F.normalize(self.audio_head(features).float(), dim=-1)

    def text_tower(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token states (B, L, 384) -> (B, 512) unit length."""
        return F.normalize(self.text_head(self.read_pool(self.read(tokens.float()), mask)).float(), dim=-1)

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over pairs of log(1 + exp(-s (scale a.b + bias))), s = +1 for pairs that fit, else -1."""
        from musekit.corpus.captions import fits

        a = self.audio_tower(batch["view"].float())
        b = self.text_tower(batch["tokens"], batch["mask"])
        match = torch.tensor([[fits(asks, clip) for clip in batch["clip"]] for asks in batch["asks"]], device=a.device)
        with torch.autocast(a.device.type, enabled=False):
            logits = b @ a.T * self.scale.exp() + self.bias  # captions by clips, in float32
        each = F.softplus(torch.where(match, -logits, logits))
        # a caption's matches and its misfits weigh the same, however vague it is
        positive = (each * match).sum(1) / match.sum(1).clamp_min(1)
        negative = (each * ~match).sum(1) / (~match).sum(1).clamp_min(1)
        top = match.gather(1, logits.argmax(1, keepdim=True)).float().mean()
        told = self.attribute_loss(a, batch["clip"]) + self.attribute_loss(b, batch["asks"])
        return (positive + negative).mean() + 0.2 * told, {"top1": top, "attributes": told}

    def attribute_loss(self, embedding: Tensor, records: Sequence[dict]) -> Tensor:
        """Cross-entropy of what the linear layer tells of these embeddings (B, 512), where it is known."""
        logits = self.attributes(embedding).float() * 8.0  # a unit vector's coordinates are small
        total, start = logits.new_zeros(()), 0
        for name, values in self.ATTRIBUTES.items():
            said = [attribute_of(r, name) for r in records]
            known = [values.index(x) if x in values else -100 for x in said]
            target = torch.tensor(known, device=logits.device)
            if (target >= 0).any():
                total = total + F.cross_entropy(logits[:, start : start + len(values)], target)
            start += len(values)
        return total


class JointEmbedder:
    """`MiniEmbedder` with its text encoder, behind the calls that MuQ-MuLan also has."""

    def __init__(self, network: MiniEmbedder, encode_text: TokenStates):
        self.network, self.encode_text = network.eval(), encode_text

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(B, 512), unit length; one text at a time, so no text's bits depend on its mates."""
        return torch.cat([self.network.text_tower(*self.encode_text([text])) for text in texts])

    @torch.no_grad()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """(B, 512), unit length, of audio (B, 1 or 2, N) at `sample_rate` Hz."""
        return torch.cat(
            [self.network.audio_tower(view(self.network.config, clip[None], sample_rate)) for clip in audio]
        )
