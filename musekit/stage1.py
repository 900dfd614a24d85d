"""Stage 1, `Text2MuQFlow`: the velocity of a 512-d joint embedding, given text tokens.

The sequence is one token long, so self-attention is its value and output projections: softmax over one key is 1. The
text's cross-attention keys and values do not change along the ODE, and are computed once (`context`).

`Stage1Inference` is the form for sampling. Its algebra is exact; only rounding differs from the training form. Products
of two matrices become one. For few samples the text's keys and values absorb the projections around them, A = k W_q and
C = v W_o', which pays where samples * H * L < D. A sample without text attends to the null token only, so its
cross-attention is one constant vector. On a fixed grid all samples share t: shift and scale become the layer norm's
own.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import flow
from musekit.config import Stage1Config
from musekit.gpu import CudaGraph, compiled

Context = list[tuple[Tensor, Tensor, Tensor]]
"""Per layer: the text's keys and values (B, heads, L, head_dim), and the scores' bias (B, 1, 1, L), -inf at padding."""

MAX_TIME_TURNS = 16.0  # of the fastest time feature: the velocity stays smooth in time, which higher-order solvers need
MIN_WRITTEN_ATTENTION = 64  # samples from which elementwise kernels are faster on a GPU than its fused attention


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
        # this layer's part of the modulation: shift, scale, gate of each sublayer; gates start at 1
        self.scale_shift_table = nn.Parameter(torch.tensor([0.0, 0, 1] * 3)[:, None].repeat(1, width))
        for out in (self.self_out, self.cross_out, self.ff[-1]):
            nn.init.zeros_(out.bias)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, L, text_dim) -> keys, values (B, heads, L, head_dim)."""
        kv = self.key_value(tokens).unflatten(-1, (2, self.heads, -1))
        return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)

    def forward(self, x: Tensor, modulation: Tensor, context: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x (B, D), modulation (B, 9, D)."""
        a1, b1, g1, a2, b2, g2, a3, b3, g3 = (modulation + self.scale_shift_table).unbind(1)
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
        self.proj_in = nn.Linear(config.dim, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 9 * width))
        self.null_token = nn.Parameter(torch.randn(1, 1, config.text_dim) * 0.02)  # the token of "no text"
        self.blocks = nn.ModuleList(Stage1Block(config) for _ in range(config.depth))
        self.proj_out = nn.Linear(width, config.dim)
        for zero in (self.proj_out, self.time[-1]):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    def standardise(self, embedding: Tensor) -> Tensor:
        """Embedding -> x_1 with about unit variance per coordinate."""
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
        Noise must vanish exactly in most of the 512 directions, which a narrower network cannot do: it learns the rest.
        """
        return self.gaussian(x, self.gain(t[:, None]))

    def gain(self, t: Tensor) -> Tensor:
        """v / x of that velocity per principal direction, the last for all others: t (..., 1) -> (..., rank + 1)."""
        return (self.variance * t - (1 - t)) / (self.variance * t**2 + (1 - t) ** 2)

    def gaussian(self, x: Tensor, gain: Tensor) -> Tensor:
        """x (B, 512) times `gain` (B, rank + 1), or (rank + 1,) for the whole batch, along the principal directions."""
        along = x @ self.basis.T
        return gain[..., -1:] * x + ((gain[..., :-1] - gain[..., -1:]) * along) @ self.basis

    def context(self, tokens: Tensor, mask: Tensor, keep: Tensor | None = None) -> Context:
        """Per-layer keys and values of tokens (B, L, text_dim) under mask (B, L); keep (B,) = False: the null token, no
        text.
        """
        if keep is not None:
            first = torch.arange(tokens.shape[1], device=tokens.device)[None] == 0
            tokens = torch.where(keep[:, None, None], tokens, self.null_token.to(tokens.dtype))
            mask = torch.where(keep[:, None], mask, first)
        bias = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))[:, None, None]
        return [(*block.keys_values(tokens), bias) for block in self.blocks]

    def forward(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        """Velocity (B, 512) at x (B, 512), t (B,)."""
        features = flow.time_features(t, self.config.width, MAX_TIME_TURNS)
        modulation = self.time(features.to(x.dtype)).unflatten(-1, (9, -1))
        h = self.proj_in(x)
        for block, layer in zip(self.blocks, context, strict=True):
            h = block(h, modulation, layer)
        v = self.proj_out(F.layer_norm(h, h.shape[-1:]))
        if not self.config.gaussian_rank:
            return v
        with torch.autocast(x.device.type, enabled=False):
            return v.to(x.dtype) + self.gaussian_velocity(x, t.to(x.dtype))

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss, beside its Gaussian floor and its value in the embedding's own units."""
        x_t, u = flow.interpolate(batch["x_0"], self.standardise(batch["x_1"]), batch["t"])
        context = self.context(batch["tokens"].to(self.null_token.dtype), batch["mask"], batch["keep"])
        v = self(x_t, batch["t"], context)
        value = flow.loss(v, u).mean()
        with torch.no_grad():
            unscaled = ((v - u) * self.std).square().mean()
        return value, {"floor": flow.gaussian_floor(batch["t"]).mean(), "unscaled": unscaled}


class TextRegression(Text2MuQFlow):
    """The baseline: the same network with one block, trained by squared error to predict E[x_1 | text], between the
    many right answers. One block, so that the packaged weights stay below 48 MiB.
    """

    def __init__(self, config: Stage1Config):
        super().__init__(dataclasses.replace(config, gaussian_rank=0, depth=1))

    def predict(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The predicted mean (B, 512), not normalised: the more the answers differ, the shorter it is."""
        start = torch.zeros(len(tokens), self.config.dim, device=tokens.device)
        context = self.context(tokens.to(self.null_token.dtype), mask)
        x = self(start.to(self.null_token.dtype), start[:, 0], context)
        return x * self.std + self.mean

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error in standardised units, and in the embedding's own units ("unscaled")."""
        error = self.predict(batch["tokens"], batch["mask"]).float() - batch["x_1"]
        return (error / self.std).square().mean(), {"unscaled": error.detach().square().mean()}


@dataclass(frozen=True)
class Text:
    """What sampling needs of R prompts: keys and values, or their products with the projections ("merged")."""

    keys: Tensor  # (layers, R, H, L, d); merged: A (layers, R, H L, D)
    values: Tensor  # (layers, R, H, L, d); merged: C (layers, R, H L, D)
    bias: Tensor  # (layers or 1, R, 1, 1, L); merged: (layers, R, 1, H L). Minus infinity at padding
    merged: bool

    @staticmethod
    def stack(*texts: "Text") -> "Text":
        """The texts of several batches as one batch."""
        parts = zip(*[(t.keys, t.values, t.bias) for t in texts], strict=True)
        return Text(*[torch.cat(part, 1) for part in parts], texts[0].merged)


class Stage1Time(NamedTuple):
    """What the network needs of one time for all samples, or of one time per sample (then with B in front)."""

    modulation: Tensor  # (9, D) or (B, 9, D)
    gain: Tensor | None  # (rank + 1,) or (B, rank + 1): of the Gaussian velocity, where there is one


class Stage1Layer(NamedTuple):
    """One block's matrices as (weight, bias), in the products' dtype."""

    attention: tuple[Tensor, Tensor]  # self-attention: W_o W_v, W_o b_v + b_o
    query: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ff_in: tuple[Tensor, Tensor]
    ff_out: tuple[Tensor, Tensor]
    null: Tensor  # (D,) cross-attention to the null token


class Stage1Inference:
    """The velocity of a trained `Text2MuQFlow`, with products in `dtype`; the state keeps its own dtype."""

    def __init__(self, network: Text2MuQFlow, dtype: torch.dtype | None = None, compile: bool = True):
        self.network, self.config, self.mean = network, network.config, network.mean
        self.dtype = dtype or network.mean.dtype
        self.heads = network.config.heads
        with torch.no_grad():
            self.layers = [self._layer(block) for block in network.blocks]
            one = torch.tensor([0.0, 1.0, 0.0] * 3, dtype=network.mean.dtype, device=self.mean.device)
            self.table = torch.stack([b.scale_shift_table for b in network.blocks]) + one[:, None]  # scales around 1
            self.proj_in, self.proj_out = self._cast(network.proj_in), self._cast(network.proj_out)
        self.graphs: dict[tuple, CudaGraph] = {}
        self.min_written = MIN_WRITTEN_ATTENTION if self.mean.is_cuda else 1
        self.block = compiled(self._block, network) if compile else self._block

    def _cast(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        return layer.weight.detach().to(self.dtype), layer.bias.detach().to(self.dtype)

    def _layer(self, block: Stage1Block) -> Stage1Layer:
        value, out = block.self_value, block.self_out
        weight = (out.weight.double() @ value.weight.double()).to(self.dtype)  # one rounding, not two
        bias = (out.weight.double() @ value.bias.double() + out.bias.double()).to(self.dtype)
        null = block.cross_out(block.key_value(self.network.null_token[0])[:, self.config.width :])[0]
        others = map(self._cast, (block.query, block.cross_out, block.ff[0], block.ff[2]))
        return Stage1Layer((weight, bias), *others, null)

    def text(self, tokens: Tensor, mask: Tensor, keep: Tensor | None = None, merge: bool | None = None) -> Text:
        """tokens (R, L, text_dim), mask (R, L) -> the text's keys and values; samples with keep = False: no text.

        merge: multiply the projections into keys and values; None: where that leaves less to read.
        """
        if merge is None:
            merge = tokens.shape[0] * self.heads * tokens.shape[1] < self.config.width
        tokens = tokens.to(self.network.null_token.dtype)
        if not merge:
            context = self.network.context(tokens, mask, keep)
            keys, values, _ = zip(*context, strict=True)
            return Text(self._stack(keys), self._stack(values), context[0][2][None].to(self.dtype), False)

        def merged(tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            layers = map(self._merged, self.network.blocks, self.network.context(tokens, mask, keep))
            return tuple(map(self._stack, zip(*layers, strict=True)))

        if tokens.is_cuda and keep is None:  # hundreds of small kernels
            merged = CudaGraph.cached(self.graphs, ("text", tokens.shape), merged, ())
        return Text(*merged(tokens, mask), True)

    def _stack(self, layers) -> Tensor:
        return torch.stack(layers).to(self.dtype)

    def _merged(self, block: Stage1Block, context) -> tuple[Tensor, Tensor, Tensor]:
        """A (R, H L, D), C (R, H L, D) and the scores' bias (R, 1, H L) of one layer."""
        keys, values, bias = context
        keys = keys * keys.shape[-1] ** -0.5
        to_scores = block.query.weight.unflatten(0, (self.heads, -1))  # (H, d, D)
        to_output = block.cross_out.weight.T.unflatten(0, (self.heads, -1))  # (H, d, D)
        offset = torch.einsum("rhld,hd->rhl", keys, block.query.bias.unflatten(0, (self.heads, -1)))
        A, C = (keys @ to_scores).flatten(1, 2), (values @ to_output).flatten(1, 2)
        return A, C, (offset + bias[:, 0]).flatten(1)[:, None]

    def at(self, times: Tensor) -> list[Stage1Time]:
        """Everything that depends on time only, for n times (n,) that all samples share."""
        now = self._time(times.to(device=self.mean.device, dtype=self.mean.dtype))
        gains = [None] * len(times) if now.gain is None else now.gain.unbind(0)
        return list(map(Stage1Time, now.modulation.unbind(0), gains))

    def _time(self, t: Tensor) -> Stage1Time:
        features = flow.time_features(t, self.config.width, MAX_TIME_TURNS).to(self.mean.dtype)
        modulation = self.network.time(features).unflatten(-1, (9, -1))
        return Stage1Time(modulation, self.network.gain(t[:, None]) if self.config.gaussian_rank else None)

    def __call__(self, x: Tensor, t: Tensor | Stage1Time, text: Text) -> Tensor:
        """Velocity (B, 512) at x (B, 512); t (B,) or an item of `at`. Samples beyond the text's R have no text."""
        now = t if isinstance(t, Stage1Time) else self._time(t.to(self.mean.dtype))
        modulations = now.modulation + (self.table if now.modulation.dim() == 2 else self.table[:, None])
        h = F.linear(x.to(self.dtype), *self.proj_in).to(x.dtype)
        for i, (layer, modulation) in enumerate(zip(self.layers, modulations.unbind(0), strict=True)):
            bias = text.bias[i % len(text.bias)]
            h = self.block(layer, h, modulation, text.keys[i], text.values[i], bias, text.merged)
        v = F.linear(F.layer_norm(h, h.shape[-1:]).to(self.dtype), *self.proj_out).to(x.dtype)
        return v if now.gain is None else v + self.network.gaussian(x, now.gain.to(x.dtype))

    def _block(self, layer: Stage1Layer, h: Tensor, modulation: Tensor, keys, values, bias, merged: bool) -> Tensor:
        """h (B, D); modulation (9, D) or (B, 9, D); this layer's keys, values and bias of the text."""
        a1, b1, g1, a2, b2, g2, a3, b3, g3 = modulation.unbind(-2)
        h = torch.addcmul(h, g1, F.linear(self._norm(h, a1, b1), *layer.attention).to(h.dtype))
        y = self._norm(h, a2, b2)
        h = torch.addcmul(h, g2, self._cross(layer, y, keys, values, bias, merged).to(h.dtype))
        inner = F.gelu(F.linear(self._norm(h, a3, b3), *layer.ff_in))
        return torch.addcmul(h, g3, F.linear(inner, *layer.ff_out).to(h.dtype))

    def _norm(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Layer norm, then scale and shift, in the products' dtype."""
        if shift.dim() == 1:
            return F.layer_norm(h, h.shape[-1:], scale, shift).to(self.dtype)
        return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), scale).to(self.dtype)

    def _cross(self, layer: Stage1Layer, y: Tensor, keys: Tensor, values: Tensor, bias: Tensor, merged: bool) -> Tensor:
        """Cross-attention of y (B, D) to the text; samples beyond the text's R get the null token's vector."""
        prompts = len(keys)
        if merged:
            scores = torch.baddbmm(bias, y[:prompts, None], keys.transpose(1, 2))  # (R, 1, H L)
            weight = scores.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)
            attended = torch.baddbmm(layer.out[1], weight, values)[:, 0]
        else:
            attended = F.linear(self._attend(F.linear(y[:prompts], *layer.query), keys, values, bias), *layer.out)
        if prompts == len(y):
            return attended
        return torch.cat([attended, layer.null.to(attended.dtype).expand(len(y) - prompts, -1)])

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """query (R, D), keys and values (R, H, L, d), bias (R, 1, 1, L) -> (R, D). Written out on CPUs, where the bits
        of PyTorch's fused attention over one query can depend on the thread.
        """
        query = query.unflatten(-1, (self.heads, 1, -1))
        if len(query) < self.min_written:
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias).flatten(1)
        exact = torch.promote_types(values.dtype, torch.float32)
        query, keys = query.to(exact) * keys.shape[-1] ** -0.5, keys.to(exact)
        weight = ((query * keys).sum(-1) + bias[:, 0]).softmax(-1)  # (R, H, L)
        return (weight[..., None] * values.to(exact)).sum(-2).flatten(1).to(values.dtype)


class GuidedStage1:
    """The guided velocity v(t, x) of one batch for `solve.solve`; conditional and unconditional samples run together.

    text: of the B samples, or of 2 B if the unconditional ones have texts of their own.
    """

    def __init__(self, inference: Stage1Inference, text: Text, scale: float):
        self.inference, self.text, self.scale, self.at = inference, text, scale, inference.at

    def __call__(self, t: Tensor | Stage1Time, x: Tensor) -> Tensor:
        if not x.is_cuda or not isinstance(t, Stage1Time):
            return self._velocity(x, t, self.text)
        merged, tensors = self.text.merged, (self.text.keys, self.text.values, self.text.bias)
        key = (self.scale, merged, x.shape, *(part.shape for part in tensors))

        def velocity(keys, values, bias, x, modulation, gain=None):
            return self._velocity(x, Stage1Time(modulation, gain), Text(keys, values, bias, merged))

        graph = CudaGraph.cached(self.inference.graphs, key, velocity, tensors)
        return graph(x, t.modulation, *([] if t.gain is None else [t.gain]))

    def _velocity(self, x: Tensor, t: Tensor | Stage1Time, text: Text) -> Tensor:
        if self.scale == 1.0:
            return self.inference(x, t, text)
        both = t if isinstance(t, Stage1Time) else torch.cat([t, t])
        return flow.guided(*self.inference(torch.cat([x, x]), both, text).chunk(2), self.scale)
