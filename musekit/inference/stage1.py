r"""Stage 1 prepared for sampling: the same velocity as `stage1.Text2MuQFlow`, with what sampling repeats taken out.

All of it is exact algebra; only roundings differ.

- Self-attention over one token is W_o (W_v x + b_v) + b_o: one matrix W_o W_v, one vector W_o b_v + b_o.
- The text's keys and values are computed once a prompt. For few rows they also swallow the projections around them:
  a head's scores are (k W_q) x + k b_q and its output is softmax(scores) (v W_o'), so with A = k W_q and C = v W_o'
  attention reads H L D numbers twice a row instead of two D x D matrices, which pays where rows * H * L < D.
- A row without text attends to the null token alone: softmax over one key is 1, and its cross-attention is one
  constant vector. Such rows come last and need no keys at all.
- On a fixed grid all rows share t, so shift and scale become the layer norm's own bias and weight, and the time's
  network runs once for all times of the grid (`at`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from musekit import flow
from musekit.inference.compiled import compiled, has_triton
from musekit.inference.graphs import KEPT, Recorded
from musekit.inference.packed import Packed
from musekit.stage1 import TURNS, Text2MuQFlow, time_features

FEW = 4  # rows up to which a GPU runs `kernels`; beyond, its matrix units pay
MANY = 64  # rows from which attention is written out for the compiler: PyTorch's kernels are made for long queries


@dataclass(frozen=True)
class Text:
    """What the network needs of R prompts. Merged: A and C (layers, R, H L, D); else keys and values as they are."""

    keys: Tensor  # (layers, R, H, L, d), or A (layers, R, H L, D)
    values: Tensor  # (layers, R, H, L, d), or C (layers, R, H L, D)
    bias: Tensor  # (layers or 1, R, 1, L), or (layers, R, 1, H L): minus infinity where there is no token
    merged: bool


class Moment(NamedTuple):
    """What the network needs of a time t that all rows share, or of one time a row (then with B in front)."""

    modulation: Tensor  # (9, D), or (B, 9, D)
    gain: Tensor | None  # (rank + 1,), or (B, rank + 1): the Gaussian part's, where there is one


class Layer(NamedTuple):
    """One block's matrices."""

    own: Packed  # self-attention: W_o W_v
    query: Packed
    out: Packed
    ff_in: Packed
    ff_out: Packed
    null: Tensor  # (D,) cross-attention of a row without text


