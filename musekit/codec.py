"""Codecs: audio (B, 2, N) <-> latents (B, C, T). `SpectralVAE` is the mini preset's; `oobleck` has the paper preset's.

`SpectralVAE` is a variational autoencoder (Kingma & Welling 2013, arXiv 1312.6114) of compressed magnitude spectra
c = |STFT(x)| ** power. A power law keeps the peaks (the notes) apart from the floor and is zero for silence. Bins up
to `linear_bins` are represented one by one, the octave above as `high_bands` bands of 8 bins, nothing higher. All its
layers are matrix products.

Decoding recovers the phase. A first guess follows each spectral peak as a sinusoid: its frequency by parabolic
interpolation, its phase advanced by the hop, shared by the bins around it (Beauregard, Harish & Wyse 2015, "Single Pass
Spectrogram Inversion"). Steps of Griffin-Lim with momentum refine it (Perraudin, Balazs & Sondergaard 2013).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit.config import CodecConfig, MuseError

BINS_PER_BAND = 8  # STFT bins in a high band


def bands(config: CodecConfig) -> int:
    """Values of one channel of one STFT frame."""
    return config.linear_bins + config.high_bands


def latent_frames(config: CodecConfig, samples: int) -> int:
    """Latent frames that cover so many samples."""
    return -(-samples // config.hop)


def window(config: CodecConfig, like: Tensor) -> Tensor:
    """The Hann window of the STFT."""
    return torch.hann_window(config.n_fft, device=like.device, dtype=like.dtype)


def compress(config: CodecConfig, audio: Tensor) -> Tensor:
    """audio (B, 2, N) -> c (B, T, frames * 2 * bands), T = ceil(N / hop), every frame of the last one included."""
    batch, channels, samples = audio.shape
    frames = latent_frames(config, samples)
    length = max(frames * config.hop, config.n_fft // 2 + 1)  # the STFT reflects half a window at the edges
    audio = torch.nn.functional.pad(audio, (0, length - samples)).reshape(batch * channels, -1)
    stft = torch.stft(audio, config.n_fft, config.stft_hop, window=window(config, audio), return_complex=True)
    m = stft.abs()[:, :, : frames * config.frames].reshape(batch, channels, config.n_fft // 2 + 1, -1)
    low = m[:, :, : config.linear_bins]
    high = m[:, :, config.linear_bins : config.linear_bins + BINS_PER_BAND * config.high_bands]
    high = high.unflatten(2, (config.high_bands, BINS_PER_BAND)).square().mean(3).sqrt()  # keeps the band's energy
    c = torch.cat([low, high], dim=2).pow(config.power)  # (B, 2, bands, frames)
    return c.permute(0, 3, 1, 2).reshape(batch, frames, -1)


def magnitudes(config: CodecConfig, c: Tensor) -> Tensor:
    """Inverse of `compress` up to the bands: c (B, T, frames * 2 * bands) -> m (B, 2, n_fft / 2 + 1, T * frames)."""
    batch, frames = c.shape[:2]
    c = c.reshape(batch, frames * config.frames, 2, bands(config)).permute(0, 2, 3, 1)
    m = c.clamp_min(0).pow(1 / config.power)
    low, high = m[:, :, : config.linear_bins], m[:, :, config.linear_bins :]
    m = torch.cat([low, high.repeat_interleave(BINS_PER_BAND, dim=2)], dim=2)
    return torch.nn.functional.pad(m, (0, 0, 0, config.n_fft // 2 + 1 - m.shape[2]))


def loss_weight(config: CodecConfig) -> Tensor:
    """Weight of each band in the codec's error, mean 1: falls as (1 + f / 1 kHz)^-0.7, as melodies live low."""
    bin_hz = config.sample_rate / config.n_fft
    low = torch.arange(config.linear_bins) * bin_hz
    high = (config.linear_bins + BINS_PER_BAND * (torch.arange(config.high_bands) + 0.5)) * bin_hz
    weight = (1 + torch.cat([low, high]) / 1000) ** -0.7
    return weight / weight.mean()


def single_pass_phase(m: Tensor, n_fft: int, hop: int) -> Tensor:
    """m (B, F, T) magnitudes -> phase (B, F, T) in radians, for a centred `torch.stft`."""
    batch, bins, frames = m.shape
    log = m.clamp_min(1e-8).log().transpose(1, 2)  # (B, T, F)
    left, mid, right = log[..., :-2], log[..., 1:-1], log[..., 2:]
    is_peak = torch.nn.functional.pad((mid > left) & (mid >= right), (1, 1))
    curve = (left - 2 * mid + right).clamp_max(-1e-6)
    shift = (0.5 * (left - right) / curve).clamp(-0.5, 0.5)
    shift = torch.nn.functional.pad(shift, (1, 1))
    index = torch.arange(bins, device=m.device).expand_as(log)
    advance = 2 * math.pi * hop / n_fft * (index + shift)  # radians a frame, at peaks

    # nearest peak of every bin: the last one at or below it, or the first one at or above it
    below = torch.where(is_peak, index, -(bins * 4)).cummax(dim=-1).values
    above = torch.where(is_peak, index, bins * 4).flip(-1).cummin(dim=-1).values.flip(-1)
    nearest = torch.where(index - below <= above - index, below, above).clamp(0, bins - 1)
    advance = advance.gather(-1, nearest)

    phase = torch.zeros(batch, bins, device=m.device, dtype=m.dtype)
    out = []
    for t in range(frames):
        phase = torch.remainder(phase.gather(1, nearest[:, t]) + advance[:, t], 2 * math.pi)
        out.append(phase)
    # a frame's time origin is its first sample, half a window before its centre: bin k turns by -pi k
    return torch.stack(out, dim=-1) - math.pi * torch.arange(bins, device=m.device)[:, None]


