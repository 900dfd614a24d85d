"""Statistics against closed forms and the slow, obvious way."""

import math

import numpy as np
import pytest

from musekit import statistics


def test_wilson_is_the_root_of_its_equation():
    z = 1.959963984540054
    for correct, n in ((0, 5), (3, 7), (50, 64), (240, 240)):
        p = correct / n
        middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        expected = ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
        assert statistics.wilson(correct, n) == pytest.approx(expected, abs=1e-9)


def test_nothing_measured_is_known_to_be_anything():
    assert statistics.wilson(0, 0) == (0.0, 1.0)
    row = statistics.accuracy(np.array([], bool))
    assert row == {"n": 0, "correct": 0, "accuracy": None, "low": 0.0, "high": 1.0}


def test_accuracy_counts():
    row = statistics.accuracy(np.array([True, False, True, True]))
    assert (row["n"], row["correct"], row["accuracy"]) == (4, 3, 0.75)
    assert row["low"] < 0.75 < row["high"]


def test_spread_is_the_mean_over_pairs():
    x = np.random.default_rng(0).normal(size=(17, 5))
    slow = [np.linalg.norm(x[i] - x[j]) for i in range(17) for j in range(17) if i != j]
    assert statistics.spread(statistics.unit_distances(x)) == pytest.approx(np.mean(slow))


def test_spread_of_two_opposite_unit_vectors_is_two():
    assert statistics.spread(statistics.unit_distances(np.array([[1.0, 0], [-1.0, 0]]))) == pytest.approx(2)


def test_spread_on_the_circle_is_four_over_pi():
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, 3000)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert statistics.spread(statistics.unit_distances(x)) == pytest.approx(4 / np.pi, abs=0.01)


def test_a_row_drawn_twice_is_no_pair_with_itself():
    x = np.random.default_rng(2).normal(size=(6, 3))
    counts = np.array([0, 2, 1, 0, 3, 0])
    drawn = np.repeat(np.arange(6), counts)
    slow = [np.linalg.norm(x[i] - x[j]) for i in drawn for j in drawn if i != j]
    assert statistics.spread(statistics.unit_distances(x), counts) == pytest.approx(np.mean(slow))


@pytest.mark.parametrize("counts", [None, np.array([5.0])])
def test_spread_of_one_row_is_refused(counts):
    with pytest.raises(ValueError, match="two different rows"):
        statistics.spread(np.zeros((1, 1)), counts)


def test_spread_draws_are_seeded_and_as_wide_as_fresh_samples():
    """The bootstrap's deviation is near the deviation of spreads of fresh samples."""
    rng = np.random.default_rng(3)

    def fresh():
        return statistics.unit_distances(rng.normal(size=(64, 8)))

    distances = fresh()
    draws = statistics.spread_draws(distances, seed=4)
    assert np.array_equal(draws, statistics.spread_draws(distances, seed=4))
    true = np.std([statistics.spread(fresh()) for _ in range(300)])
    assert 0.6 * true < draws.std() < 1.6 * true
    low, high = statistics.interval(draws)
    assert low < statistics.spread(distances) < high


def test_interval_is_the_middle_of_its_draws():
    assert statistics.interval(np.arange(1001)) == pytest.approx((25, 975))


def test_percentile_difference_of_shifted_copies_is_the_shift():
    x = np.random.default_rng(5).normal(size=200)
    found = statistics.percentile_difference(x + 3, x, 5, seed=0)
    assert found["difference"] == pytest.approx(3)
    assert found["low"] < 3 < found["high"] and found["low"] > 2
    assert found == statistics.percentile_difference(x + 3, x, 5, seed=0)


def test_hoyer_sparsity_of_k_equal_values():
    for n, k in ((100, 1), (100, 25), (64, 64)):
        x = np.zeros(n)
        x[:k] = 3.0
        assert statistics.hoyer(x) == pytest.approx((math.sqrt(n) - math.sqrt(k)) / (math.sqrt(n) - 1), abs=1e-9)
    assert statistics.hoyer(np.zeros(9)) == 0
    assert statistics.hoyer(np.eye(4), axis=0) == pytest.approx(np.ones(4))
