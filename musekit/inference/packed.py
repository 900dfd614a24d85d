"""A linear layer with its weights laid out once for this machine: for sampling, where weights no longer change.

A matrix kernel first copies ("packs") the weights into the order in which it reads them. Where the weights stay, that
copy can be made once:

    bfloat16 on a CPU   oneDNN's packed layout: without it every call packs anew, for as long as the product takes
    float32 on a CPU    MKL's packed layout from `FEW` rows on; below, the product waits for memory, not for packing
    elsewhere           the weights as they are

Both are calls that torch brings along; no compiler is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 4  # rows of x up to which an unpacked float32 product is as fast as memory is


class Packed:
    """y = x W' + b: x (..., K), weight W (N, K), bias b (N,) or None."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight.contiguous(), bias
        self.onednn = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and has_bfloat16()
        self.mkl = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkl.is_available()
        self.kept: tuple[int, Tensor] | None = None  # the last number of rows, and its layout: it depends on that

    @classmethod
    def of(cls, layer: nn.Linear, dtype: torch.dtype) -> Packed:
        """The same layer, for x of that dtype. Weights of the same dtype are shared, not copied."""
        bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        return cls(layer.weight.detach().to(dtype), bias)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if self.onednn:
            layout = self._layout(rows, torch.ops.mkldnn._reorder_linear_weight)
            return torch.ops.mkldnn._linear_pointwise(x, layout, self.bias, "none", [], "")
        if self.mkl and rows > FEW:
            layout = self._layout(rows, torch.ops.mkl._mkl_reorder_linear_weight)
            return torch.ops.mkl._mkl_linear(x, layout, self.weight, self.bias, rows)
        return F.linear(x, self.weight, self.bias)

    def _layout(self, rows: int, pack) -> Tensor:
        """The layout for so many rows. Read and written as one, since Studio and Lab may sample at the same time."""
        kept = self.kept
        if kept is None or kept[0] != rows:
            kept = self.kept = None  # frees the old layout before the new one takes its place
            kept = self.kept = rows, pack(self.weight, rows)
        return kept[1]


def has_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 products on this CPU."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
