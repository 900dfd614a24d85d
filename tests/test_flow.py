"""The flow against closed forms: Gaussian data, its loss floor, guidance, keyed draws and noise."""

import math

import numpy as np
import pytest
import torch

from musekit import flow


def exact_velocity(x, t, mean, std):
    """E[x_1 - x_0 | x_t = x] for x_0 ~ N(0, 1) and x_1 ~ N(mean, std^2), which are jointly Gaussian with x_t.

    Cov(x_1 - x_0, x_t) = t std^2 - (1 - t) and Var(x_t) = (1 - t)^2 + t^2 std^2.
    """
    return mean + (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2) * (x - t * mean)


def test_path_runs_from_noise_to_data_at_constant_velocity_with_one_time_per_sample():
    x_0, x_1 = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(flow.interpolate(x_0, x_1, torch.zeros(3))[0], x_0)
    assert torch.equal(flow.interpolate(x_0, x_1, torch.ones(3))[0], x_1)
    t, h = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), 2**-8
    x_t, u = flow.interpolate(x_0, x_1, t)
    torch.testing.assert_close((flow.interpolate(x_0, x_1, t + h)[0] - x_t) / h, u)
    for i in range(3):
        torch.testing.assert_close(x_t[i], (1 - t[i]) * x_0[i] + t[i] * x_1[i])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5), (-2.0, 3.0)])
def test_the_targets_of_gaussian_data_average_to_the_exact_velocity(mean, std):
    """Least squares of u on x_t at a fixed t, over many pairs, gives the exact (linear) velocity."""
    n, rng = 400_000, torch.Generator().manual_seed(0)
    x_0, x_1 = torch.randn(2, n, generator=rng, dtype=torch.float64)
    probe = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    for t in (0.1, 0.5, 0.8):
        x_t, u = flow.interpolate(x_0, mean + std * x_1, torch.full((n,), t, dtype=torch.float64))
        design = torch.stack([torch.ones_like(x_t), x_t], dim=1)
        intercept, slope = torch.linalg.lstsq(design, u[:, None]).solution[:, 0]
        torch.testing.assert_close(intercept + slope * probe, exact_velocity(probe, t, mean, std), atol=0.05, rtol=0)


def test_the_gaussian_floor_is_the_loss_of_the_exact_velocity():
    x_0, x_1 = torch.randn(2, 2000, 512, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for time in (0.0, 0.25, 0.5, 0.9, 1.0):
        t = torch.full((2000,), time, dtype=torch.float64)
        x_t, u = flow.interpolate(x_0, x_1, t)
        value = flow.loss(exact_velocity(x_t, time, 0.0, 1.0), u).mean().item()
        assert value == pytest.approx(flow.gaussian_floor(t)[0].item(), rel=0.01)


def test_loss_is_the_mean_square_and_a_mask_leaves_frames_out():
    v, u = torch.randn(2, 2, 3, 5)
    torch.testing.assert_close(flow.loss(v, u), torch.stack([(v[b] - u[b]).square().mean() for b in range(2)]))
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    v[0, :, 2:] = 1e6  # padding may hold anything
    torch.testing.assert_close(flow.loss(v, u, mask)[0], flow.loss(v[:1, :, :2], u[:1, :, :2])[0])
    torch.testing.assert_close(flow.loss(v, u, mask)[1], flow.loss(v[1:], u[1:])[0])
    assert flow.loss(v, u, torch.zeros(2, 5, dtype=torch.bool)).tolist() == [0, 0]


def test_guidance_is_linear_and_moves_the_mean_of_a_gaussian_as_algebra_says():
    cond, uncond = torch.randn(2, 4, 8)
    assert torch.equal(flow.guided(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(flow.guided(cond, uncond, 1.0), cond)
    torch.testing.assert_close(flow.guided(cond, uncond, 3.0), 3 * cond - 2 * uncond)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for t in (0.2, 0.6, 0.9):  # two Gaussians of equal variance
        v = flow.guided(exact_velocity(x, t, 1.0, 0.7), exact_velocity(x, t, -0.5, 0.7), 3.0)
        torch.testing.assert_close(v, exact_velocity(x, t, -0.5 + 3 * 1.5, 0.7))


def test_draws_depend_on_seed_and_counter_only():
    def some(seed, counter):
        draws = flow.SampleRNG(seed, counter)
        return [draws.uniform(), draws.integer(10), *draws.normal(2, 3).flatten().tolist()]

    assert some(0, 5) == some(0, 5)
    keys = [(seed, counter) for seed in (0, 1, -1, 2**64 - 2) for counter in (0, 1, 2, 1 << 61, 1 << 62)]
    assert len({tuple(some(*key)) for key in keys}) == len(keys)
    draws = flow.SampleRNG(3, 7)
    assert draws.integer(1) == draws.integer(0) == 0 and draws.normal(4).dtype == torch.float32


def test_draws_of_successive_counters_are_independent_and_well_distributed():
    draws = [flow.SampleRNG(0, counter) for counter in range(20_000)]
    u, n, z = (np.array(x) for x in zip(*[(d.uniform(), d.integer(5), float(d.normal(1))) for d in draws]))
    assert u.mean() == pytest.approx(0.5, abs=0.01) and u.var() == pytest.approx(1 / 12, abs=0.003)
    assert np.bincount(n).min() > 3800 and np.bincount(n).max() < 4200
    assert z.mean() == pytest.approx(0, abs=0.03) and z.std() == pytest.approx(1, abs=0.03)
    for a, b in ((u[:-1], u[1:]), (z[:-1], z[1:]), (u, z)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_noise_is_standard_and_reproducible_and_fewer_frames_get_a_prefix():
    whole = flow.noise(7, 2, 259, 64)
    assert whole.shape == (64, 259) and whole.is_contiguous()
    assert torch.equal(flow.noise(7, 2, 259, 64), whole) and torch.equal(flow.noise(7, 2, 100, 64), whole[:, :100])
    for seed, stage in ((8, 2), (7, 1), (2**63 - 1, 2)):
        both = torch.stack([whole.flatten(), flow.noise(seed, stage, 259, 64).flatten()])
        assert abs(torch.corrcoef(both)[0, 1]) < 5 / math.sqrt(whole.numel())
    assert whole.mean().abs() < 0.03 and (whole.std() - 1).abs() < 0.03
