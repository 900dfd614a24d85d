"""The flow against closed forms: Gaussian data, its loss floor, guidance, keyed draws and noise."""

import math

import numpy as np
import pytest
import torch

from musekit import flow
from musekit.solve import solve


def test_path_runs_from_noise_to_data_at_constant_velocity():
    x_0, x_1 = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    start, u = flow.path(x_0, x_1, torch.zeros(3))
    end, _ = flow.path(x_0, x_1, torch.ones(3))
    assert torch.equal(start, x_0) and torch.equal(end, x_1)
    h = 2**-8
    t = torch.tensor([0.25, 0.5, 0.75])
    slope = (flow.path(x_0, x_1, t + h)[0] - flow.path(x_0, x_1, t)[0]) / h
    torch.testing.assert_close(slope, u, atol=1e-4, rtol=0)


def test_times_of_a_batch_belong_to_their_rows():
    x_0, x_1, t = torch.randn(3, 2, 7), torch.randn(3, 2, 7), torch.tensor([0.1, 0.5, 0.9])
    together = flow.path(x_0, x_1, t)[0]
    for i in range(3):
        expected = (1 - t[i]) * x_0[i] + t[i] * x_1[i]
        torch.testing.assert_close(together[i], expected)


def exact_velocity(x, t, mean, std):
    """E[x_1 - x_0 | x_t = x] for x_0 ~ N(0, 1), x_1 ~ N(mean, std^2): jointly Gaussian with x_t.

    Cov(x_1 - x_0, x_t) = t std^2 - (1 - t) and Var(x_t) = (1 - t)^2 + t^2 std^2.
    """
    return mean + (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2) * (x - t * mean)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5), (-2.0, 3.0)])
def test_the_targets_of_gaussian_data_average_to_the_exact_velocity(mean, std):
    """Least squares of u on x_t at a fixed t, over many pairs, gives the exact (linear) velocity field."""
    rng = torch.Generator().manual_seed(0)
    x_0 = torch.randn(400_000, generator=rng, dtype=torch.float64)
    x_1 = mean + std * torch.randn(400_000, generator=rng, dtype=torch.float64)
    for t in (0.1, 0.5, 0.8):
        x_t, u = flow.path(x_0, x_1, torch.full((400_000,), t, dtype=torch.float64))
        design = torch.stack([torch.ones_like(x_t), x_t], dim=1)
        intercept, slope = torch.linalg.lstsq(design, u[:, None]).solution[:, 0]
        probe = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
        torch.testing.assert_close(intercept + slope * probe, exact_velocity(probe, t, mean, std), atol=0.05, rtol=0.0)


def test_the_exact_velocity_carries_noise_to_the_data():
    """dx/dt = v maps quantiles to quantiles: x_1 = mean + std x_0."""
    mean, std = 1.5, 0.5
    x_0 = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    end = solve(lambda t, x: exact_velocity(x, t[:, None], mean, std), x_0, solver="rk4", steps=200).x
    torch.testing.assert_close(end, mean + std * x_0, atol=1e-6, rtol=0)


def test_gaussian_floor_is_the_loss_of_the_exact_velocity():
    rng = torch.Generator().manual_seed(1)
    x_0, x_1 = (torch.randn(2000, 512, generator=rng, dtype=torch.float64) for _ in range(2))
    for time in (0.0, 0.25, 0.5, 0.9, 1.0):
        t = torch.full((2000,), time, dtype=torch.float64)
        x_t, u = flow.path(x_0, x_1, t)
        value = flow.loss(exact_velocity(x_t, time, 0.0, 1.0), u).mean().item()
        assert value == pytest.approx(flow.gaussian_floor(t)[0].item(), rel=0.01)


def test_loss_is_the_plain_mean_and_a_mask_leaves_frames_out():
    v, u = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    for b in range(2):
        squares = [(float(v[b, c, t]) - float(u[b, c, t])) ** 2 for c in range(3) for t in range(5)]
        assert flow.loss(v, u)[b].item() == pytest.approx(sum(squares) / 15)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    v[0, :, 2:] = 1e6  # what is padded may be anything
    torch.testing.assert_close(flow.loss(v, u, mask)[0], flow.loss(v[:1, :, :2], u[:1, :, :2])[0])
    torch.testing.assert_close(flow.loss(v, u, mask)[1], flow.loss(v[1:], u[1:])[0])
    assert flow.loss(v, u, torch.zeros(2, 5, dtype=torch.bool)).tolist() == [0, 0]


