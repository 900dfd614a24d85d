"""Sampling's shortcuts against the slow, obvious way: exact in float64, and hardly less exact in float32."""

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from musekit import flow, solve
from musekit.bench.naive import Naive1
from musekit.config import Stage1Config, Stage2Config
from musekit.inference.packed import FEW, Packed, has_bfloat16
from musekit.stage1 import GuidedStage1, Stage1Inference, join
from musekit.stage2 import GuidedStage2, Stage2Inference
from musekit.stage1 import Text2MuQFlow, time_features
from musekit.stage2 import StableAudioMuQ, rotary
from musekit.stage2 import join as join_conditions

CONFIG = Stage1Config(dim=24, text_dim=12, width=32, depth=3, heads=4, ff_mult=4, gaussian_rank=0)
GAUSSIAN = dataclasses.replace(CONFIG, gaussian_rank=5)
B, L = 3, 7


def stage1(config: Stage1Config = CONFIG, dtype=torch.float64, std: float = 0.3, seed: int = 0) -> Text2MuQFlow:
    """Every weight random: layers that start at zero would hide mistakes."""
    torch.manual_seed(seed)
    network = Text2MuQFlow(config)
    for p in network.parameters():
        nn.init.normal_(p, std=std)
    network.double().fit_scale(torch.randn(60, config.dim).double() @ torch.randn(config.dim, config.dim).double())
    return network.to(dtype).eval().requires_grad_(False)


def prompts(dtype=torch.float64, width: int = CONFIG.text_dim, length: int = L):
    """Token states (B, L, D) and masks of texts of different lengths."""
    rng = torch.Generator().manual_seed(1)
    lengths = torch.tensor([length, 1, 3])
    return torch.randn(B, length, width, generator=rng).to(dtype), torch.arange(length)[None] < lengths[:, None]


def original(network: Text2MuQFlow):
    """velocity(x, t, tokens, mask) of the naive design, nothing cached; the Gaussian part row by row."""
    config, naive = network.config, Naive1(network)

    def velocity(x, t, tokens, mask):
        v = naive(x, t, tokens, mask)
        if not config.gaussian_rank:
            return v
        basis, spread = network.basis, network.variance
        full = torch.diag(spread[-1].expand(config.dim)) + basis.T @ torch.diag(spread[:-1] - spread[-1]) @ basis
        one = torch.eye(config.dim, dtype=x.dtype)
        exact = [
            (s * full - (1 - s) * one) @ torch.linalg.solve(s**2 * full + (1 - s) ** 2 * one, y) for s, y in zip(t, x)
        ]
        return v + torch.stack(exact)

    return velocity


def guided(network: Text2MuQFlow, scale: float):
    """The naive design's guidance: two passes, one after the other."""
    velocity, null = original(network), network.null.expand(B, 1, -1)

    def both(t, x, tokens, mask):
        v_cond = velocity(x, t, tokens, mask)
        return flow.guided(v_cond, velocity(x, t, null, torch.ones(B, 1, dtype=torch.bool)), scale)

    return both


