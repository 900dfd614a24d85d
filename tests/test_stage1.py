"""Stage 1's shortcuts against slow, obvious references, in float64."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from musekit import flow
from musekit.config import Stage1Config, mini, smoke
from musekit.layers import time_features
from musekit.solve import solve
from musekit.stage1 import GuidedStage1, Stage1Block, Stage1Inference, Text2MuQFlow, TextRegression, modulate

CONFIG = Stage1Config(dim=24, text_dim=12, width=32, depth=3, heads=4, ff_mult=2, gaussian_rank=5)
ALL_LEARNED = dataclasses.replace(CONFIG, gaussian_rank=0)
B, L = 5, 7


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, every weight random: zero-initialised layers would hide mistakes."""
    torch.manual_seed(seed)
    for p in network.parameters():
        nn.init.normal_(p, std=0.3)
    network.double().eval()
    if hasattr(network, "fit_scale"):
        network.fit_scale(
            torch.randn(60, CONFIG.dim, dtype=torch.float64) @ torch.randn(CONFIG.dim, CONFIG.dim).double()
        )
    return network


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    lengths = torch.tensor([7, 1, 3, 5, 2])
    return {
        "x": torch.randn(B, CONFIG.dim, dtype=torch.float64),
        "t": torch.rand(B, dtype=torch.float64),
        "tokens": torch.randn(B, L, CONFIG.text_dim, dtype=torch.float64),
        "mask": torch.arange(L)[None] < lengths[:, None],
    }


def attention(heads: int, width: int, kdim: int, value, out, query=None, key=None) -> nn.MultiheadAttention:
    """torch's own multi-head attention carrying our projections; query and key are random where not given."""
    reference = nn.MultiheadAttention(width, heads, kdim=kdim, vdim=kdim, batch_first=True).double().eval()
    for p in reference.parameters():
        nn.init.normal_(p)
    weights = dict(reference.named_parameters())
    with torch.no_grad():
        if "in_proj_weight" in weights:
            parts = dict(zip("qkv", weights["in_proj_weight"].view(3, width, -1)))
        else:
            parts = {c: weights[f"{c}_proj_weight"] for c in "qkv"}
        for name, layer in (("q", query), ("k", key), ("v", value)):
            if layer is not None:
                parts[name].copy_(layer[0])
                reference.in_proj_bias.view(3, -1)["qkv".index(name)].copy_(layer[1])
        reference.out_proj.weight.copy_(out.weight)
        reference.out_proj.bias.copy_(out.bias)
    return reference


def linear(layer: nn.Linear, rows: slice = slice(None)):
    return layer.weight[rows], layer.bias[rows]


def test_a_block_is_self_attention_cross_attention_and_feed_forward(inputs):
    """Over a sequence of one token, whatever the self-attention's queries and keys are."""
    block = lively(Stage1Block(CONFIG))
    x = torch.randn(B, CONFIG.width, dtype=torch.float64)
    modulation = torch.randn(B, 9, CONFIG.width, dtype=torch.float64)
    bias = torch.zeros(B, L, dtype=torch.float64).masked_fill(~inputs["mask"], -math.inf)[:, None, None]
    ours = block(x, modulation, (*block.keys_values(inputs["tokens"]), bias))

    w = CONFIG.width
    to_self = attention(4, w, w, linear(block.self_value), block.self_out)
    keys, values = slice(None, w), slice(w, None)
    to_text = attention(
        4, w, CONFIG.text_dim,
        query=linear(block.query), key=linear(block.key_value, keys),
        value=linear(block.key_value, values), out=block.cross_out,
    )  # fmt: skip
    shift, scale, gate = [(modulation + block.scale_shift_table)[:, i::3, None] for i in range(3)]  # each (B, 3, 1, D)
    y = x[:, None]  # a sequence of one token

    def norm(i):
        return F.layer_norm(y, [w]) * (1 + scale[:, i]) + shift[:, i]

    y = y + gate[:, 0] * to_self(norm(0), norm(0), norm(0))[0]
    y = y + gate[:, 1] * to_text(norm(1), inputs["tokens"], inputs["tokens"], key_padding_mask=~inputs["mask"])[0]
    y = y + gate[:, 2] * block.ff(norm(2))
    torch.testing.assert_close(ours, y[:, 0], atol=1e-10, rtol=0)


