"""Stage 1 against slow, obvious references: exact in float64, and hardly less exact in float32."""

import dataclasses

import pytest
import torch
from networks import STAGE1, STAGE1_WIDE, B, L, randomise, relative_error, stage1, state_at, texts

from musekit import flow, solve
from musekit.bench.naive import Naive1
from musekit.stage1 import GuidedStage1, Stage1Inference, Text, Text2MuQFlow, TextRegression

NO_GAUSSIAN = dataclasses.replace(STAGE1, gaussian_rank=0)
CLOSE = {"atol": 1e-10, "rtol": 1e-10}
MERGE = pytest.mark.parametrize("merge", [False, True])


def naive_velocity(network: Text2MuQFlow):
    """velocity(x, t, tokens, mask) of the textbook network; the Gaussian part by whole matrices, per sample."""
    config, naive = network.config, Naive1(network)

    def velocity(x, t, tokens, mask):
        v = naive(x, t, tokens, mask)
        if not config.gaussian_rank:
            return v
        basis, variance = network.basis, network.variance
        covariance = (
            torch.diag(variance[-1].expand(config.dim)) + basis.T @ torch.diag(variance[:-1] - variance[-1]) @ basis
        )
        return v + torch.stack([exact_velocity(y, s, covariance) for y, s in zip(x, t)])

    return velocity


def exact_velocity(x, t, covariance):
    """E[x_1 - x_0 | x_t = x] = (t S - (1 - t)) (t^2 S + (1 - t)^2)^-1 x for x_1 ~ N(0, S)."""
    one = torch.eye(len(x), dtype=x.dtype)
    return (t * covariance - (1 - t) * one) @ torch.linalg.solve(t**2 * covariance + (1 - t) ** 2 * one, x)


def naive_guided(network: Text2MuQFlow, scale: float):
    """Classifier-free guidance by two passes, one after the other."""
    velocity = naive_velocity(network)

    def guided(t, x, tokens, mask):
        null, one = network.null_token.expand(len(x), 1, -1), torch.ones(len(x), 1, dtype=torch.bool)
        return flow.guided(velocity(x, t, tokens, mask), velocity(x, t, null, one), scale)

    return guided


def test_the_network_is_the_textbook_transformer():
    """`nn.MultiheadAttention` over a sequence of one token with random queries and keys, and over the text."""
    network, (x, t), (tokens, mask) = stage1(), state_at((STAGE1.dim,)), texts()
    v = network(x, t, network.context(tokens, mask))
    torch.testing.assert_close(v, naive_velocity(network)(x, t, tokens, mask), **CLOSE)


