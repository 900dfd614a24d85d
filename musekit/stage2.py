"""Stage 2, `StableAudioMuQ`: the velocity of codec latents, given one 512-d joint embedding.

The transformer of Stable Audio Open (Evans et al. 2024, arXiv 2407.14358): a global token that carries time and timing,
self-attention with rotary positions on half of each head, cross-attention to one conditioning token, and SwiGLU.
Softmax over one key is 1, so cross-attention adds one vector to every position, computed once per prompt (`condition`).
The mini preset adds adaLN-single modulation and joins two latent frames per token. The paper preset is Stable Audio
Open's transformer weight for weight (`convert`), with its v-objective converted to our velocity.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import conditions, convert, flow, harmony
from musekit.config import Stage2Config
from musekit.gpu import CudaGraph, compiled


class ControlInputs(NamedTuple):
    """What B samples are given beside embedding and timing (`conditions`); zeros are the same as no controls."""

    of_piece: Tensor  # (B, GLOBALS)
    of_frames: Tensor  # (B, T, LOCALS)
    given: Tensor  # (B, T) bool: frames whose latents are given, to continue or to repaint a piece
    x_1: Tensor  # (B, C, T) standardised latents; only the given frames are read

    @property
    def unguided(self) -> ControlInputs:
        """What the unconditional half of a guided pair has of them: the given frames."""
        return self._replace(of_piece=torch.zeros_like(self.of_piece), of_frames=torch.zeros_like(self.of_frames))


class Condition(NamedTuple):
    """What the network needs of B prompts; it does not change along the ODE."""

    timing: Tensor  # (B, D): the global token without its time
    modulation: Tensor  # (B, D)
    cross: Tensor  # (B, layers, D): each layer's cross-attention output
    local: Tensor | None = None  # (B, tokens, D): what controls add to the tokens of the frames

    @staticmethod
    def stack(*conditions: Condition) -> Condition:
        """The prompts of several conditions as one batch."""
        parts = zip(*conditions, strict=True)
        return Condition(*(part[0] if part[0] is None else torch.cat(part) for part in parts))

    def first(self, n: int) -> Condition:
        """The condition of the first n prompts."""
        return Condition(*(part if part is None else part[:n] for part in self))


class Stage2Time(NamedTuple):
    """What the network needs of one time for all samples, or of one time per sample (then with B in front)."""

    token: Tensor  # (D,) or (B, D): the time's part of the global token
    modulation: Tensor | None  # (B, 6, D); None without adaLN
    affine: Tensor | None  # (3,) or (3, B): input scale, and u = second x + third v; None without the v-objective


def rotary(tokens: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin (tokens, head_dim / 2) of rotary positions (Su et al. 2021, arXiv 2104.09864) for half of each head.
    The sign of the half-turn is in sin.
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
    """softmax(q k' / sqrt(d)) v for (B, H, T, d). Training on a CPU writes it out: torch's kernel is 6 times slower
    backward.
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    shape = q.shape
    q, k, v = (x.reshape(-1, *shape[2:]) for x in (q, k, v))
    zero = torch.zeros((), dtype=q.dtype)
    score = torch.baddbmm(zero, q, k.transpose(1, 2), beta=0, alpha=shape[-1] ** -0.5)
    return torch.bmm(score.softmax(-1), v).view(shape)


def two_layers(inputs: int, width: int, bias: bool) -> nn.Sequential:
    """Linear, SiLU, Linear: (B, inputs) -> (B, width)."""
    return nn.Sequential(nn.Linear(inputs, width, bias=bias), nn.SiLU(), nn.Linear(width, width, bias=bias))


def angles(x: Tensor, frequencies: Tensor) -> Tensor:
    """2 pi x f, (B, F), in at least float32: half precision would lose the phase."""
    exact = torch.promote_types(frequencies.dtype, torch.float32)
    return 2 * math.pi * x.to(exact)[:, None] * frequencies.to(exact)


class TimeToken(nn.Module):
    """Learned Fourier features of Stable Audio Open's time tau (B,), noise at 1 -> (B, D)."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(config.time_dim // 2))  # drawn once, never trained
        self.network = two_layers(config.time_dim, config.width, bias=True)

    def forward(self, tau: Tensor) -> Tensor:
        """tau (B,) -> (B, D)."""
        angle = angles(tau, self.frequencies)
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.network(features.to(self.network[0].weight.dtype))


class NumberEmbedder(nn.Module):
    """A number of seconds (B,) -> (B, condition_dim): itself and its Fourier features, one linear layer."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.max_seconds = config.max_seconds
        self.frequencies = nn.Parameter(torch.randn(config.number_dim // 2))
        self.out = nn.Linear(config.number_dim + 1, config.condition_dim)

    def forward(self, seconds: Tensor) -> Tensor:
        """seconds (B,) -> (B, condition_dim)."""
        x = seconds.clamp(0, self.max_seconds) / self.max_seconds
        angle = angles(x, self.frequencies)
        features = torch.cat([x.to(angle)[:, None], angle.sin(), angle.cos()], dim=-1)
        return self.out(features.to(self.out.weight.dtype))


class TimingToken(nn.Module):
    """Start and total seconds (B, 2) -> (B, D): the part of the global token that does not change along the ODE."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.start, self.total = NumberEmbedder(config), NumberEmbedder(config)
        self.network = two_layers(2 * config.condition_dim, config.width, bias=False)

    def forward(self, seconds: Tensor) -> Tensor:
        """seconds (B, 2) -> (B, D)."""
        start, total = seconds.unbind(1)
        return self.network(torch.cat([self.start(start), self.total(total)], dim=-1))


class Residual(nn.Linear):
    """x + W x, frame by frame: a convolution of width 1 around nothing."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        return x + super().forward(x)


class Stage2Block(nn.Module):
    """Self-attention, the cross-attention vector, SwiGLU; with adaLN-single modulation in the mini preset."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        width, inner = config.width, int(config.ff_mult * config.width)
        self.head_dim = config.head_dim
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.cross_value = nn.Linear(config.condition_dim, config.kv_heads * config.head_dim, bias=False)
        self.cross_out = nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.norm_attention, self.norm_ff = nn.LayerNorm(width), nn.LayerNorm(width)
        # shift, scale and gate of both sublayers; gates start at 1, as in a plain transformer
        gates = torch.tensor([0.0, 0, 1, 0, 0, 1])[:, None].expand(6, width)
        self.scale_shift_table = nn.Parameter(gates.clone()) if config.modulation else None
        self.repeat = width // (config.kv_heads * config.head_dim)  # query heads that share a value head
        if config.stable_audio:  # no effect on one key; kept so that the weights convert back to diffusers
            self.norm_cross = nn.LayerNorm(width).requires_grad_(False)
            self.cross_query = nn.Linear(width, width, bias=False).requires_grad_(False)
            self.cross_key = nn.Linear(*self.cross_value.weight.shape[::-1], bias=False).requires_grad_(False)

    def cross_vector(self, token: Tensor) -> Tensor:
        """Cross-attention to one token (B, condition_dim) -> (B, D), the same at every position."""
        value = self.cross_value(token).unflatten(-1, (-1, self.head_dim))
        return self.cross_out(value.repeat_interleave(self.repeat, dim=1).flatten(1))

    def forward(self, x: Tensor, cross: Tensor, positions: tuple[Tensor, Tensor], modulation: Tensor | None) -> Tensor:
        """x (B, T, D), cross (B, D), rotary positions, modulation (B, 6, D) with scales counted from 1, or None."""
        shift1 = scale1 = gate1 = shift2 = scale2 = gate2 = None
        if modulation is not None:
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation[:, :, None].unbind(1)  # (B, 1, D) each
        y = self.norm_attention(x)
        y = y if modulation is None else torch.addcmul(shift1, y, scale1)
        q, k, v = self.qkv(y).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)  # (B, H, T, head_dim)
        y = self.out(attend(rotate(q, *positions), rotate(k, *positions), v).transpose(1, 2).flatten(2))
        x = x + cross[:, None]
        x = x + y if modulation is None else torch.addcmul(x, gate1, y)
        y = self.norm_ff(x)
        y = y if modulation is None else torch.addcmul(shift2, y, scale2)
        up, gate = self.gate_up(y).chunk(2, dim=-1)
        y = self.down(F.silu(gate) * up)
        return x + y if modulation is None else torch.addcmul(x, gate2, y)


class StableAudioMuQ(nn.Module):
    """v(x_t, t, embedding, seconds): x_t are standardised latents, (B, C, T)."""

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.config = config
        width, channels = config.width, config.latent_dim * config.patch
        self.register_buffer("mean", torch.zeros(config.latent_dim, 1))  # of the training latents, per channel
        self.register_buffer("std", torch.ones(config.latent_dim, 1))
        self.embedding_projection = two_layers(config.embedding_dim, config.condition_dim, bias=True)
        self.null_token = nn.Parameter(torch.randn(config.condition_dim) * 0.02)  # token without prompt
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
        self.proj_in = nn.Linear(channels, width, bias=not config.stable_audio)
        self.blocks = nn.ModuleList(Stage2Block(config) for _ in range(config.depth))
        self.norm = nn.Identity() if config.stable_audio else nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, channels, bias=not config.stable_audio)
        self.preprocess = Residual(channels) if config.stable_audio else nn.Identity()
        self.postprocess = Residual(channels) if config.stable_audio else nn.Identity()
        zeros = [self.proj_out.weight]
        if config.stable_audio:
            zeros += [self.null_token, self.preprocess.weight, self.postprocess.weight]
        else:
            zeros += [self.proj_out.bias]
        if config.controls:  # without bias: absent controls change no bit
            self.control_piece = two_layers(conditions.GLOBALS, width, bias=False)
            self.control_frames = nn.Linear(config.patch * conditions.LOCALS, width, bias=False)
            self.control_given = nn.Linear(config.patch * (1 + config.latent_dim), width, bias=False)
            zeros += [self.control_piece[-1].weight, self.control_frames.weight, self.control_given.weight]
            # log2(bpm / 120), the 12 metres' and the 24 keys' probabilities, by linear regression on embedding and 1;
            # and what is left of log2(bpm / 120), as a standard deviation
            self.register_buffer("readout", torch.zeros(37, config.embedding_dim + 1))
            self.register_buffer("tempo_spread", torch.zeros(()))
            self.register_buffer("harmony", torch.zeros(harmony.SHAPE))
        for zero in zeros:
            nn.init.zeros_(zero)

    def standardise(self, latents: Tensor) -> Tensor:
        """Codec latents -> x_1 with about unit variance per channel."""
        return (latents - self.mean) / self.std

    @property
    def emphasis(self) -> Tensor:
        """Roots of the channels' weights in the loss, (C, 1)."""
        return (self.std / self.std.mean()).sqrt()

    def latents(self, x: Tensor) -> Tensor:
        """x at t = 1 -> codec latents."""
        return x * self.std + self.mean

    def fit_scale(self, latents: Tensor) -> None:
        """Set each channel's mean and standard deviation from training latents (n, C)."""
        self.mean.copy_(latents.mean(0)[:, None])
        self.std.copy_(latents.std(0).clamp_min(1e-4)[:, None])

    def read(self, embeddings: Tensor) -> Sequence[Tensor]:
        """What the read-out says of embeddings (n, 512): tempo (n, 1), metres (n, 12) and keys (n, 24)."""
        read = F.pad(embeddings.double(), (0, 1), value=1.0) @ self.readout.T.to(embeddings.device).double()
        return read.split((1, 12, 24), dim=1)

    def fit_readout(self, embeddings: Tensor, bpm: Tensor, metre: Tensor, key: Tensor) -> None:
        """Regress tempo, metre and key on training embeddings (n, 512); bpm (n,), metre (n,) from 1 to 12, key (n,) of
        `conditions.key_index`."""
        octaves = (bpm / 120).log2()
        x = F.pad(embeddings.double(), (0, 1), value=1.0)
        keys = F.one_hot(key.clamp_min(0), 24) * (key >= 0)[:, None]
        y = torch.cat([octaves[:, None], F.one_hot(metre - 1, 12), keys], 1).double()
        # unit length means 1/sqrt(512) per coordinate: the ridge is that of one clip
        weight = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).to(x) / embeddings.shape[1], x.T @ y).T
        self.readout.copy_(weight)
        self.tempo_spread.copy_((octaves - x @ weight[0]).std())

    def condition(
        self, embedding: Tensor, seconds: Tensor, keep: Tensor | None = None, controls: ControlInputs | None = None
    ) -> Condition:
        """Condition on embedding (B, 512), unit length, seconds (B, 2), start and total, and controls; keep (B,) =
        False: the null token instead of the embedding.
        """
        config = self.config
        # unit length means 1/sqrt(512) per coordinate: scaled to unit variance, as networks expect
        token = self.embedding_projection(embedding * math.sqrt(config.embedding_dim))
        if keep is not None:
            token = torch.where(keep[:, None], token, self.null_token.to(token.dtype))
        if config.stable_audio:
            token, timing = self.token(token), self.timing(seconds)
        else:
            features = [flow.time_features(s / 60.0, config.width) for s in seconds.unbind(1)]
            timing = self.timing(torch.cat(features, dim=-1).to(embedding.dtype))
        local = None
        if controls is not None:  # the timing is part of the modulation as well
            timing, local = timing + self.control_piece(controls.of_piece.to(self.mean.dtype)), self.local(controls)
        modulation = self.modulation_condition(token) if config.modulation else torch.zeros_like(timing)
        return Condition(timing, modulation, torch.stack([b.cross_vector(token) for b in self.blocks], 1), local)

    def local(self, controls: ControlInputs) -> Tensor:
        """What the controls of the frames add to their tokens, (B, tokens, D)."""
        given = controls.given[..., None].to(self.mean.dtype)
        known = torch.cat([given, given * controls.x_1.transpose(1, 2)], dim=-1)
        pairs = (controls.of_frames.to(given), self.control_frames), (known, self.control_given)
        joined = [(F.pad(x, (0, 0, 0, -x.shape[1] % self.config.patch)), layer) for x, layer in pairs]
        return sum(layer(x.unflatten(1, (-1, self.config.patch)).flatten(2)) for x, layer in joined)

    def condition_pair(
        self, embedding: Tensor, seconds: Tensor, negative: Tensor | None = None, controls: ControlInputs | None = None
    ) -> Condition:
        """The 2 B conditions of classifier-free guidance: the B conditional ones, then the B unconditional ones.

        negative (B, 512): embeddings of negative prompts, which replace the null token. The unconditional half has no
        controls either: guidance on the embedding alone leaves music without a beat.
        """
        keep = torch.full((len(embedding),), negative is not None, device=embedding.device)
        other = embedding if negative is None else negative
        halves = (embedding, None, controls), (other, keep, controls and controls.unguided)
        return Condition.stack(*(self.condition(x, seconds, kept, given) for x, kept, given in halves))

    def at(self, t: Tensor) -> Stage2Time:
        """What depends on times t (n,) only, with n in front (`affine`: (3, n))."""
        if not self.config.stable_audio:
            return Stage2Time(self.time(flow.time_features(t, self.config.width).to(self.mean.dtype)), None, None)
        return Stage2Time(self.time(convert.foreign_time(t)), None, convert.affine(t))

    def modulations(self, token: Tensor, condition: Condition) -> Tensor | None:
        """Time tokens (..., B or 1, D) -> adaLN modulation (..., B, 6, D); None where the network has none."""
        if not self.config.modulation:
            return None
        return self.modulation(token + condition.timing + condition.modulation).unflatten(-1, (6, -1))

    def scale_shift_tables(self) -> Tensor | None:
        """All blocks' own modulation (layers, 6, D), its scales counted from 1; None where the network has none."""
        if not self.config.modulation:
            return None
        one = torch.tensor([0.0, 1, 0, 0, 1, 0], dtype=self.mean.dtype, device=self.mean.device)
        return torch.stack([block.scale_shift_table for block in self.blocks]) + one[:, None]

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity (B, C, T) at x (B, C, T), t (B,)."""
        now = self.at(t)
        now = now._replace(modulation=self.modulations(now.token, condition))
        return self.velocity(x, now, condition, self.blocks, self.scale_shift_tables())

    def velocity(
        self, x: Tensor, now: Stage2Time, condition: Condition, blocks: Sequence[Callable[..., Tensor]],
        tables: Tensor | None, dtype: torch.dtype | None = None,
    ) -> Tensor:  # fmt: skip
        """Velocity (B, C, T) at x (B, C, T) by `blocks`, whose own modulation is `tables` (layers, 6, D).

        dtype: of the blocks and the hidden state (None: that of x), since autocast would give the first block another
        one.
        """
        patch, frames = self.config.patch, x.shape[-1]
        h = x if now.affine is None else x * flow.match_dims(now.affine[0], x)
        h = F.pad(h, (0, -frames % patch)).unflatten(-1, (-1, patch)).permute(0, 2, 1, 3).flatten(2)
        h = self.proj_in(self.preprocess(h))  # (B, T / patch, D)
        h = h if condition.local is None else h + condition.local
        h = torch.cat([(condition.timing + now.token)[:, None], h], dim=1)
        h, modulations = h.to(dtype or x.dtype), [None] * len(blocks)
        cross = condition.cross.to(dtype or x.dtype)
        if now.modulation is not None:
            modulations = now.modulation + tables[:, None]  # (layers, B, 6, D)
            modulations = modulations.to(dtype or x.dtype)
        positions = rotary(h.shape[1], self.config.head_dim, h)
        for block, modulation, vector in zip(blocks, modulations, cross.unbind(1), strict=True):
            h = block(h, vector, positions, modulation)
        v = self.postprocess(self.proj_out(self.norm(h[:, 1:].to(x.dtype))))
        v = v.unflatten(-1, (-1, patch)).permute(0, 2, 1, 3).flatten(2)[..., :frames]
        if now.affine is None:
            return v
        return flow.match_dims(now.affine[1], x) * x + flow.match_dims(now.affine[2], x) * v

    def inputs(self, batch: dict) -> tuple[Tensor, Tensor, Tensor, ControlInputs | None]:
        """Of a training batch: noise and standardised latents (B, C, T), frames that are learned (B, T), and controls.

        "x_0" may hold the noise, instead of its keys in "noise".
        """
        x_1, mask, controls = self.standardise(batch["x_1"].to(self.mean.dtype)), batch["mask"], None
        if "given" in batch:
            controls = ControlInputs(batch["of_piece"], batch["of_frames"], batch["given"], x_1)
            mask = mask & ~batch["given"]
        return batch["x_0"] if "x_0" in batch else flow.keyed_noise(batch["noise"], x_1), x_1, mask, controls

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss over the frames that exist and are not given, beside its Gaussian floor.

        A channel's weight is its deviation in units of the codec's tolerance: notes weigh more than texture.
        """
        x_0, x_1, mask, controls = self.inputs(batch)
        x_t, u = flow.interpolate(x_0, x_1, batch["t"])
        v = self(x_t, batch["t"], self.condition(batch["embedding"], batch["seconds"], batch["keep"], controls))
        value = flow.loss(v * self.emphasis, u * self.emphasis, mask).mean()
        return value, {"floor": flow.gaussian_floor(batch["t"]).mean()}


class Stage2Inference:
    """The velocity of a trained `StableAudioMuQ` for sampling: blocks and hidden state in `dtype`."""

    def __init__(self, network: StableAudioMuQ, dtype: torch.dtype | None = None, compile: bool = True):
        self.network, self.config, self.mean = network, network.config, network.mean
        self.dtype = dtype or network.mean.dtype
        with torch.no_grad():
            self.tables = network.scale_shift_tables()
        blocks = network.blocks if self.dtype == self.mean.dtype else copy.deepcopy(network.blocks).to(self.dtype)
        self.blocks = [compiled(block, network) for block in blocks] if compile else list(blocks)
        self.graphs: dict[tuple, CudaGraph] = {}

    def at(self, t: Tensor) -> Stage2Time:
        """What depends on times t (n,) only."""
        return self.network.at(t.to(device=self.mean.device, dtype=self.mean.dtype))

    def __call__(self, x: Tensor, now: Stage2Time, condition: Condition) -> Tensor:
        """Velocity (B, C, T) at x (B, C, T)."""
        return self.network.velocity(x, now, condition, self.blocks, self.tables, self.dtype)


class GuidedStage2:
    """The guided velocity v(t, x) of one batch for `solve.solve`, and `at` for the times of a fixed grid.

    condition: of the B samples, or a `condition_pair`; with control_guidance a third condition, which has no controls,
    stands behind the pair. given: which frames are given (B, 1, T), and their velocity x_1 - x_0 (B, C, T), which keeps
    them on the path that training saw.
    """

    def __init__(
        self, inference: Stage2Inference, condition: Condition, scale: float,
        given: tuple[Tensor, Tensor] | None = None, control_guidance: float = 0.0,
    ):  # fmt: skip
        self.inference, self.condition, self.scale, self.given = inference, condition, scale, given
        self.control_guidance = control_guidance
        self.rows = 3 if control_guidance else 1 if scale == 1.0 else 2  # of the network, for each sample

    def at(self, times: Tensor) -> list[Stage2Time]:
        """Everything that depends on time and prompts only, for n times (n,) that all samples share."""
        now, network = self.inference.at(times), self.inference.network
        modulation = network.modulations(now.token[:, None], self.condition)  # (n, B, 6, D), or None
        affine = None if now.affine is None else now.affine.T
        parts = ([None] * len(times) if part is None else part for part in (modulation, affine))
        return list(map(Stage2Time, now.token, *parts))

    def __call__(self, t: Tensor | Stage2Time, x: Tensor) -> Tensor:
        if isinstance(t, Stage2Time):
            v = self._graph(t, x) if x.is_cuda else self._velocity(x, t, self.condition)
        else:
            v = self._at_own_times(t, x)
        return v if self.given is None else torch.where(self.given[0], self.given[1], v)

    def _graph(self, t: Stage2Time, x: Tensor) -> Tensor:
        """`_velocity` by a recorded CUDA graph."""
        has_modulation, has_affine = t.modulation is not None, t.affine is not None
        fixed = [part for part in self.condition if part is not None]

        def velocity(*tensors: Tensor) -> Tensor:
            condition, (x, token, *of_time) = Condition(*tensors[: len(fixed)]), tensors[len(fixed) :]
            now = Stage2Time(token, of_time[0] if has_modulation else None, of_time[-1] if has_affine else None)
            return self._velocity(x, now, condition)

        key = (self.scale, self.control_guidance, x.shape, len(self.condition.timing), len(fixed))
        graph = CudaGraph.cached(self.inference.graphs, key, velocity, fixed)
        return graph(x, t.token, *(part for part in (t.modulation, t.affine) if part is not None))

    def _velocity(self, x: Tensor, now: Stage2Time, condition: Condition) -> Tensor:
        n = self.rows * len(x)
        modulation = None if now.modulation is None else now.modulation[:n]
        found = self.inference(torch.cat([x] * self.rows), now._replace(modulation=modulation), condition.first(n))
        v, *others = found.chunk(self.rows)
        guided = flow.guided(v, others[0], self.scale) if others else v
        return guided + self.control_guidance * (v - others[1]) if self.control_guidance else guided

    def _at_own_times(self, t: Tensor, x: Tensor) -> Tensor:
        """The velocity at one time per sample, t (B,): for adaptive solvers."""
        now, network = self.inference.at(t), self.inference.network
        token = torch.cat([now.token] * self.rows)
        affine = None if now.affine is None else torch.cat([now.affine] * self.rows, 1)
        modulation = network.modulations(token, self.condition.first(len(token)))
        return self._velocity(x, Stage2Time(token, modulation, affine), self.condition)
