"""Audio <-> compressed magnitude spectra, the view that the mini codec learns.

m = |STFT(x)|, c = m ** power: a power law keeps the peaks (the notes) apart from the floor and is zero for silence.
Bins up to `linear_bins` are kept one by one, the octave above as `high_bands` bands of 8 bins, nothing higher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from musekit.config import CodecConfig

BAND = 8  # STFT bins in a high band


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
    length = max(frames * config.hop, config.n_fft // 2 + 1)  # what the STFT's reflection at the edges needs
    audio = torch.nn.functional.pad(audio, (0, length - samples)).reshape(batch * channels, -1)
    stft = torch.stft(audio, config.n_fft, config.stft_hop, window=window(config, audio), return_complex=True)
    m = stft.abs()[:, :, : frames * config.frames].reshape(batch, channels, config.n_fft // 2 + 1, -1)
    low = m[:, :, : config.linear_bins]
    high = m[:, :, config.linear_bins : config.linear_bins + BAND * config.high_bands]
    high = high.unflatten(2, (config.high_bands, BAND)).square().mean(3).sqrt()  # keeps the band's energy
    c = torch.cat([low, high], dim=2).pow(config.power)  # (B, 2, bands, frames)
    return c.permute(0, 3, 1, 2).reshape(batch, frames, -1)


def magnitudes(config: CodecConfig, c: Tensor) -> Tensor:
    """Inverse of `compress` up to the bands: c (B, T, frames * 2 * bands) -> m (B, 2, n_fft / 2 + 1, T * frames)."""
    batch, frames = c.shape[:2]
    c = c.reshape(batch, frames * config.frames, 2, bands(config)).permute(0, 2, 3, 1)
    m = c.clamp_min(0).pow(1 / config.power)
    low, high = m[:, :, : config.linear_bins], m[:, :, config.linear_bins :]
    m = torch.cat([low, high.repeat_interleave(BAND, dim=2)], dim=2)
    return torch.nn.functional.pad(m, (0, 0, 0, config.n_fft // 2 + 1 - m.shape[2]))


def loss_weight(config: CodecConfig) -> Tensor:
    """Weight of each band in the codec's error, mean 1: falls as (1 + f / 1 kHz)^-0.7, as melodies live low."""
    bin_hz = config.sample_rate / config.n_fft
    low = torch.arange(config.linear_bins) * bin_hz
    high = (config.linear_bins + BAND * (torch.arange(config.high_bands) + 0.5)) * bin_hz
    weight = (1 + torch.cat([low, high]) / 1000) ** -0.7
    return weight / weight.mean()