class Prepared1:
    """The velocity of a trained `Text2MuQFlow` in `dtype` products; the state and what is added to it keep theirs."""

    def __init__(self, network: Text2MuQFlow, dtype: torch.dtype | None = None, compile: bool = True):
        self.network, self.config, self.mean = network, network.config, network.mean
        self.dtype = dtype or network.mean.dtype
        self.heads = network.config.heads
        with torch.no_grad():
            self.layers = [self._layer(block) for block in network.blocks]
            one = torch.tensor([0.0, 1.0, 0.0] * 3, dtype=network.mean.dtype, device=self.mean.device)
            self.table = torch.stack([b.table for b in network.blocks]) + one[:, None]  # scales count from 1
            self.enter, self.leave = (Packed.of(m, self.dtype) for m in (network.enter, network.leave))
            self.still = (torch.zeros_like(self.table[0, 0]), torch.ones_like(self.table[0, 0]))
        self.recorded: dict[tuple, Recorded] = {}
        self.kernels, self.few, self.ahead = None, 0, False
        self.many = MANY if self.mean.is_cuda else sys.maxsize
        if self.mean.is_cuda and has_triton():
            from musekit.inference import kernels

            self.kernels, self.few = kernels, FEW
            self.ahead = torch.cuda.get_device_capability(self.mean.device) >= (9, 0)
        self.block = compiled(self._block, network) if compile else self._block

    def _layer(self, block) -> Layer:
        value, out = block.self_value, block.self_out
        weight = (out.weight.double() @ value.weight.double()).to(self.dtype)  # one rounding, not two
        bias = (out.weight.double() @ value.bias.double() + out.bias.double()).to(self.dtype)
        null = block.cross_out(block.key_value(self.network.null[0])[:, self.config.width :])[0]
        return Layer(
            Packed(weight, bias),
            *(Packed.of(m, self.dtype) for m in (block.query, block.cross_out)),
            *(Packed.of(m, self.dtype) for m in (block.ff[0], block.ff[2])),
            null,
        )

    def text(self, tokens: Tensor, mask: Tensor, keep: Tensor | None = None, merge: bool | None = None) -> Text:
        """tokens (R, L, text_dim), mask (R, L) -> what attention reads of them; rows with keep = False: the null token.

        merge: multiply the projections into keys and values; None: where that leaves less to read.
        """
        rows, length = tokens.shape[:2]
        if merge is None:
            merge = rows * self.heads * length < self.config.width
        context = self.network.context(tokens.to(self.network.null.dtype), mask, keep)
        if not merge:
            keys, values = (torch.stack(parts).to(self.dtype) for parts in list(zip(*context, strict=True))[:2])
            return Text(keys, values, context[0][2][None].to(self.dtype), False)
        keys, values, bias = zip(*map(self._merged, self.network.blocks, context), strict=True)
        keys, values, bias = (torch.stack(parts).to(self.dtype) for parts in (keys, values, bias))
        if self.few:  # `kernels` read columns of C
            values = values.mT.contiguous().mT
        return Text(keys, values, bias, True)

    def _merged(self, block, context) -> tuple[Tensor, Tensor, Tensor]:
        """A (R, H L, D), C (R, H L, D) and the scores' bias (R, 1, H L) of one layer."""
        keys, values, bias = context
        keys = keys * keys.shape[-1] ** -0.5
        to_scores = block.query.weight.unflatten(0, (self.heads, -1))  # (H, d, D)
        to_output = block.cross_out.weight.T.unflatten(0, (self.heads, -1))  # (H, d, D)
        offset = torch.einsum("rhld,hd->rhl", keys, block.query.bias.unflatten(0, (self.heads, -1)))
        A, C = (keys @ to_scores).flatten(1, 2), (values @ to_output).flatten(1, 2)
        return A, C, (offset + bias[:, 0]).flatten(1)[:, None]

    def at(self, times: Tensor) -> list[Moment]:
        """Everything that depends on time alone, for n times (n,) that all rows will share."""
        t = times.to(device=self.mean.device, dtype=self.mean.dtype)
        moments = self._moment(t)
        gains = [None] * len(t) if moments.gain is None else moments.gain.unbind(0)
        return list(map(Moment, moments.modulation.unbind(0), gains))

    def _moment(self, t: Tensor) -> Moment:
        features = time_features(t, self.config.width, TURNS).to(self.mean.dtype)
        modulation = self.network.time(features).unflatten(-1, (9, -1))
        return Moment(modulation, self.network.gain(t[:, None]) if self.config.gaussian_rank else None)

    def __call__(self, x: Tensor, t: Tensor | Moment, text: Text, autoguidance: float = 1.0) -> Tensor:
        """Velocity (B, 512) at x (B, 512); t (B,) or a moment of `at`. Rows beyond the text's have no text."""
        moment = t if isinstance(t, Moment) else self._moment(t.to(self.mean.dtype))
        alone = moment.modulation.dim() == 2  # one time for all rows
        table = self.table if alone else self.table[:, None]
        layers = moment.modulation + table
        if alone and text.merged and len(x) <= self.few:
            v = self.kernels.velocity(self, x, layers, text, self.ahead)
        else:
            v = self._network(x, layers, text)
        v = v if autoguidance == 1.0 or moment.gain is None else autoguidance * v
        return v if moment.gain is None else v + self.network.gaussian(x, moment.gain.to(x.dtype))

    def _network(self, x: Tensor, modulation: Tensor, text: Text) -> Tensor:
        """The network alone; modulation (layers, 9, D) or (layers, B, 9, D)."""
        h = self.enter(x.to(self.dtype)).to(x.dtype)
        for i, (layer, now) in enumerate(zip(self.layers, modulation.unbind(0), strict=True)):
            h = self.block(layer, h, now, text.keys[i], text.values[i], text.bias[i % len(text.bias)], text.merged)
        return self.leave(F.layer_norm(h, h.shape[-1:]).to(self.dtype)).to(x.dtype)

    def _block(self, layer: Layer, h: Tensor, modulation: Tensor, keys, values, bias, merged: bool) -> Tensor:
        """h (B, D); modulation (9, D) or (B, 9, D); this layer's keys, values and bias of the text."""
        a1, b1, g1, a2, b2, g2, a3, b3, g3 = modulation.unbind(-2)
        h = torch.addcmul(h, g1, layer.own(self._norm(h, a1, b1)).to(h.dtype))
        y = self._norm(h, a2, b2)
        h = torch.addcmul(h, g2, self._cross(layer, y, keys, values, bias, merged).to(h.dtype))
        return torch.addcmul(h, g3, layer.ff_out(F.gelu(layer.ff_in(self._norm(h, a3, b3)))).to(h.dtype))

    def _norm(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Layer norm, then scale and shift, in the products' dtype."""
        if shift.dim() == 1:
            return F.layer_norm(h, h.shape[-1:], scale, shift).to(self.dtype)
        return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), scale).to(self.dtype)

    def _cross(self, layer: Layer, y: Tensor, keys: Tensor, values: Tensor, bias: Tensor, merged: bool) -> Tensor:
        """Cross-attention of y (B, D) to a layer of the text; the rows beyond it get the null token's vector."""
        rows = len(keys)
        if merged:
            scores = torch.baddbmm(bias, y[:rows, None], keys.transpose(1, 2))  # (R, 1, H L)
            weight = scores.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)
            attended = torch.baddbmm(layer.out.bias, weight, values)[:, 0]
        else:
            attended = layer.out(self._attend(layer.query(y[:rows]), keys, values, bias))
        if rows == len(y):
            return attended
        return torch.cat([attended, layer.null.to(attended.dtype).expand(len(y) - rows, -1)])

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """query (R, D), keys and values (R, H, L, d), bias (R, 1, 1, L) -> (R, D)."""
        if len(query) >= self.many:
            query = query.unflatten(-1, (self.heads, 1, -1)).float() * keys.shape[-1] ** -0.5
            weight = ((query * keys.float()).sum(-1) + bias[:, 0]).softmax(-1)  # (R, H, L)
            return (weight[..., None] * values.float()).sum(-2).flatten(1).to(values.dtype)
        query = query.unflatten(-1, (self.heads, 1, -1))
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias).flatten(1)