@pytest.mark.parametrize("config", [CONFIG, GAUSSIAN], ids=["plain", "gaussian"])
@pytest.mark.parametrize("merge", [False, True])
def test_stage_1_prepared_is_the_naive_design_to_ten_digits(config, merge):
    """Times that rows share (`at`) and times of their own, with and without text, guidance in one batch or in two."""
    network = stage1(config)
    fast, (tokens, mask) = Stage1Inference(network), prompts()
    x, t = torch.randn(B, config.dim, dtype=torch.float64), torch.tensor([0.2, 0.7, 0.99], dtype=torch.float64)
    slow, text = original(network), fast.text(tokens, mask, merge=merge)
    assert text.merged is merge
    torch.testing.assert_close(fast(x, t, text), slow(x, t, tokens, mask), atol=1e-10, rtol=1e-10)
    naive, ours = guided(network, 3.0), GuidedStage1(fast, text, 3.0)
    torch.testing.assert_close(ours(t, x), naive(t, x, tokens, mask), atol=1e-10, rtol=1e-10)
    for moment, now in zip(ours.at(t), t):
        torch.testing.assert_close(ours(moment, x), naive(now.expand(B), x, tokens, mask), atol=1e-10, rtol=1e-10)
        alone = GuidedStage1(fast, text, 1.0)(moment, x)
        torch.testing.assert_close(alone, slow(x, now.expand(B), tokens, mask), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("merge", [False, True])
def test_negative_prompts_and_dropped_ones_are_texts_too(merge):
    network = stage1()
    fast, (tokens, mask), slow = Stage1Inference(network), prompts(), original(network)
    x, t = torch.randn(B, CONFIG.dim, dtype=torch.float64), torch.rand(B, dtype=torch.float64)
    other, hidden = tokens.flip(0), mask.flip(0)
    text = join(fast.text(tokens, mask, merge=merge), fast.text(other, hidden, merge=merge))
    wanted = flow.guided(slow(x, t, tokens, mask), slow(x, t, other, hidden), 2.0)
    torch.testing.assert_close(GuidedStage1(fast, text, 2.0)(t, x), wanted, atol=1e-10, rtol=1e-10)
    keep = torch.tensor([True, False, True])
    dropped = fast(x, t, fast.text(tokens, mask, keep, merge))
    wanted = torch.where(
        keep[:, None], slow(x, t, tokens, mask), slow(x, t, network.null.expand(B, 1, -1), mask[:, :1])
    )
    torch.testing.assert_close(dropped, wanted, atol=1e-10, rtol=1e-10)


def test_merging_is_chosen_where_it_leaves_less_to_read():
    fast = Stage1Inference(stage1())
    tokens, mask = prompts()
    assert fast.text(tokens[:1], mask[:1]).merged  # 1 row * 4 heads * 7 tokens = 28 < 32
    assert not fast.text(tokens, mask).merged


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "dopri5"])
def test_a_whole_sample_is_the_naive_designs(solver):
    network = stage1(GAUSSIAN, std=0.1)
    fast, (tokens, mask) = Stage1Inference(network), prompts()
    naive, x_0 = guided(network, 3.0), torch.randn(B, CONFIG.dim, dtype=torch.float64)
    slow = solve.solve(lambda t, x: naive(t, x, tokens, mask), x_0, solver=solver, steps=5)
    quick = solve.solve(GuidedStage1(fast, fast.text(tokens, mask), 3.0), x_0, solver=solver, steps=5)
    torch.testing.assert_close(quick.x, slow.x, atol=1e-9, rtol=1e-9)
    assert torch.equal(quick.nfe, slow.nfe)


def test_a_grids_time_embeddings_are_computed_once(monkeypatch):
    network = stage1(dtype=torch.float32)
    fast, (tokens, mask), calls = Stage1Inference(network), prompts(torch.float32), []
    network.time.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    solve.solve(GuidedStage1(fast, fast.text(tokens, mask), 3.0), torch.randn(B, CONFIG.dim), solver="euler", steps=9)
    assert calls == [9]  # nine times in one call; not one call a step, not two rows a sample
    calls.clear()
    solve.solve(GuidedStage1(fast, fast.text(tokens, mask), 3.0), torch.randn(B, CONFIG.dim), solver="rk4", steps=2)
    assert calls == [3, 2]  # ends and middles


WIDE = Stage1Config(dim=64, text_dim=48, width=256, depth=4, heads=8, ff_mult=4, gaussian_rank=0)


@pytest.mark.parametrize("merge", [False, True])
def test_float32_errs_at_most_three_times_as_much_as_the_naive_design(merge):
    exact, single = stage1(WIDE, std=0.05), stage1(WIDE, torch.float32, std=0.05)
    tokens, mask = prompts(width=WIDE.text_dim)
    x, t = torch.randn(B, WIDE.dim, dtype=torch.float64), torch.rand(B, dtype=torch.float64)
    t = t.float().double()
    truth = guided(exact, 3.0)(t, x, tokens, mask)
    naive = guided(single, 3.0)(t.float(), x.float(), tokens.float(), mask)
    fast = Stage1Inference(single)
    quick = GuidedStage1(fast, fast.text(tokens.float(), mask, merge=merge), 3.0)(t.float(), x.float())
    bound, error = ((y.double() - truth).norm() / truth.norm() for y in (naive, quick))
    assert 0 < error < 3 * bound and error < 1e-4


