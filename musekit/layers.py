"""Layers that several networks share: time features, rotary positions, attention, and two blocks of the mini preset."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def time_features(t: Tensor, dim: int, max_turns: float = 1000.0) -> Tensor:
    """Sinusoidal features of t (B,) in [0, 1], (B, dim): frequencies from 1 to `max_turns` turns, geometrically."""
    frequency = torch.exp(torch.linspace(0, math.log(max_turns), dim // 2, device=t.device)) * 2 * math.pi
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def rotary(tokens: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (tokens, head_dim / 2) of rotary positions (Su et al. 2021, arXiv 2104.09864).

    They turn half of each head; the other half carries no position. The sign of the half-turn is in sin.
    """
    dim = head_dim // 2
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device, dtype=torch.float32) / dim)
    angle = torch.outer(torch.arange(tokens, device=like.device, dtype=torch.float32), frequency)
    cos, sin = torch.cat([angle.cos(), angle.cos()], dim=-1), torch.cat([-angle.sin(), angle.sin()], dim=-1)
    return cos.to(like.dtype), sin.to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 4) of the first half of each head; x (..., T, head_dim)."""
    turned, rest = x.chunk(2, dim=-1)
    a, b = turned.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(turned * cos, torch.cat([b, a], dim=-1), sin), rest], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v for (B, H, T, d).

    Training on a CPU writes it as plain batched products: torch's fused kernel takes 6 times as long backward.
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    shape = q.shape
    q, k, v = (x.reshape(-1, *shape[2:]) for x in (q, k, v))
    zero = torch.zeros((), dtype=q.dtype)
    score = torch.baddbmm(zero, q, k.transpose(1, 2), beta=0, alpha=shape[-1] ** -0.5)
    return torch.bmm(score.softmax(-1), v).view(shape)


def accept_old_names(module: nn.Module, renamed: dict[str, str]) -> None:
    """Load state dicts of earlier versions too: their attribute names, e.g. {"enter": "proj_in"}, become today's."""

    def rename(module, state: dict, prefix: str, *_) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            words = [renamed.get(word, word) for word in key.removeprefix(prefix).split(".")]
            state[prefix + ".".join(words)] = state.pop(key)

    module.register_load_state_dict_pre_hook(rename)


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
