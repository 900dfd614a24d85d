"""Stage 2, `StableAudioMuQ`: the velocity of codec latents, given one 512-d joint embedding.

Stable Audio Open's transformer (Evans et al. 2024, arXiv 2407.14358): a global token that carries time and
timing, self-attention with rotary positions on half of each head, cross-attention to one conditioning token, and
SwiGLU. Softmax over one key is 1, so cross-attention adds one vector to every position: it is computed once a
prompt (`condition`). The mini preset adds adaLN-single modulation and joins two latent frames in a token; the paper
preset is that transformer weight for weight (`stable_audio`, `foreign`), which says v instead of u (`v_objective`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import flow
from musekit.config import Stage2Config
from musekit.stage1 import time_features
from musekit.stage2 import v_objective
from musekit.stage2.stable_audio import Residual, TimeToken, TimingToken, two_layers


@dataclass(frozen=True)
class Condition:
    """What the network needs of a prompt; none of it changes over the ODE."""

    timing: Tensor  # (B, D): the global token without its time
    modulation: Tensor  # (B, D)
    cross: list[Tensor]  # each layer's cross-attention output, (B, D)

    def rows(self) -> int:
        """B."""
        return len(self.timing)


def join(*conditions: Condition) -> Condition:
    """Stack conditions along the batch: conditional and unconditional rows run as one."""
    cross = [torch.cat(layer) for layer in zip(*[c.cross for c in conditions], strict=True)]
    timing = torch.cat([c.timing for c in conditions])
    return Condition(timing, torch.cat([c.modulation for c in conditions]), cross)


def rotary(tokens: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (tokens, head_dim) of rotary positions (Su et al. 2021, arXiv 2104.09864) on half of each head.

    The other half has cos = 1 and sin = 0: it carries no position. The sign of the half-turn is in sin.
    """
    dim = head_dim // 2
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device, dtype=torch.float32) / dim)
    angle = torch.outer(torch.arange(tokens, device=like.device, dtype=torch.float32), frequency)
    still = torch.zeros(tokens, head_dim - dim, device=like.device)
    cos = torch.cat([angle.cos(), angle.cos(), still + 1], dim=-1)
    return cos.to(like.dtype), torch.cat([-angle.sin(), angle.sin(), still], dim=-1).to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 4) of the first half of each head; x (..., T, head_dim)."""
    a, b, rest = x.split([x.shape[-1] // 4, x.shape[-1] // 4, x.shape[-1] // 2], dim=-1)
    return torch.addcmul(x * cos, torch.cat([b, a, rest], dim=-1), sin)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v for (B, H, T, d).

    On a CPU as plain batched products: torch 2.11's fused kernel takes 6 times as long in its backward pass.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    shape = q.shape
    q, k, v = (x.reshape(-1, *shape[2:]) for x in (q, k, v))
    zero = torch.zeros((), dtype=q.dtype)
    score = torch.baddbmm(zero, q, k.transpose(1, 2), beta=0, alpha=shape[-1] ** -0.5)
    return torch.bmm(score.softmax(-1), v).view(shape)


class Stage2Block(nn.Module):
    """Self-attention, the cross-attention's vector, SwiGLU."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        width, inner = config.width, int(config.ff_mult * config.width)
        self.head_dim = config.head_dim
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.cross_value = nn.Linear(config.condition_dim, config.kv_heads * config.head_dim, bias=False)
        self.cross_out = nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.norm_attention, self.norm_ff = nn.LayerNorm(width), nn.LayerNorm(width)
        # shift, scale and gate of both sublayers; gates start at 1, so the block starts as a plain transformer's
        gates = torch.tensor([0.0, 0, 1, 0, 0, 1])[:, None].expand(6, width)
        self.table = nn.Parameter(gates.clone()) if config.modulation else None
        self.repeat = width // (config.kv_heads * config.head_dim)  # query heads that share a value head
        if config.stable_audio:  # one key makes these idle; they are carried so that all weights can go back
            self.norm_cross = nn.LayerNorm(width).requires_grad_(False)
            self.cross_query = nn.Linear(width, width, bias=False).requires_grad_(False)
            self.cross_key = nn.Linear(*self.cross_value.weight.shape[::-1], bias=False).requires_grad_(False)

    def cross_vector(self, token: Tensor) -> Tensor:
        """Cross-attention to one token (B, condition_dim) -> (B, D), the same at every position."""
        value = self.cross_value(token).unflatten(-1, (-1, self.head_dim))
        return self.cross_out(value.repeat_interleave(self.repeat, dim=1).flatten(1))

    def forward(self, x: Tensor, cross: Tensor, turn: tuple[Tensor, Tensor], modulation: Tensor | None) -> Tensor:
        """x (B, T, D), cross (B, D), modulation (B, 6, D)."""
        y = self.norm_attention(x)
        if modulation is not None:
            shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table)[:, :, None].unbind(1)
            y = torch.addcmul(shift1, y, 1 + scale1)
        q, k, v = self.qkv(y).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)  # (B, H, T, head_dim)
        y = self.out(attend(rotate(q, *turn), rotate(k, *turn), v).transpose(1, 2).flatten(2))
        x = x + cross[:, None] + y if modulation is None else torch.addcmul(x + cross[:, None], gate1, y)
        y = self.norm_ff(x)
        if modulation is not None:
            y = torch.addcmul(shift2, y, 1 + scale2)
        up, gate = self.gate_up(y).chunk(2, dim=-1)
        y = self.down(up * F.silu(gate))
        return x + y if modulation is None else torch.addcmul(x, gate2, y)