def test_padding_tokens_change_nothing(inputs):
    network = lively(Text2MuQFlow(CONFIG))
    first = network(inputs["x"], inputs["t"], network.context(inputs["tokens"], inputs["mask"]))
    other = torch.where(inputs["mask"][..., None], inputs["tokens"], torch.full((), 1e3, dtype=torch.float64))
    again = network(inputs["x"], inputs["t"], network.context(other, inputs["mask"]))
    torch.testing.assert_close(first, again, atol=1e-10, rtol=0)
    cut = network.context(inputs["tokens"][1:2, :1], inputs["mask"][1:2, :1])  # a text of one token, unpadded
    torch.testing.assert_close(first[1:2], network(inputs["x"][1:2], inputs["t"][1:2], cut), atol=1e-10, rtol=0)


def test_a_dropped_condition_is_the_null_token_alone(inputs):
    network = lively(Text2MuQFlow(CONFIG))
    keep = torch.tensor([True, False, True, False, False])
    mixed = network(inputs["x"], inputs["t"], network.context(inputs["tokens"], inputs["mask"], keep))
    cond = network(inputs["x"], inputs["t"], network.context(inputs["tokens"], inputs["mask"]))
    null = network.null_token.expand(B, 1, -1)
    uncond = network(inputs["x"], inputs["t"], network.context(null, torch.ones(B, 1, dtype=torch.bool)))
    torch.testing.assert_close(mixed, torch.where(keep[:, None], cond, uncond), atol=1e-10, rtol=0)
    assert (cond - uncond).abs().min(1).values.gt(0).all()


def test_guidance_in_one_batch_equals_two_calls(inputs):
    """The sampler's batch of conditional and unconditional rows, against a call each, row by row."""
    network, w = lively(Text2MuQFlow(CONFIG)), 3.0
    cond = network.context(inputs["tokens"], inputs["mask"])
    uncond = network.context(inputs["tokens"], inputs["mask"], torch.zeros(B, dtype=torch.bool))
    both = [tuple(torch.cat(pair) for pair in zip(a, b)) for a, b in zip(cond, uncond)]
    v = network(torch.cat([inputs["x"]] * 2), torch.cat([inputs["t"]] * 2), both)
    together = flow.guided(*v.chunk(2), w)
    for i in range(B):
        row = slice(i, i + 1)
        context = network.context(inputs["tokens"][row], inputs["mask"][row])
        null = network.context(network.null_token.detach(), torch.ones(1, 1, dtype=torch.bool))
        v_cond = network(inputs["x"][row], inputs["t"][row], context)
        v_uncond = network(inputs["x"][row], inputs["t"][row], null)
        torch.testing.assert_close(together[row], v_uncond + w * (v_cond - v_uncond), atol=1e-10, rtol=0)


def test_a_rows_bits_do_not_depend_on_its_place_or_its_mates():
    torch.manual_seed(0)
    config = dataclasses.replace(mini().stage1)
    network = Text2MuQFlow(config).eval()
    nn.init.normal_(network.proj_out.weight, std=0.02)
    x, t = torch.randn(4, 512), torch.full((4,), 0.3)
    tokens, mask = torch.randn(4, 32, 384), torch.arange(32)[None].expand(4, 32) < 9

    def run(order):
        return network(x[order], t, network.context(tokens[order], mask[order]))

    with torch.inference_mode():
        first = run([0, 1, 2, 3])
        assert torch.equal(run([3, 2, 1, 0]), first.flip(0))
        assert torch.equal(run([2, 2, 2, 2]), first[[2, 2, 2, 2]])


def test_time_features_are_the_sinusoids_they_say():
    t = torch.tensor([0.0, 0.25, 1.0])
    features = time_features(t, 8)
    turns = [1000 ** (k / 3) for k in range(4)]
    for row, now in zip(features, t.tolist()):
        expected = [math.cos(2 * math.pi * f * now) for f in turns] + [math.sin(2 * math.pi * f * now) for f in turns]
        torch.testing.assert_close(row, torch.tensor(expected), atol=2e-3, rtol=0)  # float32 angles up to 2 pi 1000