def griffin_lim(m: Tensor, phase: Tensor, n_fft: int, hop: int, iterations: int, momentum: float = 0.99) -> Tensor:
    """Fast Griffin-Lim from a first phase: m, phase (B, F, T) -> consistent phase as unit complex numbers (B, F, T)."""
    window = torch.hann_window(n_fft, device=m.device, dtype=m.dtype)
    unit = torch.polar(torch.ones_like(m), phase)
    previous = torch.zeros_like(unit)
    for _ in range(iterations):
        audio = torch.istft(m * unit, n_fft, hop, window=window)
        rebuilt = torch.stft(audio, n_fft, hop, window=window, return_complex=True)
        step = rebuilt - momentum / (1 + momentum) * previous
        previous = rebuilt
        unit = step / step.abs().clamp_min(1e-9)
    return unit


def audio_from_magnitudes(m: Tensor, n_fft: int, hop: int, iterations: int) -> Tensor:
    """m (B, 2, F, T) stereo magnitudes -> audio (B, 2, T * hop).

    Both channels share the phase found for their mean, so the stereo image stays where the magnitudes put it.
    """
    length = m.shape[-1] * hop
    # istft of T + 1 centred frames covers T * hop samples; the STFT's reflection needs more than half a window
    extra = max(1, n_fft // (2 * hop) + 2 - m.shape[-1])
    m = torch.cat([m, m[..., -1:].expand(*m.shape[:-1], extra)], dim=-1)
    mid = m.mean(dim=1)
    unit = griffin_lim(mid, single_pass_phase(mid, n_fft, hop), n_fft, hop, iterations)
    window = torch.hann_window(n_fft, device=m.device, dtype=m.dtype)
    audio = torch.istft((m * unit[:, None]).flatten(0, 1), n_fft, hop, window=window)
    return audio.unflatten(0, (-1, 2))[..., :length]


class TemporalBlock(nn.Module):
    """x + W2 silu(W1 [x_{t-1}, x_t, x_{t+1}]): a convolution of width 3 over time, written as one matrix product.

    CPUs with matrix units run bf16 products many times faster than convolutions; x is (B, T, D).
    """

    def __init__(self, width: int, expand: int = 2):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(3 * width, expand * width)
        self.outer = nn.Linear(expand * width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.norm(x), (0, 0, 1, 1))
        y = torch.cat([y[:, :-2], y[:, 1:-1], y[:, 2:]], dim=-1)  # (B, T, 3 D)
        return x + self.outer(F.silu(self.inner(y)))


class SpectralVAE(nn.Module):
    """Two STFT frames of both channels become one latent frame of C channels, every 46 ms."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.sample_rate, self.hop = config.sample_rate, config.hop
        values = config.frames * 2 * bands(config)
        # the network's input is y = (c - mean) * gain and its loss is the error in y: gain weighs low bands more
        self.register_buffer("mean", torch.zeros(values))  # of c over the training clips; set by `fit_scale`
        self.register_buffer("gain", torch.ones(values))
        self.encoder = nn.Sequential(
            nn.Linear(values, config.width),
            *[TemporalBlock(config.width) for _ in range(config.encoder_depth)],
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim, config.width),
            *[TemporalBlock(config.width) for _ in range(config.decoder_depth)],
            nn.LayerNorm(config.width),
            nn.Linear(config.width, values),
        )

    def fit_scale(self, c: Tensor) -> None:
        """Set mean and gain from training spectra c (n, values): one scale for all bands, so floors stay small."""
        self.mean.copy_(c.float().mean(0))
        weight = loss_weight(self.config).repeat(self.config.frames * 2)
        self.gain.copy_(weight / ((c.float() - self.mean) * weight).std())

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | y), each (B, T, C)."""
        mean, log_variance = self.encoder(y).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12, 4)

    def scaled(self, c: Tensor) -> Tensor:
        """Compressed spectra c -> y."""
        return (c - self.mean) * self.gain

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """mean |e| + mean e^2 + kl_weight KL; batch: c (B, T, values), the posterior's noise epsilon (B, T, C)."""
        y = torch.addcmul(-self.mean * self.gain, batch["c"].float(), self.gain)
        if torch.is_autocast_enabled(y.device.type):
            y = y.to(torch.get_autocast_dtype(y.device.type))  # a third of the memory traffic of float32
        mean, log_variance = self.posterior(y)
        error = self.decoder(mean + batch["epsilon"] * (0.5 * log_variance).exp()) - y
        absolute, squared = error.abs().mean(dtype=torch.float32), error.square().mean(dtype=torch.float32)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        return absolute + squared + self.config.kl_weight * kl, {"l1": absolute, "l2": squared, "kl": kl}

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio (B, 2, N) -> latents (B, C, ceil(N / hop)): the posterior's mean. Raises MuseError on a wrong shape."""
        if audio.dim() != 3 or audio.shape[1] != 2 or audio.shape[2] < self.hop:
            raise MuseError(f"the codec encodes audio of shape (B, 2, N >= {self.hop}), not {tuple(audio.shape)}")
        return self.posterior(self.scaled(compress(self.config, audio.float())))[0].transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, T) -> audio (B, 2, T * hop). Raises MuseError on a wrong shape."""
        if latents.dim() != 3 or latents.shape[1] != self.config.latent_dim:
            raise MuseError(f"the codec decodes latents (B, {self.config.latent_dim}, T), not {tuple(latents.shape)}")
        c = self.decoder(latents.float().transpose(1, 2)) / self.gain + self.mean
        m = magnitudes(self.config, c)
        return audio_from_magnitudes(m, self.config.n_fft, self.config.stft_hop, self.config.phase_iterations)
