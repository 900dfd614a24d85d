"""Stage 2 against the velocity written out sample by sample: exact in float64, and hardly less exact in float32."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from networks import STABLE_AUDIO, STAGE2, STAGE2_WIDE, B, T, conditions, randomise, relative_error, stage2, state_at

from musekit import flow
from musekit.conditions import GLOBALS, LOCALS
from musekit.flow import time_features
from musekit.stage2 import Condition, ControlInputs, GuidedStage2, StableAudioMuQ, Stage2Inference, rotary, rotate

CLOSE = {"atol": 1e-10, "rtol": 1e-10}
BOTH = pytest.mark.parametrize("config", [STAGE2, STABLE_AUDIO], ids=["modulation", "stable audio"])


def attention(q, k, v):
    """softmax(q k' / sqrt(d)) v for one head; q (T, d), k and v (S, d)."""
    return torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1) @ v


def slow_block(block, h, token, modulation, head_dim):
    """One sample, h (T, D): attention head by head, rotary positions by complex numbers, cross-attention in full."""
    cos, sin = (table[:, head_dim // 4 : head_dim // 2] for table in rotary(len(h), head_dim, h))
    identity = torch.tensor([0.0, 0, 1] * 2)[:, None]
    a1, b1, g1, a2, b2, g2 = identity if modulation is None else modulation + block.scale_shift_table

    def rotated(x):
        pairs = torch.complex(x[:, : head_dim // 4], x[:, head_dim // 4 : head_dim // 2]) * torch.complex(cos, sin)
        return torch.cat([pairs.real, pairs.imag, x[:, head_dim // 2 :]], dim=1)

    heads = [slice(i, i + head_dim) for i in range(0, h.shape[1], head_dim)]
    q, k, v = block.qkv(block.norm_attention(h) * (1 + b1) + a1).chunk(3, dim=1)
    own = block.out(torch.cat([attention(rotated(q[:, s]), rotated(k[:, s]), v[:, s]) for s in heads], dim=1))
    query, key = torch.randn_like(h), torch.randn(1, h.shape[1]).to(h)  # any will do: softmax over one key is 1
    value = block.cross_value(token).view(1, -1, head_dim)
    value = value.repeat_interleave(len(heads) // value.shape[1], dim=1).flatten(1)  # heads share their values
    cross = block.cross_out(torch.cat([attention(query[:, s], key[:, s], value[:, s]) for s in heads], dim=1))
    h = h + cross + g1 * own
    up, gate = block.gate_up(block.norm_ff(h) * (1 + b2) + a2).chunk(2, dim=1)
    return h + g2 * block.down(up * gate * torch.sigmoid(gate))


def slow_velocity(network, x, t, embedding, seconds, keep: bool = True):
    """The velocity at x (B, C, T), t (B,), sample by sample; keep = False: without prompt."""
    config, out = network.config, []
    for x_t, now, prompt, timing in zip(x, t, embedding, seconds):
        token = network.embedding_projection(prompt * config.embedding_dim**0.5) if keep else network.null_token
        z = x_t
        if config.stable_audio:
            s = (now**2 + (1 - now) ** 2).sqrt()
            token, timing, z = network.token(token), network.timing(timing[None])[0], x_t / s
            time = network.time(torch.atan2(1 - now, now)[None] * 2 / math.pi)[0]
        else:
            features = torch.cat([time_features(part[None] / 60, config.width) for part in timing], dim=1)
            timing = network.timing(features.to(x.dtype))[0]
            time = network.time(time_features(now[None], config.width).to(x.dtype))[0]
        modulation = None
        if config.modulation:
            modulation = network.modulation(time + timing + network.modulation_condition(token)).view(6, -1)
        z = F.pad(z, (0, -z.shape[1] % config.patch))
        patches = [z[:, i : i + config.patch].flatten() for i in range(0, z.shape[1], config.patch)]
        h = torch.stack([timing + time, *(network.proj_in(network.preprocess(patch)) for patch in patches)])
        for block in network.blocks:
            h = slow_block(block, h, token, modulation, config.head_dim)
        y = network.postprocess(network.proj_out(network.norm(h[1:])))
        v = torch.cat([patch.view(config.latent_dim, config.patch) for patch in y], dim=1)[:, : x.shape[2]]
        out.append(((2 * now - 1) * x_t - s * v) / s**2 if config.stable_audio else v)
    return torch.stack(out)


@BOTH
def test_training_and_inference_compute_the_velocity_written_out(config):
    """Times that samples share (`at`) and times of their own; without guidance, with it, and with a third condition."""
    network, (x, t), inputs = stage2(config), state_at((config.latent_dim, T)), conditions(config)
    inference, pair = Stage2Inference(network), network.condition_pair(*inputs)
    others = [part.flip(0) for part in inputs]

    def slow(now):
        yes, no = (slow_velocity(network, x, now, *inputs, keep) for keep in (True, False))
        guided = flow.guided(yes, no, 3.0)
        return yes, guided, guided + 0.5 * (yes - slow_velocity(network, x, now, *others, True))

    three = Condition.stack(pair, network.condition(*others))
    kinds = [GuidedStage2(inference, pair, w) for w in (1.0, 3.0)] + [GuidedStage2(inference, three, 3.0, None, 0.5)]
    torch.testing.assert_close(network(x, t, network.condition(*inputs)), slow(t)[0], **CLOSE)
    for ours, expected in zip(kinds, slow(t)):
        torch.testing.assert_close(ours(t, x), expected, **CLOSE)
    for i, shared in enumerate(t):
        for ours, expected in zip(kinds, slow(shared.expand(B))):
            torch.testing.assert_close(ours(ours.at(t)[i], x), expected, **CLOSE)


def test_rotary_positions_are_complex_rotations_of_half_a_head():
    """Pair (i, i + 2) turns by position * 10000^(-2 i / 4); scores then depend on distance only."""
    q, k = torch.randn(2, 8)
    rotated_q, rotated_k = (rotate(z.expand(1, 1, 30, 8), *rotary(30, 8, q))[0, 0] for z in (q, k))
    angle = torch.outer(torch.arange(30.0), 10000.0 ** (-torch.arange(0, 4, 2) / 4))
    pairs = torch.complex(q[:2], q[2:4]) * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([pairs.real, pairs.imag, q[4:].expand(30, 4)], dim=1)
    torch.testing.assert_close(rotated_q, expected, atol=1e-5, rtol=0)
    for distance in (0, 1, 7):
        diagonal = (rotated_q @ rotated_k.T).diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-4


def batch_of(config, frames):
    """A training batch whose samples have that many frames each."""
    (x, t), (embedding, seconds) = state_at((config.latent_dim, T)), conditions(config)
    mask, keep = torch.arange(T)[None] < torch.tensor(frames)[:, None], torch.tensor([True, True, False])
    pair = {"x_0": x.flip(0), "x_1": x, "t": t, "mask": mask}
    return pair | {"embedding": embedding, "seconds": seconds, "keep": keep}


def test_the_loss_is_over_frames_that_exist():
    network, batch = stage2(), batch_of(STAGE2, [T, 4, 1])
    network.std.fill_(2.0)
    network.mean.fill_(-0.5)
    value, metrics = network.training_loss(batch)
    x_1, t = (batch["x_1"] + 0.5) / 2, batch["t"][:, None, None]
    condition = network.condition(batch["embedding"], batch["seconds"], batch["keep"])
    v = network((1 - t) * batch["x_0"] + t * x_1, batch["t"], condition)
    error = (v - (x_1 - batch["x_0"])) ** 2
    expected = (error[0].mean() + error[1, :, :4].mean() + error[2, :, :1].mean()) / 3
    torch.testing.assert_close(value, expected, **CLOSE)
    torch.testing.assert_close(metrics["floor"], flow.gaussian_floor(batch["t"]).mean())


@BOTH
def test_gradients_reach_every_weight_that_has_an_effect(config):
    network = randomise(StableAudioMuQ(config), 0.2)
    network.training_loss(batch_of(config, [T, T, T]))[0].backward()
    idle = {name for name, p in network.named_parameters() if not p.requires_grad}
    expected = {"norm_cross", "cross_query", "cross_key"} if config.stable_audio else set()
    assert {name.split(".")[2] for name in idle} == expected
    for name, p in network.named_parameters():
        assert name in idle or (p.grad.isfinite().all() and p.grad.abs().max() > 0), name


@BOTH
def test_negative_prompts_replace_the_null_token(config):
    network, (embedding, seconds) = stage2(config), conditions(config)
    null = network.condition(embedding, seconds, torch.zeros(B, dtype=torch.bool))
    conditional, negated = (network.condition(e, seconds) for e in (embedding, embedding.flip(0)))
    for negative, other in ((embedding.flip(0), negated), (None, null)):
        for got, *halves in zip(network.condition_pair(embedding, seconds, negative)[:3], conditional, other):
            torch.testing.assert_close(got, torch.cat(halves), **CLOSE)


def test_float32_errs_at_most_three_times_as_much_as_the_slow_way_and_bfloat16_no_more_than_autocast():
    exact, single = stage2(STAGE2_WIDE, std=0.08), stage2(STAGE2_WIDE, torch.float32, std=0.08)
    (x, t), inputs = state_at((4, T), torch.float32), conditions(STAGE2_WIDE, torch.float32)
    truth = slow_velocity(exact, x.double(), t.double(), *(part.double() for part in inputs))
    slow = relative_error(slow_velocity(single, x, t, *inputs), truth)
    condition = single.condition(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = relative_error(single(x, t, single.condition(*inputs)), truth)
    results = [GuidedStage2(Stage2Inference(single, d), condition, 1.0)(t, x) for d in (torch.float32, torch.bfloat16)]
    assert all(v.dtype == torch.float32 for v in results)
    fast, half = (relative_error(v, truth) for v in results)
    assert 0 < fast < 3 * slow < 3e-4 and 1e-4 < half < 1.5 * autocast


CONTROLLED = dataclasses.replace(STAGE2, controls=True)


def controls_of(config, frames: int = T) -> ControlInputs:
    rng = torch.Generator().manual_seed(3)
    shapes = (B, GLOBALS), (B, frames, LOCALS), (B, config.latent_dim, frames)
    of_piece, of_frames, x_1 = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return ControlInputs(of_piece, of_frames, torch.arange(frames)[None] < torch.tensor([[0], [4], [7]]), x_1)


def test_controls_begin_as_todays_function_and_absent_ones_change_no_bit():
    """Weights without controls are a beginning for a network with them, whose new layers give exactly zero."""
    old, (x, t), inputs = stage2(dtype=torch.float32), state_at((4, T), torch.float32), conditions(dtype=torch.float32)
    new, some = StableAudioMuQ(CONTROLLED), controls_of(STAGE2)
    missing, unexpected = new.load_state_dict(old.state_dict(), strict=False)
    assert not unexpected and all(name.startswith(("control_", "readout", "tempo", "harmony")) for name in missing)
    some = ControlInputs(*(part.float() if part.is_floating_point() else part for part in some[:4]))
    expected = old(x, t, old.condition(*inputs))
    assert torch.equal(new(x, t, new.condition(*inputs, None, some)), expected)
    trained = randomise(StableAudioMuQ(CONTROLLED), 0.2, torch.float32)
    trained.load_state_dict(old.state_dict(), strict=False)
    absent = ControlInputs(*map(torch.zeros_like, some[:4]))
    for controls in (None, absent):
        assert torch.equal(trained(x, t, trained.condition(*inputs, None, controls)), expected)
    assert not torch.equal(trained(x, t, trained.condition(*inputs, None, some)), expected)


def test_controls_enter_the_tokens_of_their_frames_and_the_loss_is_over_frames_that_are_not_given():
    network, batch = stage2(CONTROLLED), batch_of(CONTROLLED, [T, T, T])
    some = controls_of(CONTROLLED)
    local = network.local(some)
    for token in range(T // 2):  # two frames a token
        frames = slice(2 * token, 2 * token + 2)
        known = torch.cat([some.given[:, frames, None], (some.given[:, None] * some.x_1)[:, :, frames].mT], 2)
        expected = network.control_frames(some.of_frames[:, frames].flatten(1))
        torch.testing.assert_close(local[:, token], expected + network.control_given(known.flatten(1)), **CLOSE)
    told = {"of_piece": some.of_piece, "of_frames": some.of_frames, "given": some.given}
    network.std.copy_(torch.tensor([4.0, 1.0, 2.0, 1.0])[:, None])  # and a channel's weight is its deviation
    value, _ = network.training_loss(batch | told)
    x_1 = batch["x_1"] / network.std
    x_t, u = flow.interpolate(batch["x_0"], x_1, batch["t"])
    condition = network.condition(batch["embedding"], batch["seconds"], batch["keep"], some._replace(x_1=x_1))
    error = (network(x_t, batch["t"], condition) - u) ** 2 * torch.tensor([2.0, 0.5, 1.0, 0.5])[:, None]
    expected = sum(error[i][:, ~some.given[i]].mean() for i in range(B)) / B
    torch.testing.assert_close(value, expected, **CLOSE)


def test_guidance_is_on_the_controls_too_but_not_on_given_frames():
    network, inputs, some = stage2(CONTROLLED), conditions(CONTROLLED), controls_of(CONTROLLED)
    nobody = torch.zeros(B, dtype=torch.bool)
    bare = some._replace(of_piece=0 * some.of_piece, of_frames=0 * some.of_frames)
    pair, halves = network.condition_pair(*inputs, controls=some), ((None, some), (nobody, bare))
    expected = Condition.stack(*(network.condition(*inputs, keep, controls) for keep, controls in halves))
    for got, wanted in zip(pair, expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)
    assert not torch.equal(*pair.local.chunk(2)) and some.given.any()


def test_noise_belongs_to_its_key_and_embeddings_are_read_by_regression():
    x = torch.empty(3, 400, 12)
    noise = flow.keyed_noise([5, 2**62, 7], x)
    assert torch.equal(noise[2:], flow.keyed_noise([7], x[:1])) and abs(noise.std() - 1) < 0.02
    network, embeddings = StableAudioMuQ(CONTROLLED), F.normalize(noise[0], dim=1)
    bpm, metre = 120 * 2 ** (2 * embeddings[:, 0] + 0.1 * noise[1, :, 0]), torch.full((400,), 3)
    key = torch.where(embeddings[:, 1] > 0.03, 14, torch.where(embeddings[:, 1] < -0.03, 5, -1))
    network.fit_readout(embeddings, bpm, metre, key)
    assert network.readout[0, 0] == pytest.approx(2, abs=0.1) and network.tempo_spread == pytest.approx(0.1, abs=0.02)
    _, metres, keys = network.read(embeddings)
    assert (metres.argmax(1) == 2).all() and (keys.argmax(1) == key)[key >= 0].float().mean() > 0.9  # three beats
