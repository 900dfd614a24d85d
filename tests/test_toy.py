"""The moons' exact velocity: against the slow, obvious average, and by what it must do to noise."""

import pytest
import torch

from musekit import flow, toy
from musekit.solve import solve


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_points_lie_on_the_moon_that_their_sentence_names(generator):
    x, word = toy.draw(4000, generator)
    assert x.shape == (4000, 2) and abs(float((word == toy.VAGUE).float().mean()) - 1 / 3) < 0.03
    for w in range(3):
        assert float(toy.distance(x[word == w], w).quantile(0.99)) < 4
    assert float(x.mean(0).abs().max()) < 0.1  # the mean of all answers is the centre ...
    assert float(toy.distance(torch.zeros(1, 2))) > 6  # ... where no data is


def test_velocity_is_the_mean_direction_through_a_place(generator):
    """Against the average of x_1 - x_0 over draws that come near one place, and where the answer is plain."""
    x_1, word = toy.draw(400_000, generator, vague=0.0)
    x_0 = torch.randn(x_1.shape, generator=generator)
    for moon, t, place in ((0, 0.5, (0.0, 0.4)), (1, 0.7, (0.3, -0.6)), (toy.VAGUE, 0.3, (-0.5, 0.2))):
        x_t, u = flow.interpolate(x_0, x_1, torch.full((len(x_1),), t))
        near = ((x_t - torch.tensor(place)).norm(dim=1) < 0.06) & ((word == moon) | (moon == toy.VAGUE))
        exact = toy.exact_velocity(torch.tensor([t]), torch.tensor([place]), moon)[0]
        spread = u[near].std(0) / near.sum() ** 0.5
        assert (u[near].mean(0) - exact).abs().lt(5 * spread + 0.03).all(), (moon, u[near].mean(0), exact)
    start = torch.randn(5, 2, generator=generator)
    mean = toy.centres(0).mean(0).float()
    torch.testing.assert_close(toy.exact_velocity(torch.zeros(5), start, 0), mean - start, atol=1e-5, rtol=0)


@pytest.mark.parametrize("word", range(3))
def test_following_it_turns_noise_into_the_sentence_s_data(word, generator):
    x_0 = torch.randn(400, 2, generator=generator)
    x = solve(lambda t, x: toy.exact_velocity(t, x, word), x_0, solver="rk4", steps=40).x
    away = toy.distance(x, word)
    assert float(away.median()) < 1.2 and float(away.quantile(0.95)) < 3
    if word == toy.VAGUE:
        assert 0.35 < float((toy.distance(x, 0) < toy.distance(x, 1)).float().mean()) < 0.65
