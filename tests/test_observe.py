"""Measures of Stage 2: against what they say they are."""

import pytest
import torch

from musekit import solve
from musekit.muse import Muse
from musekit.show import observe
from musekit.train.fitting import thinned


def test_distance_is_relative_and_of_each_row():
    b = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert observe.distance(torch.zeros(2, 2), b).tolist() == [1.0, 1.0]
    assert observe.distance(b, b).tolist() == [0.0, 0.0]


def test_the_guess_on_a_straight_road_is_its_end():
    x_0, x_1 = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    road = solve.solve(lambda t, x: x_1 - x_0, x_0, steps=7, trajectory=True).trajectory
    assert torch.allclose(observe.guesses(road), x_1.expand(7, -1, -1, -1), atol=1e-5)


def test_likeness_of_equal_and_of_orthogonal_rows():
    assert observe.likeness(torch.eye(4)) == 0.0
    assert observe.likeness(torch.eye(4)[:1].expand(3, -1)) == 1.0


def test_costs_are_counted_for_each_part(smoke_weights):
    muse = Muse.from_pretrained(smoke_weights)
    rows = {row["part"]: row for row in observe.cost(muse, "a waltz", n=2, seconds=0.5, steps=3)}
    assert list(rows) == ["stage1", "stage2", "codec"]
    assert [row["NFE"] for row in rows.values()] == [3, 3, 1]
    for name, row in rows.items():
        assert row["M parameters"] == sum(p.numel() for p in getattr(muse, name).parameters()) / 1e6
        assert row["GFLOP an evaluation"] > 0 and row["seconds"] > 0
    # guidance: a conditional and an unconditional row
    assert rows["stage2"]["GFLOP a piece"] == pytest.approx(2 * 3 * rows["stage2"]["GFLOP an evaluation"])


def test_impressions_are_those_of_the_embedder_one_by_one(smoke_weights):
    muse = Muse.from_pretrained(smoke_weights)
    clips = [torch.randn(2, n) * 0.1 for n in (20_000, 30_000)]
    heard = observe.impressions(muse, clips)
    assert heard.shape == (2, 512) and torch.allclose(heard.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.equal(heard[1:], muse.embedder.embed_audio(clips[1][None], 44100))


def test_a_thinned_curve_keeps_its_ends_and_its_validation():
    rows = [{"samples": 10 * i, "loss": 1.0 / i, "floor": 1.0, "lr": 0.1} for i in range(1, 1001)]
    for row in rows[99::100]:
        row["valid_loss"] = 0.5
    thin = thinned(rows)
    assert len(thin) == 200 and thin[-1]["samples"] == 10_000 and sum("valid_loss" in row for row in thin) == 10
    assert thin[0]["loss"] == pytest.approx(sum(1 / i for i in range(1, 6)) / 5, rel=1e-4) and "lr" not in thin[0]
    assert [row["samples"] for row in thinned(rows[:7])] == [10 * i for i in range(1, 8)] and thinned([]) == []