class StableAudioMuQ(nn.Module):
    """v(x_t, t, embedding, seconds): x_t are standardised latents, (B, C, T)."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.config = config
        width, channels = config.width, config.latent_dim * config.patch
        self.register_buffer("mean", torch.zeros(config.latent_dim, 1))  # of the training latents, a channel
        self.register_buffer("std", torch.ones(config.latent_dim, 1))
        self.embedding_projection = nn.Sequential(
            nn.Linear(config.embedding_dim, config.condition_dim),
            nn.SiLU(),
            nn.Linear(config.condition_dim, config.condition_dim),
        )
        self.null = nn.Parameter(torch.randn(config.condition_dim) * 0.02)  # the conditioning token of "no prompt"
        if config.stable_audio:
            self.token = two_layers(config.condition_dim, config.condition_dim, bias=False)
            self.timing, self.time = TimingToken(config), TimeToken(config)
        else:
            self.timing = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
            self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        if config.modulation:
            self.modulation_condition = nn.Linear(config.condition_dim, width)
            self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
            nn.init.zeros_(self.modulation[-1].weight)
            nn.init.zeros_(self.modulation[-1].bias)
        self.enter = nn.Linear(channels, width, bias=not config.stable_audio)
        self.blocks = nn.ModuleList(Stage2Block(config) for _ in range(config.depth))
        self.norm = nn.Identity() if config.stable_audio else nn.LayerNorm(width)
        self.leave = nn.Linear(width, channels, bias=not config.stable_audio)
        self.before = Residual(channels) if config.stable_audio else nn.Identity()
        self.after = Residual(channels) if config.stable_audio else nn.Identity()
        zeros = [self.null, self.before.weight, self.after.weight] if config.stable_audio else [self.leave.bias]
        for zero in (self.leave.weight, *zeros):
            nn.init.zeros_(zero)

    def standardise(self, latents: Tensor) -> Tensor:
        """Codec latents -> x_1 with about unit variance a channel."""
        return (latents - self.mean) / self.std

    def latents(self, x: Tensor) -> Tensor:
        """x at t = 1 -> codec latents."""
        return x * self.std + self.mean

    def fit_scale(self, latents: Tensor) -> None:
        """Set each channel's mean and standard deviation from training latents (n, C)."""
        self.mean.copy_(latents.mean(0)[:, None])
        self.std.copy_(latents.std(0).clamp_min(1e-4)[:, None])

    def condition(self, embedding: Tensor, seconds: Tensor, keep: Tensor | None = None) -> Condition:
        """embedding (B, 512) unit, seconds (B, 2) = start and total; rows with keep = False get the null token."""
        config = self.config
        # unit length means 1/sqrt(512) a coordinate: scaled to unit variance, as networks expect
        token = self.embedding_projection(embedding * math.sqrt(config.embedding_dim))
        if keep is not None:
            token = torch.where(keep[:, None], token, self.null.to(token.dtype))
        if config.stable_audio:
            token, timing = self.token(token), self.timing(seconds)
        else:
            features = [time_features(s / 60.0, config.width) for s in seconds.unbind(1)]
            timing = self.timing(torch.cat(features, dim=-1).to(embedding.dtype))
        modulation = self.modulation_condition(token) if config.modulation else torch.zeros_like(timing)
        return Condition(timing, modulation, [block.cross_vector(token) for block in self.blocks])

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity (B, C, T) at x (B, C, T), t (B,)."""
        if not self.config.stable_audio:
            return self.transformer(x, self.time(time_features(t, self.config.width).to(x.dtype)), condition)
        z, tau = v_objective.foreign_input(x, t)
        return v_objective.velocity(x, t, self.transformer(z, self.time(tau), condition))

    def transformer(self, x: Tensor, now: Tensor, condition: Condition) -> Tensor:
        """What the layers say of x (B, C, T) with the time's token `now` (B, D): u, or v of Stable Audio Open's."""
        patch, frames = self.config.patch, x.shape[-1]
        x = F.pad(x, (0, -frames % patch))
        x = x.unflatten(-1, (-1, patch)).permute(0, 2, 1, 3).flatten(2)  # (B, T / patch, C * patch)
        h = torch.cat([(condition.timing + now)[:, None], self.enter(self.before(x))], dim=1)
        modulation = None
        if self.config.modulation:
            modulation = self.modulation(now + condition.timing + condition.modulation).unflatten(-1, (6, -1))
        turn = rotary(h.shape[1], self.config.head_dim, h)
        for block, cross in zip(self.blocks, condition.cross, strict=True):
            h = block(h, cross, turn, modulation)
        v = self.after(self.leave(self.norm(h[:, 1:])))
        return v.unflatten(-1, (-1, patch)).permute(0, 2, 1, 3).flatten(2)[..., :frames]

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss over the frames that exist, beside its Gaussian floor."""
        x_t, u = flow.path(batch["x_0"], self.standardise(batch["x_1"]), batch["t"])
        v = self(x_t, batch["t"], self.condition(batch["embedding"], batch["seconds"], batch["keep"]))
        value = flow.loss(v, u, batch["mask"]).mean()
        return value, {"floor": flow.gaussian_floor(batch["t"]).mean()}
