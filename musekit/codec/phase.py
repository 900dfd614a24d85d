"""Phase for a magnitude spectrogram: a single-pass guess, then a few steps of fast Griffin-Lim.

The guess follows each spectral peak as a sinusoid: its frequency by parabolic interpolation, its phase advanced
by the hop, shared by the bins around it (Beauregard, Harish & Wyse 2015, "Single Pass Spectrogram Inversion").
Griffin-Lim with momentum mends what that leaves (Perraudin, Balazs & Sondergaard 2013).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def single_pass(m: Tensor, n_fft: int, hop: int) -> Tensor:
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


def invert(m: Tensor, n_fft: int, hop: int, iterations: int) -> Tensor:
    """m (B, 2, F, T) stereo magnitudes -> audio (B, 2, T * hop).

    Both channels share the phase found for their mean, so the stereo image stays where the magnitudes put it.
    """
    length = m.shape[-1] * hop
    # istft of T + 1 centred frames covers T * hop samples; the STFT's reflection needs more than half a window
    extra = max(1, n_fft // (2 * hop) + 2 - m.shape[-1])
    m = torch.cat([m, m[..., -1:].expand(*m.shape[:-1], extra)], dim=-1)
    mid = m.mean(dim=1)
    unit = griffin_lim(mid, single_pass(mid, n_fft, hop), n_fft, hop, iterations)
    window = torch.hann_window(n_fft, device=m.device, dtype=m.dtype)
    audio = torch.istft((m * unit[:, None]).flatten(0, 1), n_fft, hop, window=window)
    return audio.unflatten(0, (-1, 2))[..., :length]
