"""Continue or repaint a recording: its latents outside of the region are given, and Stage 2 samples the rest.

The network is told what is given (`stage2.ControlInputs`), and at each time t the given frames are on their own
straight path (1 - t) x_0 + t x_1. Without the former this is the training-free baseline, which any weights can do
(Lugmayr et al. 2022, arXiv 2201.09865, without its repetitions). Longer regions are filled window by window.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

FADE = 2048  # samples (46 ms) of the kept sound on each side of a region that are cross-faded
CONTEXT = 32  # latent frames on each side of a region that are decoded with it


def fill(latents: Tensor, window: int, sample: Callable[[int, Tensor], Tensor]) -> Tensor:
    """latents (C, F) with every NaN frame replaced by what sample(start, latents (C, n)) -> (C, n) gives for it.

    n is at most `window`. Each call sees the region in the middle, or a region that is too long from its beginning
    on, behind a quarter of a window that is known.
    """
    latents = latents.clone()
    while (missing := latents[0].isnan()).any():
        first, frames = int(missing.int().argmax()), min(window, len(missing))
        after = missing[first:].logical_not().nonzero()
        length = int(after[0]) if len(after) else len(missing) - first
        start = first - max(frames // 4, (frames - length) // 2)
        start = min(max(start, 0), len(missing) - frames)
        part = latents[:, start : start + frames]
        part.copy_(torch.where(part.isnan(), sample(start, part), part))
    return latents


def join(source: Tensor, made: Tensor, start: int, samples: int) -> Tensor:
    """source (2, N) with `made` (2, M) from sample `start` on, (2, samples).

    Where the source goes on, `made` has FADE samples more, which are cross-faded with equal power: the phases of both
    sounds differ. So has it before `start`, unless that is 0. Every other sample of the source is kept.
    """
    audio = torch.zeros(2, samples)
    audio[:, : source.shape[1]] = source[:, :samples]
    left, stop = min(FADE, start), start + made.shape[1] - min(FADE, start)
    right = min(FADE, made.shape[1] - left) if stop < samples else 0
    weight = torch.ones(made.shape[1])
    turn = torch.linspace(0, math.pi / 2, FADE + 2)[1:-1].sin()
    weight[:left] = turn[:left]
    weight[len(weight) - right :] = turn[:right].flip(0)
    old = audio[:, start - left : stop].clone()
    keep = (1 - weight.square()).clamp_min(0).sqrt()
    audio[:, start - left : stop] = weight * made + keep * old
    return audio
