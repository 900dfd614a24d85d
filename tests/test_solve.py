"""Solvers against exact answers: measured orders, Gaussian flows, bits, errors."""

import math
import threading

import pytest
import torch
from test_flow import exact_velocity

from musekit.config import MuseError
from musekit.solve import NFE_PER_STEP, SOLVERS, Cancelled, adaptive, solve

FIXED = [name for name in SOLVERS if name != "dopri5"]
MATRIX = torch.tensor([[-0.5, 2.0], [-2.0, -0.5]], dtype=torch.float64)  # a damped rotation


def expand(values, x):
    """(B,) as (B, 1, ..., 1)."""
    return values.to(x).view(-1, *[1] * (x.dim() - 1))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(t, x):
    """dx/dt = A x; the solution is exp(A t) x_0."""
    return x @ MATRIX.T


def relaxation(stiffness):
    """dx/dt = -k (x - cos 3t) - sin x / 2 with one k per sample: stiff where k is large."""
    stiffness = torch.as_tensor(stiffness, dtype=torch.float64)

    def velocity(t, x):
        return -expand(stiffness, x) * (x - expand(torch.cos(3 * t), x)) - 0.5 * torch.sin(x)

    return velocity


def gaussian_flow(mean, std):
    """`exact_velocity` as a solver calls it."""
    return lambda t, x: exact_velocity(x, expand(t, x), mean, std)


# ---------------------------------------------------------------- accuracy


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_order_on_a_linear_ode(solver, order):
    x_0 = randn(3, 2)
    exact = x_0 @ torch.linalg.matrix_exp(MATRIX).T

    def error(n):
        return (solve(linear, x_0, solver=solver, steps=n).x - exact).norm()

    n = [20, 40, 80, 160, 320]
    log_n, log_error = torch.tensor(n).double().log(), torch.stack([error(k) for k in n]).log()
    slope = ((log_n - log_n.mean()) * log_error).sum() / (log_n - log_n.mean()).square().sum()
    assert -slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("solver", "steps", "atol"), [("rk4", 200, 1e-6), ("dopri5", 1, 1e-5)])
def test_the_gaussian_flow_maps_noise_to_data(solver, steps, atol):
    """The flow of N(0, 1) to N(m, s^2) is x_0 -> m + s x_0."""
    x_0, velocity = randn(64, 8), gaussian_flow(2.0, 0.3)
    options = {"solver": solver, "steps": steps, "rtol": 1e-7, "atol": 1e-8}
    end = solve(velocity, x_0, **options).x
    torch.testing.assert_close(end, 2.0 + 0.3 * x_0, rtol=0, atol=atol)


def test_the_trajectory_follows_the_exact_path():
    mean, std, x_0, t = -1.0, 2.0, randn(6, 5), torch.linspace(0, 1, 31).double().view(-1, 1, 1)
    solution = solve(gaussian_flow(mean, std), x_0, solver="rk4", steps=30, trajectory=True)
    assert torch.equal(solution.trajectory[0], x_0) and torch.equal(solution.trajectory[-1], solution.x)
    exact = t * mean + ((1 - t) ** 2 + (t * std) ** 2).sqrt() * x_0
    torch.testing.assert_close(solution.trajectory, exact, rtol=0, atol=1e-4)


def test_shifted_steps_begin_where_sd3_puts_them():
    """Its schedule is of noise levels, sigma = 1 - t: sigma -> s sigma / (1 + (s - 1) sigma)."""
    seen = []
    solve(lambda t, x: seen.append(float(t[0])) or torch.zeros_like(x), randn(1, 2), steps=5, shift=3.0)
    sigma = 1 - torch.arange(5, dtype=torch.float64) / 5
    assert seen == pytest.approx((1 - 3 * sigma / (1 + 2 * sigma)).tolist(), abs=1e-6)
    assert seen[1] < 0.2 / 2  # nearer to noise


# ---------------------------------------------------------------- dopri5


def test_each_sample_takes_its_own_steps_as_if_alone():
    stiffness, x_0 = torch.tensor([0.1, 100.0, 3.0, 40.0, 0.0]), randn(5, 4, 3, seed=3)
    x_0[4] = 0
    batch = solve(relaxation(stiffness), x_0, solver="dopri5")
    for b in range(5):
        single = solve(relaxation(stiffness[b : b + 1]), x_0[b : b + 1], solver="dopri5")
        assert torch.equal(batch.x[b], single.x[0]) and batch.nfe[b] == single.nfe[0]
    assert batch.nfe[1] > 10 * batch.nfe[0]  # the samples are as different as intended
    assert ((batch.nfe - 2) % NFE_PER_STEP["dopri5"] == 0).all()


