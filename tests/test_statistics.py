"""Statistics against closed forms and the slow, obvious way."""

import math

import numpy as np
import pytest

from musekit import statistics
from musekit.statistics import SCALE, KernelDistance


def test_wilson_is_the_root_of_its_equation():
    z = 1.959963984540054
    for correct, n in ((0, 5), (3, 7), (50, 64), (240, 240)):
        p = correct / n
        middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        expected = ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
        row = statistics.accuracy(np.arange(n) < correct)
        assert (row["low"], row["high"]) == pytest.approx(expected, abs=1e-9)
        assert (row["n"], row["correct"], row["accuracy"]) == (n, correct, p)
    nothing = {"n": 0, "correct": 0, "accuracy": None, "low": 0.0, "high": 1.0}
    assert statistics.accuracy(np.array([], bool)) == nothing


def test_spread_is_the_mean_over_pairs():
    x = np.random.default_rng(0).normal(size=(17, 5))
    slow = [np.linalg.norm(x[i] - x[j]) for i in range(17) for j in range(17) if i != j]
    assert statistics.spread(x) == pytest.approx(np.mean(slow))


# -- bootstrap


def test_a_mean_interval_is_as_wide_as_the_central_limit_says():
    x = np.random.default_rng(0).normal(3, 2, size=400)
    found = statistics.mean_interval(x)
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert found["mean"] == pytest.approx(x.mean())
    assert found["high"] - found["mean"] == pytest.approx(half, rel=0.1)
    assert found["mean"] - found["low"] == pytest.approx(half, rel=0.1)


# -- kernel distance


def expected_kernel(mean_x, cov_x, mean_y, cov_y, s):
    """E exp(-|x - y|^2 / 2 s^2) of independent Gaussians: x - y is N(m_x - m_y, C_x + C_y)."""
    d, cov = len(mean_x), cov_x + cov_y
    gap = mean_x - mean_y
    quadratic = gap @ np.linalg.solve(cov + s**2 * np.eye(d), gap)
    return np.linalg.det(np.eye(d) + cov / s**2) ** -0.5 * np.exp(-quadratic / 2)


def test_kernel_distance_of_gaussians_is_the_exact_expectation():
    """Unbiased: the mean over many small samples is the closed form, and twice the same distribution gives 0."""
    rng = np.random.default_rng(7)
    a = rng.normal(size=(4, 4)) * 0.5
    gaussians = {"x": (np.full(4, 0.7), a @ a.T + 0.2 * np.eye(4)), "y": (np.zeros(4), np.eye(4))}
    x, y = gaussians["x"], gaussians["y"]
    s = 1.7
    exact = expected_kernel(*x, *x, s) + expected_kernel(*y, *y, s) - 2 * expected_kernel(*x, *y, s)

    def mean_of(p, q, times=400):
        draws = [
            KernelDistance(rng.multivariate_normal(*q, 14), s).of(rng.multivariate_normal(*p, 9)) for _ in range(times)
        ]
        return np.mean(draws), np.std(draws) / math.sqrt(times)

    mean, error = mean_of(x, y)
    assert mean == pytest.approx(SCALE * exact, abs=4 * error) and error < 0.1 * SCALE * exact
    mean, error = mean_of(y, y)
    assert mean == pytest.approx(0, abs=4 * error)


def test_kernel_intervals_hold_the_distance_and_permutations_find_it():
    rng = np.random.default_rng(10)
    reference, x = rng.normal(size=(150, 6)), rng.normal(0.6, 1, size=(80, 6))
    kernel = KernelDistance(reference)
    found = kernel.measured(x)
    assert 0 < found["low"] < found["value"] < found["high"] and found["p"] < 0.01
    assert found["value"] == pytest.approx(kernel.of(x))
    same = [KernelDistance(rng.normal(size=(20, 3))).measured(rng.normal(size=(15, 3)))["p"] for _ in range(60)]
    assert 0.35 < np.mean(same) < 0.65 and np.mean(np.array(same) <= 0.2) < 0.4  # uniform where the sets do not differ
    for few in (reference[:1], np.ones((4, 3))):
        with pytest.raises(ValueError, match="two rows|all alike"):
            KernelDistance(few)


# -- neighbours


def test_neighbours_are_sklearns_and_the_slow_definition():
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(11)
    real, fake = rng.normal(size=(30, 4)), rng.normal(0.5, 1.2, size=(23, 4))
    for k in (1, 3, 5):
        far = NearestNeighbors(n_neighbors=k + 1).fit(real).kneighbors(real)[0][:, k]
        assert statistics.radii(real, k) == pytest.approx(far)

    def ball(points, i, k):
        return sorted(np.linalg.norm(points[i] - p) for p in points)[k]

    def inside(p, points):
        return any(np.linalg.norm(p - q) <= ball(points, i, 3) for i, q in enumerate(points))

    slow = {
        "precision": np.mean([inside(p, real) for p in fake]),
        "recall": np.mean([inside(p, fake) for p in real]),
    }
    measured = statistics.precision_and_recall(fake, real)
    assert {k: v["value"] for k, v in measured.items()} == pytest.approx(slow)
    assert all(v["low"] <= v["value"] <= v["high"] for v in measured.values())
    with pytest.raises(ValueError, match="more than 3 rows"):
        statistics.precision_and_recall(fake[:3], real[:3])