def test_bfloat16_weights_err_as_bfloat16_does():
    exact, single = stage1(WIDE, std=0.05), stage1(WIDE, torch.float32, std=0.05)
    tokens, mask = prompts(width=WIDE.text_dim)
    x, t = torch.randn(B, WIDE.dim, dtype=torch.float64), torch.rand(B, dtype=torch.float64)
    truth = original(exact)(x, t, tokens, mask)
    fast = Stage1Inference(single, torch.bfloat16)
    half = fast(x.float(), t.float(), fast.text(tokens.float(), mask))
    assert half.dtype == torch.float32  # what is added up stays float32
    assert 1e-4 < (half.double() - truth).norm() / truth.norm() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size, merge", [*itertools.product([1, 2, 4, 8], [False, True])])
def test_a_row_of_stage_1_depends_on_neither_its_place_nor_its_mates(dtype, size, merge):
    fast = Stage1Inference(stage1(WIDE, torch.float32, std=0.05), dtype)
    rng = torch.Generator().manual_seed(3)
    tokens, mask = torch.randn(size, L, WIDE.text_dim, generator=rng), torch.ones(size, L, dtype=torch.bool)
    x = torch.randn(size, WIDE.dim, generator=rng)

    def run(order):
        velocity = GuidedStage1(fast, fast.text(tokens[order], mask[order], merge=merge), 3.0)
        return solve.solve(velocity, x[order], solver="euler", steps=3).x

    first = run(list(range(size)))
    assert torch.equal(run(list(range(size))[::-1]), first.flip(0))
    assert torch.equal(run([size - 1] * size), first[[size - 1] * size])


# Stage 2 ------------------------------------------------------------------------------------------------------------

MODULATED = Stage2Config(
    latent_dim=4, embedding_dim=12, condition_dim=10, width=32, depth=3, head_dim=8, kv_heads=2, patch=2, max_frames=19
)
STABLE = dataclasses.replace(
    MODULATED, modulation=False, patch=1, stable_audio=True, ff_mult=4.0, time_dim=6, number_dim=8, max_seconds=64.0
)
BOTH = pytest.mark.parametrize("config", [MODULATED, STABLE], ids=["modulated", "stable audio"])
T = 11


def stage2(config: Stage2Config, dtype=torch.float64, std: float = 0.2) -> StableAudioMuQ:
    torch.manual_seed(0)
    network = StableAudioMuQ(config)
    for p in network.parameters():
        nn.init.normal_(p, std=std)
    return network.to(dtype).eval().requires_grad_(False)


def conditions(network: StableAudioMuQ, rows: int = B):
    """Embeddings (B, 512), seconds (B, 2), and the joined conditional and unconditional rows' Condition."""
    rng = torch.Generator().manual_seed(2)
    embedding = F.normalize(torch.randn(rows, network.config.embedding_dim, generator=rng, dtype=torch.float64), dim=-1)
    seconds = torch.tensor([[0.0, 0.5]], dtype=torch.float64).expand(rows, 2)
    embedding, seconds = embedding.to(network.mean.dtype), seconds.to(network.mean.dtype)
    nobody = torch.zeros(rows, dtype=torch.bool)
    both = [network.condition(embedding, seconds), network.condition(embedding, seconds, nobody)]
    return embedding, seconds, join_conditions(*both)