def test_guidance_is_linear_and_exact_at_its_ends():
    cond, uncond = torch.randn(2, 4, 8)
    assert torch.equal(flow.guided(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(flow.guided(cond, uncond, 1.0), cond)
    torch.testing.assert_close(flow.guided(cond, uncond, 3.0), 3 * cond - 2 * uncond)
    torch.testing.assert_close(flow.guided(cond, cond, 7.0), cond)


def test_guidance_of_two_gaussians_moves_their_mean_as_algebra_says():
    """Equal variances: guided velocity is the exact one of a Gaussian with the extrapolated mean."""
    x, w = torch.linspace(-2, 2, 9, dtype=torch.float64), 3.0
    for t in (0.2, 0.6, 0.9):
        v = flow.guided(exact_velocity(x, t, 1.0, 0.7), exact_velocity(x, t, -0.5, 0.7), w)
        torch.testing.assert_close(v, exact_velocity(x, t, -0.5 + w * 1.5, 0.7))


def test_draws_are_a_function_of_seed_and_counter_alone():
    def some(seed, counter):
        d = flow.Draws(seed, counter)
        return [d.uniform(), d.integer(10), *d.normal(2, 3).flatten().tolist()]

    assert some(0, 5) == some(0, 5)
    keys = [(seed, counter) for seed in (0, 1, -1, 2**64 - 2) for counter in (0, 1, 2, 1 << 61, 1 << 62)]
    assert len({tuple(some(*key)) for key in keys}) == len(keys)
    d = flow.Draws(3, 7)
    assert d.integer(1) == d.integer(0) == 0
    assert d.normal(4).dtype == torch.float32


def test_draws_of_successive_counters_are_independent_and_well_spread():
    """Over 20,000 counters: uniform mean and variance, integers even, normals standard, neighbours uncorrelated."""
    draws = [flow.Draws(0, counter) for counter in range(20_000)]
    u = np.array([d.uniform() for d in draws])
    n = np.array([d.integer(5) for d in draws])
    z = np.array([float(d.normal(1)) for d in draws])
    assert u.mean() == pytest.approx(0.5, abs=0.01) and u.var() == pytest.approx(1 / 12, abs=0.003)
    assert np.bincount(n).min() > 3800 and np.bincount(n).max() < 4200
    assert z.mean() == pytest.approx(0, abs=0.03) and z.std() == pytest.approx(1, abs=0.03)
    for a in (u, z):
        assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(u, z)[0, 1]) < 0.03


def test_time_sampling():
    t = flow.stratified_time(4)
    assert t.tolist() == [0.125, 0.375, 0.625, 0.875]
    z = torch.linspace(-8, 8, 101)
    t = flow.logit_normal_time(z)
    assert ((t > 0) & (t < 1)).all() and t[50] == pytest.approx(0.5)
    torch.testing.assert_close(torch.log(t / (1 - t)), z, atol=1e-2, rtol=0)
    early = flow.logit_normal_time(z, -0.8)
    assert (early < t).all() and early[50] == pytest.approx(1 / (1 + math.exp(0.8)))


def test_noise_is_standard_reproducible_and_fewer_frames_are_a_prefix():
    whole = flow.noise(7, 2, 259, 64)
    assert whole.shape == (64, 259) and whole.is_contiguous()
    assert torch.equal(flow.noise(7, 2, 100, 64), whole[:, :100])
    assert torch.equal(flow.noise(7, 2, 259, 64), whole)
    others = [flow.noise(8, 2, 259, 64), flow.noise(7, 1, 259, 64), flow.noise(2**63 - 1, 2, 259, 64)]
    for other in others:
        correlation = torch.corrcoef(torch.stack([whole.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(whole.numel())
    assert whole.mean().abs() < 0.03 and (whole.std() - 1).abs() < 0.03


def test_expand_broadcasts_over_any_rank():
    t = torch.tensor([1.0, 2.0])
    assert flow.expand(t, torch.zeros(2, 3)).shape == (2, 1)
    assert flow.expand(t, torch.zeros(2, 3, 4)).shape == (2, 1, 1)