class Guided1:
    """The guided velocity of one micro-batch for `solve.solve`: v(t, x), and `at` for the times of a fixed grid.

    text: of the B rows, or of 2 B where the unconditional rows have texts of their own (negative prompts).
    autoguidance: see `stage1.Text2MuQFlow.forward`.
    """

    def __init__(self, prepared: Prepared1, text: Text, scale: float, autoguidance: float = 1.0):
        self.prepared, self.text, self.scale, self.autoguidance = prepared, text, scale, autoguidance

    def at(self, times: Tensor) -> list[Moment]:
        """See `Prepared1.at`."""
        return self.prepared.at(times)

    def __call__(self, t: Tensor | Moment, x: Tensor) -> Tensor:
        if x.is_cuda and isinstance(t, Moment):
            return self._recorded(x)(x, t.modulation, *([] if t.gain is None else [t.gain]))
        return self._velocity(x, t, self.text)

    def _velocity(self, x: Tensor, t: Tensor | Moment, text: Text) -> Tensor:
        if self.scale == 1.0:
            return self.prepared(x, t, text, self.autoguidance)
        both = t if isinstance(t, Moment) else torch.cat([t, t])
        return flow.guided(*self.prepared(torch.cat([x, x]), both, text, self.autoguidance).chunk(2), self.scale)

    def _recorded(self, x: Tensor) -> Recorded:
        """This velocity as one recorded launch (a CUDA graph), kept for later micro-batches of the same shapes."""
        parts, recorded = (self.text.keys, self.text.values, self.text.bias), self.prepared.recorded
        key = (self.scale, self.autoguidance, self.text.merged, x.shape, *(part.shape for part in parts))

        def velocity(keys, values, bias, x, modulation, gain=None):
            return self._velocity(x, Moment(modulation, gain), Text(keys, values, bias, self.text.merged))

        if key not in recorded and len(recorded) == KEPT:
            del recorded[next(iter(recorded))]
        return recorded.setdefault(key, Recorded()).of(velocity, parts)


def join(*texts: Text) -> Text:
    """Stack texts along the rows."""
    parts = [torch.cat(part, 1) for part in zip(*[(t.keys, t.values, t.bias) for t in texts], strict=True)]
    return Text(*parts, texts[0].merged)