def test_no_step_passes_the_end():
    seen = []

    def velocity(t, x):
        seen.append(float(t.max()))
        return relaxation([1.0, 5.0])(t, x)

    solve(velocity, torch.ones(2, 3, dtype=torch.float64), solver="dopri5")
    assert 0.9 < max(seen) <= 1


def test_dopri5_gives_up_with_a_reason(monkeypatch):
    x_0 = torch.ones(2, 3, dtype=torch.float64)

    def breaks(t, x):
        return torch.where(((t > 0.3) & (torch.arange(2) == 1))[:, None], math.nan, -x)

    for velocity, sample in ((breaks, 1), (lambda t, x: x * math.inf, 0)):
        with pytest.raises(MuseError, match=f"sample {sample}: (non-finite|underflow)"):
            solve(velocity, x_0, solver="dopri5")
    with pytest.raises(MuseError, match="underflow|non-finite"):  # x(t) = 1 / (1/2 - t) has a pole on the way
        solve(lambda t, x: x * x, 2 * x_0, solver="dopri5", rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(adaptive, "MAX_STEPS", 20)
    with pytest.raises(MuseError, match="sample 1: max_num_steps exceeded"):
        solve(relaxation([1.0, 1e4]), x_0, solver="dopri5")


# ---------------------------------------------------------------- what all solvers share


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_bits_depend_on_neither_batch_mates_nor_position(solver, dtype):
    """Samples of odd length in an odd batch, so that vector lanes and their tails fall elsewhere each time.

    The velocity consists of products and sums, which round equally everywhere: only the solver is tested.
    """

    def run(rate, x_0):
        def velocity(t, x):
            return expand(rate, x) * (expand(t * t, x) - x)

        return solve(velocity, x_0, rtol=1e-4, atol=1e-6, solver=solver, steps=9)

    generator = torch.Generator().manual_seed(1)
    rate, x_0 = torch.rand(7, generator=generator, dtype=dtype) * 20, torch.randn(7, 5, generator=generator).to(dtype)
    first, order = run(rate, x_0), torch.randperm(7, generator=generator)
    moved = run(rate[order], x_0[order])
    assert torch.equal(moved.x, first.x[order]) and torch.equal(moved.nfe, first.nfe[order])
    for b in range(7):  # each sample among six others, at the opposite place
        others_rate, others = rate * 3 + 1, torch.randn(7, 5, generator=generator).to(dtype)
        others_rate[6 - b], others[6 - b] = rate[b], x_0[b]
        assert torch.equal(run(others_rate, others).x[6 - b], first.x[b])


@pytest.mark.parametrize("solver", FIXED)
def test_a_fixed_solver_never_waits_for_the_device(solver):
    """Meta tensors have no values: reading one would raise."""
    x_0 = torch.empty(4, 3, device="meta")
    solution = solve(lambda t, x: -x * t[:, None], x_0, solver=solver, steps=5, on_step=lambda i, n: None)
    assert solution.x.shape == (4, 3) and solution.nfe.device.type == "cpu"


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_rises_to_n_and_cancel_stops_before_the_next_evaluation(solver):
    reports = []
    options = {"solver": solver, "steps": 10, "on_step": lambda i, n: reports.append((i, n))}
    solve(relaxation([1.0, 3.0]), torch.ones(2, 3).double(), **options)
    done = [i for i, _ in reports]
    assert done == sorted(set(done)) and reports[-1] == (10, 10) and {n for _, n in reports} == {10}
    flag, calls = threading.Event(), []

    def velocity(t, x):
        calls.append(t)
        if len(calls) == 5:
            flag.set()
        return relaxation([300.0])(t, x)

    with pytest.raises(Cancelled):
        solve(velocity, torch.ones(1, 2).double(), solver=solver, steps=40, cancel=flag)
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dopri4"}, r"'dopri5'.*euler, midpoint, heun, rk4, dopri5"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 2.5}, "steps must be"),
        ({"solver": "dopri5", "trajectory": True}, "no trajectory"),
        ({"solver": "dopri5", "atol": 0.0}, "atol"),
        ({"solver": "dopri5", "rtol": math.nan}, "rtol"),
        ({"x_0": torch.tensor(1.0)}, "x_0 must be"),
        ({"x_0": torch.ones(0, 3)}, "x_0 must be"),
        ({"x_0": torch.ones(2, 3, dtype=torch.int64)}, "x_0 must be"),
        ({"velocity": lambda t, x: x[:, :1]}, r"\(2, 1\) for a state of \(2, 3\)"),
    ],
)
def test_unusable_arguments_are_refused(options, message):
    with pytest.raises(MuseError, match=message):
        solve(**{"velocity": lambda t, x: x, "x_0": torch.ones(2, 3), **options})