def test_modulate_is_an_affine_layer_norm():
    x, shift, scale = torch.randn(3, 4, 16).unbind(0)
    centred = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(modulate(x, shift, scale), centred * (1 + scale) + shift)


def stretched(n: int, config: Stage1Config = CONFIG) -> torch.Tensor:
    """Gaussian embeddings (n, D) whose standardised covariance has `gaussian_rank` long directions and equal others."""
    rng = torch.Generator().manual_seed(5)
    directions = torch.linalg.qr(torch.randn(config.dim, config.dim, generator=rng, dtype=torch.float64))[0]
    lengths = torch.ones(config.dim, dtype=torch.float64) * 0.1
    lengths[: config.gaussian_rank] = torch.linspace(3, 1, config.gaussian_rank, dtype=torch.float64)
    return torch.randn(n, config.dim, generator=rng, dtype=torch.float64) * lengths @ directions + 2


def test_a_new_network_says_the_exact_velocity_of_gaussian_data():
    """E[x_1 - x_0 | x_t = x] = (t S - (1 - t)) (t^2 S + (1 - t)^2)^-1 x, written with whole matrices."""
    network = Text2MuQFlow(dataclasses.replace(CONFIG, gaussian_rank=CONFIG.dim - 1)).double()
    embeddings = stretched(4000)
    network.fit_scale(embeddings)
    S, one = network.standardise(embeddings).T.cov(), torch.eye(CONFIG.dim, dtype=torch.float64)
    x = torch.randn(6, CONFIG.dim, dtype=torch.float64)
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.99, 1.0], dtype=torch.float64)
    context = network.context(torch.randn(6, L, 12, dtype=torch.float64), torch.ones(6, L, dtype=torch.bool))
    v = network(x, t, context)
    for row, now in enumerate(t):
        exact = (now * S - (1 - now) * one) @ torch.linalg.solve(now**2 * S + (1 - now) ** 2 * one, x[row])
        torch.testing.assert_close(v[row], exact, atol=1e-8, rtol=1e-8)


