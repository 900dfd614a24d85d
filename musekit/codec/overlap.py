"""Decoding in pieces that overlap, exactly: the memory of a piece, the sound of the whole.

A convolutional decoder's output depends on latents within its reach only. A piece that is decoded with `reach` latents
more on either side, whose sound is then cut off, has the samples that the whole has; at both ends of the music the
piece sees the same zeros beyond as the whole does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def decode(call: Callable[[Tensor], Tensor], latents: Tensor, hop: int, reach: int, frames: int) -> Tensor:
    """call(latents (B, C, T)) -> (B, 2, T * hop) in pieces of at most `frames` latents and their neighbours."""
    length = latents.shape[-1]
    if length <= frames + 2 * reach:
        return call(latents)
    pieces = []
    for start in range(0, length, frames):
        end, low = min(length, start + frames), max(0, start - reach)
        audio = call(latents[..., low : min(length, end + reach)])
        pieces.append(audio[..., (start - low) * hop : (end - low) * hop])
    return torch.cat(pieces, dim=-1)


def reach(decoder: nn.Module, hop: int) -> int:
    """Latents on either side of a frame that its `hop` samples depend on, from the convolutions in their order."""
    low, high = 0, hop - 1
    for layer in reversed([m for m in decoder.modules() if isinstance(m, (nn.Conv1d, nn.ConvTranspose1d))]):
        (size,), (stride,), (pad,), (spread,) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        span = spread * (size - 1)
        if isinstance(layer, nn.ConvTranspose1d):  # output i * stride - pad + k is made by input i, 0 <= k <= span
            low, high = -((span - low - pad) // stride), (high + pad) // stride
        else:
            low, high = low * stride - pad, high * stride - pad + span
    return max(-low, high)
