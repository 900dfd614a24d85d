"""Stage 2's shortcuts against slow, obvious references, in float64."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from musekit import flow
from musekit.config import Stage2Config, mini, smoke
from musekit.stage2 import StableAudioMuQ, Stage2Block, join, rotary, rotate

CONFIG = Stage2Config(
    latent_dim=4, embedding_dim=12, condition_dim=10, width=32, depth=2, head_dim=8, kv_heads=2, max_frames=19
)
PLAIN = dataclasses.replace(CONFIG, modulation=False, patch=1)
B, T = 3, 11


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, every weight random: zero-initialised layers would hide mistakes."""
    torch.manual_seed(seed)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    return network.double().eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return {
        "x": torch.randn(B, CONFIG.latent_dim, T, dtype=torch.float64),
        "t": torch.rand(B, dtype=torch.float64),
        "embedding": F.normalize(torch.randn(B, CONFIG.embedding_dim, dtype=torch.float64), dim=-1),
        "seconds": torch.tensor([[0.0, 0.5], [1.0, 0.5], [0.0, 12.0]], dtype=torch.float64),
    }


def slow_attention(q, k, v):
    """softmax(q k / sqrt(d)) v for one head, one query at a time; q (T, d), k and v (S, d)."""
    rows = []
    for query in q:
        weight = torch.stack([query @ key for key in k]).div(math.sqrt(q.shape[1])).softmax(0)
        rows.append(sum(w * value for w, value in zip(weight, v)))
    return torch.stack(rows)