def slow_block(block, h, now, token, modulation, head_dim):
    """One row, h (T, D): attention head by head, positions turned as complex numbers, cross-attention as attention."""
    cos, sin = (table[:, head_dim // 4 : head_dim // 2] for table in rotary(len(h), head_dim, h))
    a1, b1, g1, a2, b2, g2 = torch.tensor([0.0, 0, 1] * 2)[:, None] if modulation is None else modulation + block.table

    def turned(x):
        pairs = torch.complex(x[:, : head_dim // 4], x[:, head_dim // 4 : head_dim // 2]) * torch.complex(cos, sin)
        return torch.cat([pairs.real, pairs.imag, x[:, head_dim // 2 :]], dim=1)

    def attention(q, k, v):
        return torch.softmax(q @ k.T / head_dim**0.5, dim=1) @ v

    y = block.norm_attention(h) * (1 + b1) + a1
    q, k, v = block.qkv(y).chunk(3, dim=1)
    heads = [slice(i, i + head_dim) for i in range(0, h.shape[1], head_dim)]
    own = block.out(torch.cat([attention(turned(q[:, s]), turned(k[:, s]), v[:, s]) for s in heads], dim=1))
    torch.manual_seed(5)
    query, key = torch.randn_like(h), torch.randn(1, h.shape[1]).to(h)  # whatever they are: there is one key
    value = block.cross_value(token)[None].unflatten(1, (-1, head_dim))
    value = value.repeat_interleave(block.repeat, dim=1).flatten(1)
    cross = block.cross_out(torch.cat([attention(query[:, s], key[:, s], value[:, s]) for s in heads], dim=1))
    h = h + cross + g1 * own
    up, gate = block.gate_up(block.norm_ff(h) * (1 + b2) + a2).chunk(2, dim=1)
    return h + g2 * block.down(up * gate * torch.sigmoid(gate))


def slow_stage2(network, x, t, embedding, seconds, kept: bool):
    """The velocity written out row by row, nothing shared and nothing kept; x (B, C, T), t (B,)."""
    config, out = network.config, []
    for row, now, said, when in zip(x, t, embedding, seconds):
        token = network.embedding_projection(said * config.embedding_dim**0.5) if kept else network.null
        if config.stable_audio:
            s = (now**2 + (1 - now) ** 2).sqrt()
            token, timing = network.token(token), network.timing(when[None])[0]
            time, z = network.time(torch.atan2(1 - now, now)[None] * 2 / torch.pi)[0], row / s
        else:
            features = torch.cat([time_features(part[None] / 60, config.width) for part in when], dim=1)
            timing = network.timing(features.to(x.dtype))[0]
            time, z = network.time(time_features(now[None], config.width).to(x.dtype))[0], row
        modulation = None
        if config.modulation:
            modulation = network.modulation(time + timing + network.modulation_condition(token)).view(6, -1)
        z = F.pad(z, (0, -z.shape[1] % config.patch))
        pieces = [z[:, i : i + config.patch].flatten() for i in range(0, z.shape[1], config.patch)]
        h = torch.stack([timing + time, *(network.enter(network.before(piece)) for piece in pieces)])
        for block in network.blocks:
            h = slow_block(block, h, now, token, modulation, config.head_dim)
        said = network.after(network.leave(network.norm(h[1:])))
        v = torch.cat([piece.view(config.latent_dim, config.patch) for piece in said], dim=1)[:, : row.shape[1]]
        out.append(((2 * now - 1) * row - s * v) / s**2 if config.stable_audio else v)
    return torch.stack(out)


@BOTH
def test_stage_2_prepared_is_the_velocity_written_out_to_ten_digits(config):
    """Times that rows share and times of their own, alone and guided."""
    network = stage2(config)
    fast, (embedding, seconds, condition) = Stage2Inference(network), conditions(network)
    x = torch.randn(B, config.latent_dim, T, dtype=torch.float64)
    t = torch.tensor([0.2, 0.7, 0.99], dtype=torch.float64)

    def slow(now):
        yes, no = (slow_stage2(network, x, now, embedding, seconds, kept) for kept in (True, False))
        return yes, flow.guided(yes, no, 3.0)

    alone, guided_ = GuidedStage2(fast, condition, 1.0), GuidedStage2(fast, condition, 3.0)
    for ours, wanted in zip((alone, guided_), slow(t)):
        torch.testing.assert_close(ours(t, x), wanted, atol=1e-10, rtol=1e-10)
    for moments in zip(alone.at(t), guided_.at(t), t):
        for ours, moment, wanted in zip((alone, guided_), moments, slow(moments[2].expand(B))):
            torch.testing.assert_close(ours(moment, x), wanted, atol=1e-10, rtol=1e-10)


@BOTH
@pytest.mark.parametrize("solver", ["heun", "rk4", "dopri5"])
def test_a_whole_sample_of_stage_2_is_the_trained_networks(config, solver):
    network = stage2(config, std=0.1)
    fast, (_, _, condition) = Stage2Inference(network), conditions(network)
    x_0 = torch.randn(B, config.latent_dim, T, dtype=torch.float64)

    def velocity(t, x):
        return flow.guided(*network(torch.cat([x, x]), torch.cat([t, t]), condition).chunk(2), 3.0)

    slow, quick = (solve.solve(v, x_0, solver=solver, steps=4) for v in (velocity, GuidedStage2(fast, condition, 3.0)))
    torch.testing.assert_close(quick.x, slow.x, atol=1e-9, rtol=1e-9)
    assert torch.equal(quick.nfe, slow.nfe)


@BOTH
def test_guidance_on_an_interval_is_guidance_there_and_none_elsewhere(config):
    network = stage2(config)
    fast, (_, _, condition) = Stage2Inference(network), conditions(network)
    x = torch.randn(B, config.latent_dim, T, dtype=torch.float64)
    never, always = GuidedStage2(fast, condition, 1.0), GuidedStage2(fast, condition, 3.0)
    some = GuidedStage2(fast, condition, 3.0, (0.2, 0.6))
    times = torch.tensor([0.1, 0.2, 0.6, 0.61], dtype=torch.float64)
    for moment, like in zip(some.at(times), (never, always, always, never)):
        torch.testing.assert_close(some(moment, x), like(moment, x), atol=1e-10, rtol=1e-10)
        t = torch.full((B,), moment.t, dtype=torch.float64)  # an adaptive solver's rows have times of their own
        torch.testing.assert_close(some(t, x), like(t, x), atol=1e-10, rtol=1e-10)
    mixed = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    wanted = torch.stack([never(mixed, x)[0], always(mixed, x)[1], never(mixed, x)[2]])
    torch.testing.assert_close(some(mixed, x), wanted, atol=1e-10, rtol=1e-10)


BROAD = dataclasses.replace(MODULATED, width=128, head_dim=32, kv_heads=1, embedding_dim=24, condition_dim=32, depth=4)


def test_float32_of_stage_2_errs_at_most_three_times_as_much_as_the_slow_way():
    exact, single = stage2(BROAD, std=0.08), stage2(BROAD, torch.float32, std=0.08)
    embedding, seconds, _ = conditions(single)
    x, t = torch.randn(B, 4, T), torch.tensor([0.2, 0.6, 0.9])
    truth, naive = (
        slow_stage2(n, x.to(d), t.to(d), embedding.to(d), seconds.to(d), True)
        for n, d in ((exact, torch.float64), (single, torch.float32))
    )
    quick = GuidedStage2(Stage2Inference(single), single.condition(embedding, seconds), 1.0)(t, x)
    bound, error = ((y.double() - truth).norm() / truth.norm() for y in (naive, quick))
    assert 0 < error < 3 * bound and error < 1e-4


def test_bfloat16_of_stage_2_errs_no_more_than_autocast_did():
    exact, single = stage2(BROAD, std=0.08), stage2(BROAD, torch.float32, std=0.08)
    embedding, seconds, _ = conditions(single)
    x, t = torch.randn(B, 4, T), torch.tensor([0.2, 0.6, 0.9])
    truth = slow_stage2(exact, x.double(), t.double(), embedding.double(), seconds.double(), True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = single(x, t, single.condition(embedding, seconds)).float()
    half = GuidedStage2(Stage2Inference(single, torch.bfloat16), single.condition(embedding, seconds), 1.0)(t, x)
    assert half.dtype == torch.float32
    bound, error = ((y.double() - truth).norm() / truth.norm() for y in (cast, half))
    assert 1e-4 < error < 1.5 * bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_row_of_stage_2_depends_on_neither_its_place_nor_its_mates(dtype, size):
    network = stage2(BROAD, torch.float32, std=0.08)
    fast, (embedding, seconds, _) = Stage2Inference(network, dtype), conditions(network, size)
    x, nobody = torch.randn(size, 4, T), torch.zeros(size, dtype=torch.bool)

    def run(order):
        yes = network.condition(embedding[order], seconds[order])
        velocity = GuidedStage2(fast, join_conditions(yes, network.condition(embedding, seconds, nobody)), 3.0)
        return solve.solve(velocity, x[order], solver="euler", steps=3).x

    first = run(list(range(size)))
    assert torch.equal(run(list(range(size))[::-1]), first.flip(0))
    assert torch.equal(run([size - 1] * size), first[[size - 1] * size])


# What both stand on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (FEW,), (FEW + 1,), (40,), (3, 5)], ids=str)
def test_a_packed_layer_is_the_layer(dtype, error, bias, shape):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 96, bias=bias).double(), torch.randn(*shape, 64, dtype=torch.float64)
    wanted, packed = layer(x), Packed.of(layer, dtype)
    for _ in range(2):  # the second call finds the weights packed
        y = packed(x.to(dtype))
        assert y.dtype == dtype and y.shape == wanted.shape
        assert (y.double() - wanted).norm() / wanted.norm() < error


def test_a_layout_is_made_anew_for_another_number_of_rows():
    """A row's bits must not depend on what was computed before."""
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 32), torch.randn(40, 32)
    for dtype in (torch.float32, torch.bfloat16):
        used, fresh = Packed.of(layer, dtype), Packed.of(layer, dtype)
        used(x.to(dtype))
        assert torch.equal(used(x[:9].to(dtype)), fresh(x[:9].to(dtype)))


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 products")
def test_bfloat16_weights_are_packed_here():
    packed = Packed.of(nn.Linear(8, 8), torch.bfloat16)
    packed(torch.randn(3, 8).bfloat16())
    assert packed.onednn and packed.kept is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_threads_share_a_packed_layer(dtype):
    """Studio and Lab sample at the same time, each with its own number of rows."""
    torch.manual_seed(0)
    packed, some = Packed.of(nn.Linear(320, 960), dtype), [torch.randn(n, 320).to(dtype) for n in (65, 258)]
    wanted = [packed(x) for x in some]

    def often(x: torch.Tensor, y: torch.Tensor) -> bool:
        return all(torch.equal(packed(x), y) for _ in range(100))

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(often, some, wanted))


def test_two_threads_turn_by_their_own_lengths(smoke_weights):
    """A length that another thread puts in between takes nobody's tables away."""
    from musekit.muse import Muse

    class Forgetful(dict):
        def __contains__(self, tokens):  # between looking and reading, another thread's length comes
            there = super().__contains__(tokens)
            prepared.turns = Forgetful()
            return there

    prepared = Muse.from_pretrained(smoke_weights).inference2
    like = torch.zeros(1)
    tables = prepared._turn(5, like)
    prepared.turns = Forgetful(prepared.turns)
    assert all(torch.equal(a, b) for a, b in zip(prepared._turn(5, like), tables, strict=True))


@pytest.mark.parametrize(("device", "together"), [("cuda", 1), ("cpu", 2)])
def test_threads_sample_in_turn_on_a_gpu_and_together_on_a_cpu(device, together):
    """Recorded graphs share their memory; a CPU's packed layers do not."""
    from musekit.system import in_turn

    class There:
        def __init__(self):
            self.device, self.turn, self.inside, self.most = torch.device(device), threading.RLock(), 0, 0

        @in_turn
        def sample(self):
            self.inside += 1
            time.sleep(0.3)
            self.most = max(self.most, self.inside)
            self.inside -= 1

    there = There()
    with ThreadPoolExecutor(2) as threads:
        for job in [threads.submit(there.sample) for _ in range(2)]:
            job.result()
    assert there.most == together


def test_a_gpus_kernels_are_the_same_velocity():
    """Triton's interpreter runs on a CPU what a GPU runs."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    here = Path(__file__)
    code = f"import sys; sys.path.insert(0, {str(here.parent)!r}); import test_fast; test_fast.interpreted()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=here.parents[1]
    )
    assert done.returncode == 0, done.stderr[-3000:]


def interpreted():
    """Run by the test above in a process where Triton interprets."""
    from musekit.inference import kernels

    even = dataclasses.replace(CONFIG, width=16, depth=2, ff_mult=2)  # layer 2 reads what layer 1 wrote
    odd = dataclasses.replace(CONFIG, depth=1, width=12, heads=3, ff_mult=2)
    for config, rows, more in ((even, 1, 1), (odd, B, B)):  # rows with and without text
        fast, (tokens, mask) = Stage1Inference(stage1(config, torch.float32, std=0.2)), prompts(torch.float32)
        text, moment = fast.text(tokens[:rows], mask[:rows], merge=True), fast.at(torch.tensor([0.3]))[0]
        x = torch.randn(rows + more, config.dim)
        ours = kernels.velocity(fast, x, moment.modulation + fast.table, text)
        torch.testing.assert_close(ours, fast(x, moment, text), atol=1e-5, rtol=1e-5)


def test_attention_written_out_for_many_rows_is_attention():
    network = stage1()
    fast, written, (tokens, mask) = Stage1Inference(network), Stage1Inference(network), prompts()
    written.many = 1
    x, t = torch.randn(B, CONFIG.dim, dtype=torch.float64), torch.full((B,), 0.3, dtype=torch.float64)
    text = fast.text(tokens, mask, merge=False)
    torch.testing.assert_close(written(x, t, text), fast(x, t, text), atol=1e-6, rtol=1e-6)  # it sums in float32


@BOTH
def test_a_block_out_of_place_is_the_block(config):
    """How a GPU turns queries and keys."""
    network = stage2(config, torch.float64)
    fast, apart, (embedding, seconds, _) = Stage2Inference(network), Stage2Inference(network), conditions(network)
    apart.apart = True
    x, held = torch.randn(B, config.latent_dim, T, dtype=torch.float64), network.condition(embedding, seconds)
    moment = GuidedStage2(fast, held, 1.0).at(torch.tensor([0.4]))[0]
    torch.testing.assert_close(apart(x, moment, held), fast(x, moment, held), atol=1e-10, rtol=1e-10)


def test_a_compiled_function_falls_back_where_nothing_compiles(monkeypatch):
    from musekit.gpu import Compiled

    def broken(*_, **__):
        def call(*arguments):
            raise torch._dynamo.exc.TorchDynamoException("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    slow = Compiled(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="no compiler"):
        assert slow(3) == 6
    assert slow(4) == 8


@pytest.mark.gpu
@BOTH
def test_a_recorded_graph_of_stage_2_is_the_velocity_it_recorded(config):
    network = stage2(config, torch.float32).cuda()
    fast, (embedding, seconds, _) = Stage2Inference(network), conditions(network.cpu())
    network.cuda()
    x = torch.randn(2, B, config.latent_dim, T, device="cuda")
    for said in (embedding, embedding.flip(0)):
        ours = GuidedStage2(fast, network.condition(said.cuda(), seconds.cuda()), 1.0)
        for moment, place in itertools.product(ours.at(torch.tensor([0.1, 0.6])), x):
            plain = ours._velocity(place, moment, ours.condition, False)
            torch.testing.assert_close(ours(moment, place), plain, atol=1e-4, rtol=1e-4)
    assert len(fast.recorded) == 1


def test_a_recording_is_of_as_many_rows_as_it_is_given():
    """Texts of 2 B rows are those of 2 B pieces, or of B with a negative prompt each: two recordings."""
    fast, (tokens, mask) = Stage1Inference(stage1()), prompts()
    text = fast.text(tokens, mask)
    both, x = GuidedStage1(fast, join(text, text), 3.0), torch.zeros(2 * B, CONFIG.dim)
    assert both._recorded(x) is both._recorded(x.clone())
    assert both._recorded(x) is not both._recorded(x[:B]) and len(fast.recorded) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("merge", [False, True])
def test_a_recorded_graph_is_the_velocity_it_recorded(merge):
    """For two prompts and several moments, so that what is copied in before a launch is seen to be."""
    network = stage1(WIDE, torch.float32, std=0.05).cuda()
    fast, (tokens, mask) = Stage1Inference(network), prompts(torch.float32, WIDE.text_dim)
    x = torch.randn(2, B, WIDE.dim, device="cuda")
    for said in (tokens, tokens.flip(0)):
        text = fast.text(said.cuda(), mask.cuda(), merge=merge)
        ours = GuidedStage1(fast, text, 3.0)
        moments = ours.at(torch.tensor([0.1, 0.6]))
        for moment, place in itertools.product(moments, x):
            torch.testing.assert_close(ours(moment, place), ours._velocity(place, moment, text), atol=1e-5, rtol=1e-5)
    assert len(fast.recorded) == 1


def test_settings_and_recipes_know_the_new_choices_and_old_recipes_keep_their_meaning(smoke_weights):
    """Guidance on an interval and Stage 1 in bfloat16 are off by default; a recipe from before has neither field."""
    import json

    from musekit.config import MuseError
    from musekit.muse import Muse, Settings
    from musekit.recipe import Recipe

    muse, half = Muse.from_pretrained(smoke_weights), Muse.from_pretrained(smoke_weights, stage1_dtype="bfloat16")
    plain = muse.recipe("a piano", 0, Settings(seconds=0.5))
    old = {
        k: v
        for k, v in json.loads(plain.to_json()).items()
        if k not in ("guidance_low", "guidance_high", "stage1_dtype")
    }
    assert Recipe.from_json(json.dumps(old)) == plain
    some = muse.recipe("a piano", 0, Settings(seconds=0.5, guidance_low=0.3, guidance_high=0.7))
    assert (some.guidance_low, some.guidance_high, some.stage1_dtype) == (0.3, 0.7, "float32")
    first, second = next(muse.stream([plain])), next(muse.stream([some]))
    assert torch.equal(first.embedding, second.embedding) and not torch.equal(first.audio, second.audio)
    rounded = next(half.stream([half.recipe("a piano", 0, Settings(seconds=0.5))]))
    assert rounded.recipe.stage1_dtype == "bfloat16"
    assert 1e-5 < float((rounded.embedding - first.embedding).norm()) < 0.1
    with pytest.raises(MuseError, match="from guidance_low to guidance_high"):
        muse.recipe("a piano", 0, Settings(guidance_low=0.8, guidance_high=0.2))
    with pytest.raises(MuseError, match="unknown dtype 'int8'"):
        Muse.from_pretrained(smoke_weights, stage1_dtype="int8").recipe("a piano", 0, Settings())


def test_rows_with_and_without_a_negative_prompt_keep_their_bits_side_by_side(smoke_weights):
    """Stage 1 with guidance computes both kinds in different ways: they must not share a batch."""
    from musekit.muse import Muse, Settings

    muse = Muse.from_pretrained(smoke_weights)
    settings = Settings(seconds=0.5, micro_batch=4, stage1_guidance_scale=3.0)
    rows = [muse.recipe("a piano", i, settings, negative) for i, negative in enumerate([None, "slow", None, "fast"])]
    together, nfe = muse.embed_rows(rows)
    for i, row in enumerate(rows):
        assert torch.equal(muse.embed_rows([row])[0][0], together[i])
    assert nfe.tolist() == [3] * 4 and len(set(map(tuple, together.tolist()))) == 4


def test_render_wants_a_seed_for_each_embedding(smoke_weights):
    from musekit.config import MuseError
    from musekit.muse import Muse

    muse = Muse.from_pretrained(smoke_weights)
    x = F.normalize(torch.randn(2, 512), dim=-1)
    assert muse.render(x, [3, 4], seconds=0.2).shape == (2, 2, 8820)
    for embeddings, seeds in ((x, [3]), (x, [3, 4, 5]), (x[:0], 0)):
        with pytest.raises(MuseError, match="wants embeddings and a seed for each"):
            muse.render(embeddings, seeds, seconds=0.2)
