r"""Stage 2 prepared for sampling: the same velocity as `stage2.StableAudioMuQ`, with what sampling repeats taken out.

- Weights lie packed in the products' dtype (`packed`), where autocast would cast them again for every evaluation.
- What depends on time alone (its token, the factors of `v_objective`) and on time and prompt alone (the modulation)
  is computed once for all times of a fixed grid (`Guided2.at`); rotary tables once for a length.
- Queries and keys are turned together, gates and residuals are added in place, attention reads its operands where the
  product wrote them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from musekit import flow
from musekit.inference.compiled import compiled
from musekit.inference.graphs import KEPT, Recorded
from musekit.inference.packed import Packed
from musekit.stage1 import time_features
from musekit.stage2 import Condition, StableAudioMuQ, rotary, v_objective

PIECE = 1536  # columns of the feed-forward that are computed at a time on a CPU: 257 rows of them fit a 2 MB cache


class Moment(NamedTuple):
    """What the network needs of a time that all rows share, or of one time a row (then with R in front)."""

    token: Tensor  # (D,) or (R, D): the time's part of the global token
    modulation: Tensor | None  # (R, 6, D), or None
    affine: Tensor | None  # (3,) or (3, R): x is shown times the first; u = second x + third v
    t: float | None = None  # t on the host, where it is known there


class Layer(NamedTuple):
    """One block's matrices and norms."""

    qkv: Packed
    out: Packed
    gate_up: list[Packed]  # each gives some columns of `up`, then the same columns of `gate`
    down: Packed
    norm_attention: tuple[Tensor, Tensor]
    norm_ff: tuple[Tensor, Tensor]