def test_padding_changes_nothing_and_a_dropped_text_is_the_null_token():
    network, (x, t), (tokens, mask) = stage1(), state_at((STAGE1.dim,)), texts()
    v = network(x, t, network.context(tokens, mask))
    other = network.context(tokens.masked_fill(~mask[..., None], 1e3), mask)
    torch.testing.assert_close(network(x, t, other), v, **CLOSE)
    keep = torch.tensor([True, False, True])
    null = naive_velocity(network)(x, t, network.null_token.expand(B, 1, -1), torch.ones(B, 1, dtype=torch.bool))
    dropped = network(x, t, network.context(tokens, mask, keep))
    torch.testing.assert_close(dropped, torch.where(keep[:, None], v, null), **CLOSE)
    assert (v - null).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_no_text_never_rests_on_a_masked_row_of_keys(training, grad):
    """Attention over masked keys only is 0, NaN or something else by mode: "no text" is one visible null token."""
    network, (x, t), (tokens, mask) = stage1().train(training).requires_grad_(grad), state_at((STAGE1.dim,)), texts()
    empty, keep = torch.zeros_like(mask), torch.zeros(B, dtype=torch.bool)
    with torch.set_grad_enabled(grad):
        v = network(x, t, network.context(tokens, empty, keep))
    assert torch.equal(v, network(x, t, network.context(tokens, mask, keep))) and v.isfinite().all()
    if grad:
        v.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_new_network_has_the_exact_velocity_of_gaussian_data():
    network = Text2MuQFlow(dataclasses.replace(STAGE1, gaussian_rank=STAGE1.dim - 1)).double()
    rng = torch.Generator().manual_seed(5)
    directions = torch.linalg.qr(torch.randn(STAGE1.dim, STAGE1.dim, generator=rng, dtype=torch.float64))[0]
    lengths = torch.full((STAGE1.dim,), 0.1, dtype=torch.float64)
    lengths[: STAGE1.gaussian_rank] = torch.linspace(3, 1, STAGE1.gaussian_rank, dtype=torch.float64)
    embeddings = torch.randn(4000, STAGE1.dim, generator=rng, dtype=torch.float64) * lengths @ directions + 2
    network.fit_scale(embeddings)
    covariance = network.standardise(embeddings).T.cov()
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.99, 1.0], dtype=torch.float64)
    x = torch.randn(6, STAGE1.dim, dtype=torch.float64)
    v = network(x, t, network.context(torch.randn(6, L, 12, dtype=torch.float64), torch.ones(6, L, dtype=torch.bool)))
    expected = torch.stack([exact_velocity(y, s, covariance) for y, s in zip(x, t)])
    torch.testing.assert_close(v, expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", [Text2MuQFlow, TextRegression])
def test_gradients_reach_every_weight(kind):
    network, (x, t), (tokens, mask) = randomise(kind(STAGE1), 0.3), state_at((STAGE1.dim,)), texts()
    keep = torch.tensor([True, True, False])
    batch = {"x_0": x, "x_1": x.flip(0), "t": t, "tokens": tokens, "mask": mask, "keep": keep}
    network.training_loss(batch)[0].backward()
    idle = ("null_token", "proj_in.weight") if kind is TextRegression else ()  # it starts from zero, never drops a text
    for name, p in network.named_parameters():
        assert name in idle or (p.grad.isfinite().all() and p.grad.abs().max() > 0), name


@pytest.mark.parametrize("config", [NO_GAUSSIAN, STAGE1], ids=["no gaussian", "gaussian"])
@MERGE
def test_inference_is_the_textbook_network(config, merge):
    """Times that samples share (`at`) and times of their own, with and without text, guidance as one batch or two."""
    network, (x, t), (tokens, mask) = stage1(config), state_at((config.dim,)), texts()
    inference, naive, guided = Stage1Inference(network), naive_velocity(network), naive_guided(network, 3.0)
    text = inference.text(tokens, mask, merge=merge)
    assert text.merged is merge
    torch.testing.assert_close(inference(x, t, text), naive(x, t, tokens, mask), **CLOSE)
    ours = GuidedStage1(inference, text, 3.0)
    torch.testing.assert_close(ours(t, x), guided(t, x, tokens, mask), **CLOSE)
    if not config.gaussian_rank:  # the bench's peer
        torch.testing.assert_close(ours(t, x), Naive1(network).guided(tokens, mask, 3.0)(t, x), **CLOSE)
    for now, shared in zip(ours.at(t), t):
        torch.testing.assert_close(ours(now, x), guided(shared.expand(B), x, tokens, mask), **CLOSE)
        unguided = GuidedStage1(inference, text, 1.0)(now, x)
        torch.testing.assert_close(unguided, naive(x, shared.expand(B), tokens, mask), **CLOSE)


@MERGE
def test_negative_prompts_and_dropped_texts(merge):
    network, (x, t), (tokens, mask) = stage1(), state_at((STAGE1.dim,)), texts()
    inference, naive = Stage1Inference(network), naive_velocity(network)
    negative = tokens.flip(0), mask.flip(0)
    pair = Text.stack(inference.text(tokens, mask, merge=merge), inference.text(*negative, merge=merge))
    expected = flow.guided(naive(x, t, tokens, mask), naive(x, t, *negative), 2.0)
    torch.testing.assert_close(GuidedStage1(inference, pair, 2.0)(t, x), expected, **CLOSE)
    keep = torch.tensor([True, False, True])
    dropped = inference(x, t, inference.text(tokens, mask, keep, merge))
    torch.testing.assert_close(dropped, network(x, t, network.context(tokens, mask, keep)), **CLOSE)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4", "dopri5"])
def test_a_whole_sample_is_the_textbook_networks(solver):
    network, (tokens, mask) = stage1(std=0.1), texts()
    inference, naive, (x_0, _) = Stage1Inference(network), naive_guided(network, 3.0), state_at((STAGE1.dim,))
    slow = solve.solve(lambda t, x: naive(t, x, tokens, mask), x_0, solver=solver, steps=5)
    fast = solve.solve(GuidedStage1(inference, inference.text(tokens, mask), 3.0), x_0, solver=solver, steps=5)
    torch.testing.assert_close(fast.x, slow.x, atol=1e-9, rtol=1e-9)
    assert torch.equal(fast.nfe, slow.nfe)


@MERGE
def test_float32_errs_at_most_three_times_as_much_as_the_textbook_network_and_bfloat16_as_expected(merge):
    exact, single = stage1(STAGE1_WIDE, std=0.05), stage1(STAGE1_WIDE, torch.float32, std=0.05)
    (tokens, mask), (x, t) = texts(STAGE1_WIDE), state_at((STAGE1_WIDE.dim,))
    inputs = tokens.float(), mask
    truth = naive_guided(exact, 3.0)(t, x, tokens, mask)
    naive = relative_error(naive_guided(single, 3.0)(t.float(), x.float(), *inputs), truth)
    errors = []
    for dtype in (torch.float32, torch.bfloat16):
        inference = Stage1Inference(single, dtype)
        v = GuidedStage1(inference, inference.text(*inputs, merge=merge), 3.0)(t.float(), x.float())
        assert v.dtype == torch.float32  # the state and all sums
        errors.append(relative_error(v, truth))
    assert 0 < errors[0] < 3 * naive < 3e-4 and 1e-4 < errors[1] < 3e-2


def test_attention_by_elementwise_kernels_is_attention():
    fused, written, (tokens, mask) = Stage1Inference(stage1()), Stage1Inference(stage1()), texts()
    fused.min_written, (x, t) = 10**6, state_at((STAGE1.dim,))
    text = fused.text(tokens, mask, merge=False)
    torch.testing.assert_close(written(x, t, text), fused(x, t, text), atol=1e-6, rtol=1e-6)  # it sums in float32