def test_cross_attention_to_one_token_is_one_vector():
    """Grouped cross-attention (2 value heads, 4 query heads) with random queries and keys, at every position."""
    block = lively(Stage2Block(CONFIG))
    token, x = torch.randn(B, 10, dtype=torch.float64), torch.randn(B, T, 32, dtype=torch.float64)
    query, key = torch.randn(32, 32, dtype=torch.float64), torch.randn(16, 10, dtype=torch.float64)
    for b in range(B):
        q = (x[b] @ query.T).unflatten(-1, (4, 8))  # (T, heads, 8)
        k = (token[b] @ key.T).unflatten(-1, (2, 8))
        v = block.cross_value(token[b]).unflatten(-1, (2, 8))
        heads = [slow_attention(q[:, h], k[None, h // 2], v[None, h // 2]) for h in range(4)]
        expected = block.cross_out(torch.cat(heads, dim=-1))  # (T, D)
        torch.testing.assert_close(block.cross_vector(token[b : b + 1]).expand(T, 32), expected, atol=1e-10, rtol=0)


def test_it_is_what_torchs_grouped_attention_gives():
    block = lively(Stage2Block(CONFIG))
    token = torch.randn(B, 10, dtype=torch.float64)
    q = torch.randn(B, 4, T, 8, dtype=torch.float64)
    k = torch.randn(B, 2, 1, 8, dtype=torch.float64)
    v = block.cross_value(token).unflatten(-1, (2, 1, 8))
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
    ours = block.cross_vector(token)[:, None].expand(B, T, 32)
    torch.testing.assert_close(ours, block.cross_out(y), atol=1e-10, rtol=0)


def turn_as_complex(x, tokens, dim):
    """Rotary positions written as complex numbers: pair (i, i + dim / 2) turns by position * 10000^(-2 i / dim)."""
    pairs = torch.complex(x[..., : dim // 2], x[..., dim // 2 : dim])
    angle = torch.outer(torch.arange(tokens, dtype=torch.float64), 10000.0 ** (-torch.arange(0, dim, 2).double() / dim))
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag, x[..., dim:]], dim=-1)


@pytest.mark.parametrize("config", [CONFIG, PLAIN], ids=["modulation", "plain"])
def test_a_block_against_one_written_out(config):
    block = lively(Stage2Block(config))
    x, cross = torch.randn(B, T, 32, dtype=torch.float64), torch.randn(B, 32, dtype=torch.float64)
    modulation = torch.randn(B, 6, 32, dtype=torch.float64) if config.modulation else None
    ours = block(x, cross, rotary(T, 8, x), modulation)
    for b in range(B):
        row = modulation[b] + block.table if config.modulation else torch.tensor([0.0, 0, 1] * 2)[:, None]
        a1, b1, g1, a2, b2, g2 = row
        y = F.layer_norm(x[b], [32], block.norm_attention.weight, block.norm_attention.bias) * (1 + b1) + a1
        q, k, v = (y @ block.qkv.weight.T).unflatten(-1, (3, 4, 8)).unbind(1)  # (T, heads, 8)
        q, k = (turn_as_complex(z.transpose(0, 1), T, 4) for z in (q, k))
        heads = torch.cat([slow_attention(q[h], k[h], v[:, h]) for h in range(4)], dim=-1)
        z = x[b] + g1 * (heads @ block.out.weight.T) + cross[b]
        y = F.layer_norm(z, [32], block.norm_ff.weight, block.norm_ff.bias) * (1 + b2) + a2
        up, gate = block.gate_up(y).chunk(2, dim=-1)
        z = z + g2 * block.down(up * gate * torch.sigmoid(gate))
        torch.testing.assert_close(ours[b], z, atol=2e-5, rtol=0)  # rotary angles are float32


def test_a_blocks_algebra_is_exact_in_float64_without_positions():
    """Cross-attention written as attention, self-attention as torch's, 1e-10: only angles were inexact above."""
    block = lively(Stage2Block(PLAIN))
    x, token = torch.randn(B, T, 32, dtype=torch.float64), torch.randn(B, 10, dtype=torch.float64)
    ones, zeros = torch.ones(T, 8, dtype=torch.float64), torch.zeros(T, 8, dtype=torch.float64)
    ours = block(x, block.cross_vector(token), (ones, zeros), None)

    y = block.norm_attention(x)
    reference = nn.MultiheadAttention(32, 4, bias=False, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.qkv.weight)
        reference.out_proj.weight.copy_(block.out.weight)
    z = x + reference(y, y, y)[0]
    q = torch.randn(B, 4, T, 8, dtype=torch.float64)
    k, v = torch.randn(B, 2, 1, 8, dtype=torch.float64), block.cross_value(token).unflatten(-1, (2, 1, 8))
    crossed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)
    z = z + block.cross_out(crossed)
    up, gate = block.gate_up(block.norm_ff(z)).chunk(2, dim=-1)
    torch.testing.assert_close(ours, z + block.down(up * F.silu(gate)), atol=1e-10, rtol=0)


def test_rotary_scores_depend_on_distance_alone_and_keep_lengths():
    q, k = torch.randn(2, 8)
    cos_sin = rotary(30, 8, q)
    turned_q, turned_k = (rotate(z.expand(1, 1, 30, 8), *cos_sin)[0, 0] for z in (q, k))
    score = turned_q @ turned_k.T
    for distance in (0, 1, 7):
        diagonal = score.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-4
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(30))
    torch.testing.assert_close(turned_q[:, 4:], q[4:].expand(30, 4))  # half of the head carries no position
    torch.testing.assert_close(turned_q, turn_as_complex(q.double().expand(30, 8), 30, 4).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 10, 11])
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patching_keeps_every_frame_in_its_place(frames, patch):
    """With identity blocks, the network is a linear map within each patch: frames of others do not leak."""
    config = dataclasses.replace(CONFIG, patch=patch, depth=1)
    network = lively(StableAudioMuQ(config))
    network.blocks = nn.ModuleList()
    x, t = torch.randn(1, 4, frames, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    condition = network.condition(torch.randn(1, 12, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))
    condition = dataclasses.replace(condition, cross=[])
    v = network(x, t, condition)
    assert v.shape == x.shape
    for frame in range(frames):
        other = x.clone()
        other[..., frame] += 1
        moved = (network(other, t, condition) - v).abs().amax((0, 1)) > 1e-9
        mine = torch.arange(frames) // patch == frame // patch
        assert torch.equal(moved, mine)


def test_guidance_in_one_batch_equals_two_calls(inputs):
    """The sampler's batch of conditional and unconditional rows, against a call each, row by row."""
    network, w = lively(StableAudioMuQ(CONFIG)), 3.0
    cond = network.condition(inputs["embedding"], inputs["seconds"])
    dropped = torch.zeros(B, dtype=torch.bool)
    both = join(cond, network.condition(torch.zeros_like(inputs["embedding"]), inputs["seconds"], dropped))
    assert both.rows() == 2 * B
    v = network(torch.cat([inputs["x"]] * 2), torch.cat([inputs["t"]] * 2), both)
    together = flow.guided(*v.chunk(2), w)
    for i in range(B):
        row = slice(i, i + 1)
        x, t, seconds = inputs["x"][row], inputs["t"][row], inputs["seconds"][row]
        v_cond = network(x, t, network.condition(inputs["embedding"][row], seconds))
        anything = torch.randn(1, CONFIG.embedding_dim, dtype=torch.float64)
        v_uncond = network(x, t, network.condition(anything, seconds, torch.tensor([False])))
        torch.testing.assert_close(together[row], v_uncond + w * (v_cond - v_uncond), atol=1e-10, rtol=0)
        assert (v_cond - v_uncond).abs().max() > 1e-3


def test_every_part_of_the_condition_matters(inputs):
    network = lively(StableAudioMuQ(CONFIG))

    def run(t=inputs["t"], embedding=inputs["embedding"], seconds=inputs["seconds"]):
        return network(inputs["x"], t, network.condition(embedding, seconds))

    first = run()
    assert (run(t=inputs["t"] + 0.1) - first).abs().amax((1, 2)).min() > 1e-3
    assert (run(embedding=inputs["embedding"].flip(0)) - first).abs().amax((1, 2))[[0, 2]].min() > 1e-3
    for change in ([1.0, 0.0], [0.0, 1.0]):
        assert (run(seconds=inputs["seconds"] + torch.tensor(change)) - first).abs().amax((1, 2)).min() > 1e-3


def test_a_rows_bits_do_not_depend_on_its_place_or_its_mates():
    torch.manual_seed(0)
    network = StableAudioMuQ(dataclasses.replace(mini().stage2, depth=2)).eval()
    nn.init.normal_(network.leave.weight, std=0.02)
    x, t = torch.randn(4, 64, 43), torch.full((4,), 0.3)
    embedding, seconds = F.normalize(torch.randn(4, 512), dim=-1), torch.tensor([[0.0, 2.0]]).expand(4, 2)

    def run(order):
        return network(x[order], t, network.condition(embedding[order], seconds))

    with torch.inference_mode():
        first = run([0, 1, 2, 3])
        assert torch.equal(run([3, 2, 1, 0]), first.flip(0))
        assert torch.equal(run([2, 2, 2, 2]), first[[2, 2, 2, 2]])


def batch_of(inputs, frames_kept):
    mask = torch.arange(T)[None] < torch.tensor(frames_kept)[:, None]
    pairs = {"x_0": inputs["x"].flip(0), "x_1": inputs["x"]}
    return {**inputs, **pairs, "mask": mask, "keep": torch.tensor([True, True, False])}


def test_the_loss_is_over_frames_that_exist(inputs):
    network = lively(StableAudioMuQ(CONFIG))
    network.std.fill_(2.0)
    network.mean.fill_(-0.5)
    batch = batch_of(inputs, [T, 4, 1])
    value, metrics = network.training_loss(batch)
    x_1 = (batch["x_1"] + 0.5) / 2
    t = batch["t"][:, None, None]
    condition = network.condition(batch["embedding"], batch["seconds"], batch["keep"])
    v = network((1 - t) * batch["x_0"] + t * x_1, batch["t"], condition)
    error = (v - (x_1 - batch["x_0"])) ** 2
    expected = (error[0].mean() + error[1, :, :4].mean() + error[2, :, :1].mean()) / 3
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(metrics["floor"], flow.gaussian_floor(batch["t"]).mean())


@pytest.mark.parametrize("config", [CONFIG, PLAIN], ids=["modulation", "plain"])
def test_gradients_reach_every_weight(config, inputs):
    network = lively(StableAudioMuQ(config))
    network.training_loss(batch_of(inputs, [T, T, T]))[0].backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_a_new_network_says_zero(inputs):
    network = StableAudioMuQ(CONFIG).double()
    v = network(inputs["x"], inputs["t"], network.condition(inputs["embedding"], inputs["seconds"]))
    assert not v.any()


def test_standardising_is_undone():
    network = StableAudioMuQ(CONFIG)
    latents = torch.randn(400, 4) * torch.tensor([0.1, 1.0, 5.0, 2.0]) + torch.tensor([0.0, 1.0, -3.0, 9.0])
    network.fit_scale(latents)
    x = network.standardise(latents.T[None])
    assert x.mean((0, 2)).abs().max() < 1e-4 and (x.std((0, 2)) - 1).abs().max() < 1e-3
    torch.testing.assert_close(network.latents(x), latents.T[None])


def test_sizes():
    with torch.device("meta"):
        small, large = (sum(p.numel() for p in StableAudioMuQ(c.stage2).parameters()) for c in (smoke(), mini()))
    assert small < 0.3e6 and 7e6 < large < 30e6
