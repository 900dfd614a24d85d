"""Stage 1, `Text2MuQFlow`: the velocity of a 512-d joint embedding, given text tokens.

The sequence is one token long, so self-attention is its value and output projections alone: softmax over one key
is 1. What varies over the ODE is that token; the text's cross-attention keys and values do not, and are computed
once (`context`).
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import flow
from musekit.config import Stage1Config

Context = list[tuple[Tensor, Tensor, Tensor]]


TURNS = 16.0  # of Stage 1's fastest time feature: a velocity that is smooth in time, for solvers of higher order


def time_features(t: Tensor, dim: int, turns: float = 1000.0) -> Tensor:
    """Sinusoidal features of t (B,) in [0, 1], (B, dim): frequencies from 1 to `turns` turns, geometrically."""
    frequency = torch.exp(torch.linspace(0, math.log(turns), dim // 2, device=t.device)) * 2 * math.pi
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then x (1 + scale) + shift."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Stage1Block(nn.Module):
    """Self-attention over one token, cross-attention to the text, feed-forward; adaLN-single (arXiv 2310.00426)."""

    def __init__(self, config: Stage1Config):
        super().__init__()
        width, self.heads = config.width, config.heads
        self.self_value, self.self_out = nn.Linear(width, width), nn.Linear(width, width)
        self.query, self.cross_out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(config.text_dim, 2 * width)
        self.ff = nn.Sequential(
            nn.Linear(width, config.ff_mult * width), nn.GELU(), nn.Linear(config.ff_mult * width, width)
        )
        # this layer's share of the modulation: shift, scale, gate of each sublayer; gates start at 1
        self.table = nn.Parameter(torch.tensor([0.0, 0, 1] * 3)[:, None].repeat(1, width))
        for out in (self.self_out, self.cross_out, self.ff[-1]):
            nn.init.zeros_(out.bias)
        if config.idle_weights:  # of the full-size count; softmax over one key is 1, whatever they say
            self.self_query, self.self_key = (nn.Linear(width, width).requires_grad_(False) for _ in range(2))

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, L, text_dim) -> keys, values (B, heads, L, head_dim)."""
        kv = self.key_value(tokens).unflatten(-1, (2, self.heads, -1))
        return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)

    def forward(self, x: Tensor, modulation: Tensor, context: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x (B, D), modulation (B, 9, D)."""
        a1, b1, g1, a2, b2, g2, a3, b3, g3 = (modulation + self.table).unbind(1)
        x = x + g1 * self.self_out(self.self_value(modulate(x, a1, b1)))
        keys, values, bias = context
        query = self.query(modulate(x, a2, b2)).unflatten(-1, (self.heads, 1, -1))  # (B, heads, 1, head_dim)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias.to(query.dtype))
        x = x + g2 * self.cross_out(attended.flatten(1))
        return x + g3 * self.ff(modulate(x, a3, b3))


class Text2MuQFlow(nn.Module):
    """v(x_t, t, text): x_t is the standardised embedding, (B, 512)."""

    def __init__(self, config: Stage1Config):
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("mean", torch.zeros(config.dim))  # of the training embeddings
        self.register_buffer("std", torch.ones(config.dim))
        if rank := config.gaussian_rank:
            self.register_buffer("basis", torch.zeros(rank, config.dim))  # principal directions of x_1
            self.register_buffer("variance", torch.ones(rank + 1))  # along each of them, and along all others
        self.enter = nn.Linear(config.dim, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 9 * width))
        self.null = nn.Parameter(torch.randn(1, 1, config.text_dim) * 0.02)  # the token of "no text"
        self.blocks = nn.ModuleList(Stage1Block(config) for _ in range(config.depth))
        self.leave = nn.Linear(width, config.dim)
        for zero in (self.leave, self.time[-1]):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    def standardise(self, embedding: Tensor) -> Tensor:
        """Embedding -> x_1 with about unit variance a coordinate."""
        return (embedding - self.mean) / self.std

    def embedding(self, x: Tensor) -> Tensor:
        """x at t = 1 -> unit embedding."""
        return F.normalize(x * self.std + self.mean, dim=-1)

    def fit_scale(self, embeddings: Tensor) -> None:
        """Set mean and standard deviation from the training embeddings (n, 512)."""
        self.mean.copy_(embeddings.mean(0))
        self.std.copy_(embeddings.std(0).clamp_min(1e-4))
        if rank := self.config.gaussian_rank:
            values, vectors = torch.linalg.eigh(self.standardise(embeddings.double()).T.cov())
            self.basis.copy_(vectors.T.flip(0)[:rank])
            values = values.flip(0).clamp_min(1e-6)
            self.variance.copy_(torch.cat([values[:rank], values[rank:].mean(0, keepdim=True)]))

    def gaussian_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The exact velocity at x (B, 512) if x_1 were Gaussian with the training embeddings' covariance.

        Along a direction of variance s the flow of N(0, 1) to N(0, s) has v = (s t - (1 - t)) / (s t^2 + (1 - t)^2) x.
        Embeddings fill few of their 512 directions. In the others the noise must vanish exactly, which a network
        narrower than 512 cannot do: it learns only what is not Gaussian.
        """
        return self.gaussian(x, self.gain(t[:, None]))

    def gain(self, t: Tensor) -> Tensor:
        """v / x of the Gaussian along each principal direction and along all others: t (..., 1) -> (..., rank + 1)."""
        return (self.variance * t - (1 - t)) / (self.variance * t**2 + (1 - t) ** 2)

    def gaussian(self, x: Tensor, gain: Tensor) -> Tensor:
        """x (B, 512) times the gains (B, rank + 1), or (rank + 1,) for all rows, in the principal directions."""
        along = x @ self.basis.T
        return gain[..., -1:] * x + ((gain[..., :-1] - gain[..., -1:]) * along) @ self.basis

    def context(self, tokens: Tensor, mask: Tensor, keep: Tensor | None = None) -> Context:
        """Per-layer keys and values of the text, once a prompt; rows with keep = False get the null token."""
        if keep is not None:
            first = torch.arange(tokens.shape[1], device=tokens.device)[None] == 0
            tokens = torch.where(keep[:, None, None], tokens, self.null.to(tokens.dtype))
            mask = torch.where(keep[:, None], mask, first)
        bias = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))[:, None, None]
        return [(*block.keys_values(tokens), bias) for block in self.blocks]

    def forward(self, x: Tensor, t: Tensor, context: Context, autoguidance: float = 1.0) -> Tensor:
        """Velocity (B, 512) at x (B, 512), t (B,).

        autoguidance w: v_gauss + w (v - v_gauss), guidance by a bad version of the model (Karras et al. 2024, arXiv
        2406.02507). Here the bad version is the exact Gaussian, which is there anyway: w > 1 costs nothing, and
        sharpens what is not Gaussian, such as the key, at the price of some variety. 1 is what was learned.
        """
        modulation = self.time(time_features(t, self.config.width, TURNS).to(x.dtype)).unflatten(-1, (9, -1))
        h = self.enter(x)
        for block, layer in zip(self.blocks, context, strict=True):
            h = block(h, modulation, layer)
        v = self.leave(F.layer_norm(h, h.shape[-1:]))
        if not self.config.gaussian_rank:
            return v
        with torch.autocast(x.device.type, enabled=False):
            v = v if autoguidance == 1.0 else autoguidance * v
            return v.to(x.dtype) + self.gaussian_velocity(x, t.to(x.dtype))

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss, beside its Gaussian floor and its value in the embedding's own units."""
        x_t, u = flow.path(batch["x_0"], self.standardise(batch["x_1"]), batch["t"])
        context = self.context(batch["tokens"].to(self.null.dtype), batch["mask"], batch["keep"])
        v = self(x_t, batch["t"], context)
        value = flow.loss(v, u).mean()
        with torch.no_grad():
            unscaled = ((v - u) * self.std).square().mean()
        return value, {"floor": flow.gaussian_floor(batch["t"]).mean(), "unscaled": unscaled}


class TextRegression(Text2MuQFlow):
    """The baseline: the same network asked for *the* embedding, trained by squared error.

    Its optimum is the conditional mean E[x_1 | text], which many right answers pull towards the centre.
    """

    def __init__(self, config: Stage1Config):
        super().__init__(dataclasses.replace(config, gaussian_rank=0))

    def predict(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The raw mean, (B, 512), not normalised: its norm tells how much the answers disagree."""
        start = torch.zeros(len(tokens), self.config.dim, device=tokens.device)
        context = self.context(tokens.to(self.null.dtype), mask)
        x = self(start.to(self.null.dtype), start[:, 0], context)
        return x * self.std + self.mean

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        error = self.predict(batch["tokens"], batch["mask"]).float() - batch["x_1"]
        return (error / self.std).square().mean(), {"unscaled": error.detach().square().mean()}
