"""Two layers that the mini codec and the mini embedder share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class AttentionPool(nn.Module):
    """(B, T, D) -> (B, heads * D): each head is a softmax-weighted mean over the frames that mask (B, T) keeps."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.score = nn.Linear(width, heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        score = self.score(x).float()  # (B, T, heads)
        if mask is not None:
            score = score.masked_fill(~mask[..., None], float("-inf"))
        weight = score.softmax(dim=1)
        return torch.einsum("bth,btd->bhd", weight, x.float()).flatten(1)
