"""Phases of a spectrum from its magnitudes, without a search.

One derivative of the phase is a frequency: by how much a bin's phase steps from frame to frame. The other is a delay:
by how much the phase turns from bin to bin. Both follow from the slopes of the log magnitudes (Prusa, Balazs &
Sondergaard 2017, "A noniterative method for reconstruction of phase from STFT magnitude"; arXiv 1609.00291); a network
may say better. `phase_of` integrates them frame by frame by least squares: a bin's phase agrees with its own past
and with its neighbours, by the strength of each (Masuyama et al. 2020, arXiv 2002.05832). So sustained partials go on
and attacks stay sharp.

Shapes: B sounds, F bins, T frames. The hop is a quarter of the window.
"""

import math
from collections.abc import Callable

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HANN = 0.25645  # a Hann window of n samples is nearest to the Gaussian exp(-pi x^2 / (HANN n^2))
FLOOR = 1e-6  # of the loudest magnitude: what is quieter has no phase to follow
SWEEPS = 2  # of the least squares of one frame
NEAR = 0.8  # slope of log magnitude over bins up to which a bin is in the middle of a peak
BEGINS = 0.4  # a bin begins to sound where its magnitude was less than this share of what it is


def phase_steps(m: Tensor, n_fft: int, hop: int, first: int = 0) -> Tensor:
    """m (B, T, F) magnitudes of the bins from `first` on -> phase steps in radians from frame to frame (B, T - 1, F),
    from the slope over bins."""
    log = m.log()
    slope = F.pad((log[..., 2:] - log[..., :-2]) / 2, (1, 1))
    # near a peak the frequency is that of a Hann window's lobe: slope = atanh(d) + atanh(d / 2), d in bins
    tangent = slope.tanh()
    exact = 4 * tangent / (3 + (9 - 8 * tangent.square()).sqrt())
    found = torch.where(slope.abs() < NEAR, exact, slope / (2 * math.pi * HANN))
    step = (found + first + torch.arange(m.shape[-1])) * (2 * math.pi * hop / n_fft)
    return (step[:, 1:] + step[:, :-1]) / 2


def phase_turns(m: Tensor) -> Tensor:
    """m (B, T, F) magnitudes -> phase steps in radians from bin to bin (B, T, F - 1), with a frame's time origin at its
    centre, from the slope over frames."""
    # a click d windows after the frame's centre: slope = log tan(pi d + pi / 4), and the phase turns by -2 pi d
    half = F.pad(math.pi / 4 - (m[:, 2:] / m[:, :-2]).sqrt().atan(), (0, 0, 1, 1))
    return half[..., 1:] + half[..., :-1]


def unit_of(angle: Tensor) -> Tensor:
    """e^(i angle)."""
    return torch.polar(torch.ones_like(angle), angle)


def phase_of(
    m: Tensor, n_fft: int, hop: int, first: int = 0, turned: Tensor | None = None, followed: int | None = None,
    peak: Tensor | None = None, before: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """m (B, F, T) magnitudes of the bins from `first` on -> phases as unit complex numbers (B, F, T), on the CPU.

    turned (B, n, T): `codec.turns` of the lowest n bins, whose absolute values (0 to 1) say how sure they are. Those of
    the others follow from `phase_steps`. Above the lowest `followed` bins there are only turns from bin to bin.
    peak (B,): of the sounds that m is a part of. before (B, F): phases that the first frame has.
    """
    m = m.cpu().transpose(1, 2)
    peak = m.amax((1, 2)) if peak is None else peak.cpu()
    m = (m / peak.clamp_min(1e-9)[:, None, None]).clamp_min(FLOOR)
    turn, followed = phase_turns(m), followed or m.shape[-1]
    low = m[..., :followed]
    if turned is None:
        past = unit_of(phase_steps(low, n_fft, hop, first))
    else:
        past = turned.cpu().transpose(1, 2)[:, 1:] * unit_of(torch.arange(first, first + followed) * (math.pi / 2))
    past = past * (low[:, 1:] * low[:, :-1])  # what a bin takes from its own past
    turns = unit_of(turn[..., : followed - 1])
    up = turns * (low[..., 1:] * low[..., :-1])  # what bin k + 1 takes from bin k
    begins = F.pad(low[:, :-1] < BEGINS * low[:, 1:], (0, 0, 1, 0), value=True)
    z = unit_of(torch.zeros_like(m))
    z[..., 1:followed] = turns.cumprod(-1)  # where a sound begins, turns alone
    if before is not None:
        z[:, 0] = before.cpu()
        z[:, 0, 1::2] *= -1
    for found, *inputs in zip(z, past, up, begins, strict=True):
        integrate(found.numpy(), *(x.contiguous().numpy() for x in inputs), before is not None)
    above = turn[..., followed - 1 :].cumsum(-1)
    z[..., followed:] = z[..., followed - 1 : followed] * unit_of(above)
    # a frame's time origin is its first sample, half a window before its centre: bin k turns by pi k
    z[..., 1::2] *= -1
    return z.transpose(1, 2)


def compiled(function: Callable) -> Callable:
    """The function as machine code, which is kept for the next process where a folder for it can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@compiled
def sign(x: complex) -> complex:
    """x scaled to length 1; 0 stays 0."""
    size = math.sqrt(x.real * x.real + x.imag * x.imag)
    return x / size if size > 0 else x


@compiled
def integrate(z: np.ndarray, past: np.ndarray, up: np.ndarray, begins: np.ndarray, first: int) -> None:
    """Minimise sum_k |z_t - z_t-1 past|^2 + |z_k+1 - z_k up|^2 over the unit phases z (T, F), one frame after another.

    Every other bin at a time; a frame starts from the frame before, or from what z holds where a sound begins. The
    frames before the one called `first` are given.

    past (T - 1, F) and up (T, bins - 1): unit complex numbers by their weights; begins (T, bins) bool.
    """
    frames, bins = begins.shape
    own = np.zeros(bins, z.dtype)
    for t in range(first, frames):
        if t:
            for k in range(bins):
                own[k] = past[t - 1, k] * z[t - 1, k]
                if not begins[t, k]:
                    z[t, k] = sign(own[k])
        for _ in range(SWEEPS):
            for parity in range(2):
                for k in range(parity, bins, 2):
                    x = own[k]
                    if k + 1 < bins:
                        x += up[t, k].conjugate() * z[t, k + 1]
                    if k:
                        x += up[t, k - 1] * z[t, k - 1]
                    z[t, k] = sign(x)