def test_a_new_network_already_samples_the_gaussian_of_its_data():
    network = Text2MuQFlow(CONFIG).double()
    embeddings = stretched(20_000)
    network.fit_scale(embeddings)
    n = 3000
    one_token = torch.zeros(1, 1, 12, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    context = [tuple(c.expand(n, *c.shape[1:]) for c in layer) for layer in network.context(*one_token)]
    x_0 = torch.randn(n, CONFIG.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        end = solve(lambda t, x: network(x, t, context), x_0, solver="heun", steps=30).x
    wanted = network.standardise(embeddings).T.cov()
    assert (end.T.cov() - wanted).norm() / wanted.norm() < 0.1
    assert end.mean(0).abs().max() < 0.1


def test_without_the_gaussian_part_a_new_network_says_zero_and_its_loss_is_that_of_zero():
    torch.manual_seed(0)
    network = Text2MuQFlow(ALL_LEARNED)
    batch = {
        "x_0": torch.randn(64, CONFIG.dim),
        "x_1": torch.randn(64, CONFIG.dim) * 0.1 + 2,
        "t": torch.rand(64),
        "tokens": torch.randn(64, L, CONFIG.text_dim).half(),
        "mask": torch.ones(64, L, dtype=torch.bool),
        "keep": torch.rand(64) > 0.1,
    }
    network.fit_scale(batch["x_1"])
    value, metrics = network.training_loss(batch)
    x_1 = (batch["x_1"] - batch["x_1"].mean(0)) / batch["x_1"].std(0)
    u = x_1 - batch["x_0"]
    torch.testing.assert_close(value, (u**2).mean())
    torch.testing.assert_close(metrics["unscaled"], ((u * batch["x_1"].std(0)) ** 2).mean())
    t = batch["t"]
    torch.testing.assert_close(metrics["floor"], (1 / ((1 - t) ** 2 + t**2)).mean())


@pytest.mark.parametrize("kind", [Text2MuQFlow, TextRegression])
def test_gradients_reach_every_weight(kind, inputs):
    network = lively(kind(CONFIG))
    batch = {**inputs, "x_0": inputs["x"], "x_1": inputs["x"].flip(0), "keep": torch.tensor([True] * 4 + [False])}
    network.training_loss(batch)[0].backward()
    for name, p in network.named_parameters():
        if kind is TextRegression and name in ("null_token", "proj_in.weight"):
            continue  # regression never drops its text, and always starts from zero
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_standardising_is_undone_and_ends_on_the_sphere():
    network = Text2MuQFlow(CONFIG)
    embeddings = F.normalize(torch.randn(500, CONFIG.dim) + torch.randn(CONFIG.dim), dim=-1)
    network.fit_scale(embeddings)
    x = network.standardise(embeddings)
    assert x.mean(0).abs().max() < 1e-4 and (x.std(0) - 1).abs().max() < 1e-3
    torch.testing.assert_close(network.embedding(x), embeddings, atol=1e-5, rtol=0)
    assert torch.allclose(network.embedding(torch.randn(9, CONFIG.dim)).norm(dim=-1), torch.ones(9))


def test_constant_coordinates_do_not_divide_by_zero():
    network = Text2MuQFlow(CONFIG)
    network.fit_scale(torch.ones(10, CONFIG.dim))
    assert network.standardise(torch.ones(2, CONFIG.dim)).isfinite().all()


def test_regression_predicts_the_raw_mean_of_its_loss(inputs):
    network = lively(TextRegression(CONFIG))
    network.std.fill_(0.5)
    network.mean.fill_(0.1)
    answer = network.predict(inputs["tokens"], inputs["mask"])
    value, metrics = network.training_loss({**inputs, "x_1": inputs["x"]})
    torch.testing.assert_close(metrics["unscaled"], ((answer - inputs["x"]) ** 2).mean())
    torch.testing.assert_close(value, 4 * metrics["unscaled"])


def test_saved_and_loaded_weights_are_the_same_network(tmp_path, inputs):
    network = lively(Text2MuQFlow(CONFIG))
    torch.save(network.state_dict(), tmp_path / "x.pt")
    other = Text2MuQFlow(CONFIG).double()
    other.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True))
    context = network.context(inputs["tokens"], inputs["mask"])
    assert torch.equal(network(inputs["x"], inputs["t"], context), other(inputs["x"], inputs["t"], context))
    assert copy.deepcopy(network).state_dict().keys() == other.state_dict().keys()


def test_sizes():
    with torch.device("meta"):
        small, large = (sum(p.numel() for p in Text2MuQFlow(c.stage1).parameters()) for c in (smoke(), mini()))
    assert small < 0.2e6 and 1e6 < large < 5e6


def test_autoguidance_goes_further_from_the_gaussian_and_both_networks_agree():
    network = lively(Text2MuQFlow(CONFIG))
    network.fit_scale(torch.randn(64, CONFIG.dim, dtype=torch.float64))
    tokens, mask = torch.randn(3, L, CONFIG.text_dim, dtype=torch.float64), torch.ones(3, L, dtype=torch.bool)
    x, t = torch.randn(3, CONFIG.dim, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    context, gauss = network.context(tokens, mask), network.gaussian_velocity(x, t)
    learned = network(x, t, context)
    assert torch.equal(network(x, t, context, 1.0), learned) and (learned - gauss).abs().max() > 0.01
    torch.testing.assert_close(network(x, t, context, 0.0), gauss)
    wanted = gauss + 2.5 * (learned - gauss)
    torch.testing.assert_close(network(x, t, context, 2.5), wanted, atol=1e-10, rtol=0)
    fast = Stage1Inference(network)
    text = fast.text(tokens, mask)
    nobody = network(x, t, network.context(tokens, mask, torch.zeros(3, dtype=torch.bool)))
    torch.testing.assert_close(GuidedStage1(fast, text, 1.0, 2.5)(t, x), wanted, atol=1e-10, rtol=0)
    both = gauss + 2.5 * (nobody + 3 * (learned - nobody) - gauss)  # classifier-free guidance first, or last: the same
    torch.testing.assert_close(GuidedStage1(fast, text, 3.0, 2.5)(t, x), both, atol=1e-10, rtol=0)