class Prepared2:
    """The velocity of a trained `StableAudioMuQ` with products, and the hidden state, in `dtype`."""

    def __init__(self, network: StableAudioMuQ, dtype: torch.dtype | None = None, compile: bool = True):
        self.network, self.config, self.mean = network, network.config, network.mean
        self.dtype = dtype or network.mean.dtype
        self.block = compiled(self._block, network) if compile else self._block
        self.apart = network.mean.is_cuda  # queries and keys turn out of place: what a compiler fuses
        with torch.no_grad():
            self.layers = [self._layer(block) for block in network.blocks]
            self.table = None
            if network.config.modulation:
                one = torch.tensor([0.0, 1, 0, 0, 1, 0], dtype=self.mean.dtype, device=self.mean.device)
                self.table = torch.stack([b.table for b in network.blocks]) + one[:, None]  # scales count from 1
        self.turns: dict[int, tuple[Tensor, Tensor]] = {}
        self.recorded: dict[tuple, Recorded] = {}

    def _layer(self, block) -> Layer:
        norms = [tuple(p.to(self.dtype) for p in (n.weight, n.bias)) for n in (block.norm_attention, block.norm_ff)]
        qkv, out, down = (Packed.of(m, self.dtype) for m in (block.qkv, block.out, block.down))
        return Layer(qkv, out, self._pieces(block.gate_up), down, *norms)

    def _pieces(self, gate_up) -> list[Packed]:
        """The feed-forward's first matrix in pieces whose results stay in a CPU's cache until they are multiplied."""
        weight, bias = gate_up.weight.detach().to(self.dtype), gate_up.bias.detach().to(self.dtype)
        inner = len(weight) // 2
        pieces = max(1, inner // PIECE) if weight.device.type == "cpu" and inner % PIECE == 0 else 1
        up, gate = (part.chunk(pieces) for part in weight.chunk(2))
        up_bias, gate_bias = (part.chunk(pieces) for part in bias.chunk(2))
        parts = zip(up, gate, up_bias, gate_bias, strict=True)
        return [Packed(torch.cat([u, g]), torch.cat([b, c])) for u, g, b, c in parts]

    def moment(self, t: Tensor) -> Moment:
        """The parts of times t (n,) that no prompt changes, with n in front (`affine`: (3, n))."""
        t, network = t.to(device=self.mean.device, dtype=self.mean.dtype), self.network
        if not self.config.stable_audio:
            return Moment(network.time(time_features(t, self.config.width).to(self.mean.dtype)), None, None)
        s = v_objective.radius(t)
        tau = v_objective.foreign_input(t, t)[1]
        return Moment(network.time(tau), None, torch.stack([1 / s, (2 * t - 1) / s**2, -1 / s]))

    def modulation(self, token: Tensor, condition: Condition) -> Tensor | None:
        """Time's tokens (..., R or 1, D) -> (..., R, 6, D); None where the network has no modulation."""
        if self.table is None:
            return None
        return self.network.modulation(token + condition.timing + condition.modulation).unflatten(-1, (6, -1))

    def __call__(self, x: Tensor, moment: Moment, condition: Condition) -> Tensor:
        """Velocity (R, C, T) at x (R, C, T)."""
        network, patch, frames = self.network, self.config.patch, x.shape[-1]
        shown = x if moment.affine is None else x * flow.expand(moment.affine[0], x)
        shown = F.pad(shown, (0, -frames % patch)).unflatten(-1, (-1, patch)).permute(0, 2, 1, 3).flatten(2)
        entered = network.enter(network.before(shown))  # (R, T / patch, D), in the state's precision
        h = torch.cat([(condition.timing + moment.token)[:, None], entered], dim=1).to(self.dtype)
        turn, modulations = self._turn(h.shape[1], h), [None] * len(self.layers)
        if moment.modulation is not None:
            modulations = (moment.modulation + self.table[:, None]).to(self.dtype).unbind(0)  # (R, 6, D) each
        for layer, modulation, cross in zip(self.layers, modulations, condition.cross, strict=True):
            h = self.block(layer, h, modulation, cross.to(self.dtype), turn)
        v = network.after(network.leave(network.norm(h[:, 1:].to(x.dtype))))
        v = v.unflatten(-1, (-1, patch)).permute(0, 2, 1, 3).flatten(2)[..., :frames]
        if moment.affine is None:
            return v
        return flow.expand(moment.affine[1], x) * x + flow.expand(moment.affine[2], x) * v

    def _block(self, layer: Layer, h: Tensor, modulation: Tensor | None, cross: Tensor, turn) -> Tensor:
        """h (R, T, D), which it changes in place."""
        shape, head_dim = h.shape[-1:], self.config.head_dim
        shift1 = scale1 = gate1 = shift2 = scale2 = gate2 = None
        if modulation is not None:
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation[:, :, None].unbind(1)  # (R, 1, D) each
        y = F.layer_norm(h, shape, *layer.norm_attention)
        y = y if modulation is None else torch.addcmul(shift1, y, scale1)
        qkv = layer.qkv(y).unflatten(-1, (3, -1, head_dim))  # (R, T, 3, heads, head_dim)
        if self.apart:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (R, heads, T, head_dim) each
            q, k = rotated(q, *turn), rotated(k, *turn)
        else:
            rotate_(qkv[:, :, :2], *turn)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = layer.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h += cross[:, None]
        h = h.add_(y) if modulation is None else h.addcmul_(gate1, y)
        y = F.layer_norm(h, shape, *layer.norm_ff)
        y = y if modulation is None else torch.addcmul(shift2, y, scale2)
        y = layer.down(self._gated(layer, y))
        return h.add_(y) if modulation is None else h.addcmul_(gate2, y)

    def _gated(self, layer: Layer, y: Tensor) -> Tensor:
        """SwiGLU's inner state, silu(gate) * up: (R, T, D) -> (R, T, I)."""
        if len(layer.gate_up) == 1:
            up, gate = layer.gate_up[0](y).chunk(2, dim=-1)
            return F.silu(gate) * up
        inner = y.new_empty(*y.shape[:-1], layer.down.weight.shape[1])
        for piece, place in zip(layer.gate_up, inner.chunk(len(layer.gate_up), dim=-1), strict=True):
            up, gate = piece(y).chunk(2, dim=-1)
            torch.mul(F.silu(gate), up, out=place)
        return inner

    def _turn(self, tokens: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables (tokens, 1, 1, head_dim / 2) of what turns; those of the last length are kept."""
        turns = self.turns  # another thread may put its own length there
        if tokens not in turns:
            tables = rotary(tokens, self.config.head_dim, like)
            turns = self.turns = {tokens: tuple(t[:, None, None, : self.config.head_dim // 2] for t in tables)}
        return turns[tokens]


class Guided2:
    """The guided velocity of one micro-batch for `solve.solve`: v(t, x), and `at` for the times of a fixed grid.

    condition: of the B rows, or of 2 B: the unconditional (or negative) ones come last. interval: guidance acts for t
    in [low, high]; elsewhere the conditional velocity alone counts, and on a fixed grid the unconditional rows are not
    computed there at all (Kynkaanniemi et al. 2024, arXiv 2404.07724).
    """

    def __init__(
        self, prepared: Prepared2, condition: Condition, scale: float, interval: tuple[float, float] = (0.0, 1.0)
    ):
        self.prepared, self.condition, self.scale, self.interval = prepared, condition, scale, interval

    def at(self, times: Tensor) -> list[Moment]:
        """Everything that depends on time and prompts alone, for n times (n,) that all rows will share."""
        token, _, affine, _ = self.prepared.moment(times)
        nothing = [None] * len(times)
        modulation = self.prepared.modulation(token[:, None], self.condition)  # (n, R, 6, D), or None
        parts = (nothing if part is None else part for part in (modulation, None if affine is None else affine.T))
        return list(map(Moment, token, *parts, times.tolist()))

    def __call__(self, t: Tensor | Moment, x: Tensor) -> Tensor:
        guided = self.scale != 1.0 and (not isinstance(t, Moment) or self.interval[0] <= t.t <= self.interval[1])
        if not isinstance(t, Moment):
            return self._velocity(x, self._rows(t, guided), self.condition, guided, t)
        if x.is_cuda:
            return self._recorded(x, t, guided)(x, t.token, *(p for p in (t.modulation, t.affine) if p is not None))
        return self._velocity(x, t, self.condition, guided)

    def _rows(self, t: Tensor, guided: bool) -> Moment:
        """One time a row."""
        token, _, affine, _ = self.prepared.moment(t)
        if guided:
            token, affine = torch.cat([token, token]), None if affine is None else torch.cat([affine, affine], 1)
        return Moment(token, self.prepared.modulation(token, first_rows(self.condition, len(token))), affine)

    def _velocity(
        self, x: Tensor, moment: Moment, condition: Condition, guided: bool, t: Tensor | None = None
    ) -> Tensor:
        if not guided:
            modulation = None if moment.modulation is None else moment.modulation[: len(x)]
            return self.prepared(x, moment._replace(modulation=modulation), first_rows(condition, len(x)))
        v_cond, v_uncond = self.prepared(torch.cat([x, x]), moment, condition).chunk(2)
        scale = self.scale if t is None else flow.guidance_at(t, self.scale, self.interval, x)
        return flow.guided(v_cond, v_uncond, scale)

    def _recorded(self, x: Tensor, moment: Moment, guided: bool) -> Recorded:
        """This velocity as one recorded launch (a CUDA graph), kept for later micro-batches of the same shapes."""
        recorded, condition = self.prepared.recorded, self.condition
        held, layers = [condition.timing, condition.modulation, *condition.cross], len(condition.cross)
        key = (guided, self.scale, x.shape, condition.rows())

        def velocity(timing, base, *parts):
            x, token, *rest = parts[layers:]
            modulation = None if moment.modulation is None else rest[0]
            now = Moment(token, modulation, None if moment.affine is None else rest[-1])
            return self._velocity(x, now, Condition(timing, base, list(parts[:layers])), guided)

        if key not in recorded and len(recorded) == KEPT:
            del recorded[next(iter(recorded))]
        return recorded.setdefault(key, Recorded()).of(velocity, held)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """`stage2.rotate` in place, for x (..., head_dim): the half of a head that carries no position is not touched."""
    turning = x[..., : x.shape[-1] // 2]
    a, b = turning.chunk(2, dim=-1)
    torch.addcmul(turning * cos, torch.cat([b, a], dim=-1), sin, out=turning)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same out of place, for x (R, heads, T, head_dim)."""
    a, b, rest = x.split([x.shape[-1] // 4, x.shape[-1] // 4, x.shape[-1] // 2], dim=-1)
    cos, sin = (table[:, 0, 0].chunk(2, dim=-1) for table in (cos, sin))  # (T, head_dim / 4) each
    return torch.cat([a * cos[0] + b * sin[0], b * cos[1] + a * sin[1], rest], dim=-1)


def first_rows(condition: Condition, rows: int) -> Condition:
    """The first so many of a condition's rows."""
    if condition.rows() == rows:
        return condition
    return Condition(condition.timing[:rows], condition.modulation[:rows], [c[:rows] for c in condition.cross])
