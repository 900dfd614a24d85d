"""Solvers against exact answers: orders measured, torchdiffeq row by row, Gaussian flows, bits, errors."""

import math
import threading

import pytest
import torch

from musekit.config import MuseError
from musekit.solve import ADAPTIVE, NFE_PER_STEP, SOLVERS, Cancelled, solve

FIXED = [name for name in SOLVERS if name not in ADAPTIVE]


def per_row(values, x):
    """(B,) as (B, 1, ..., 1)."""
    return values.to(x).view(-1, *[1] * (x.dim() - 1))


def relaxation(stiffness):
    """dx/dt = -k (x - cos 3t) - sin x / 2, one k a row: stiff where k is large."""
    stiffness = torch.as_tensor(stiffness, dtype=torch.float64)

    def velocity(t, x):
        return -per_row(stiffness, x) * (x - per_row(torch.cos(3 * t), x)) - 0.5 * torch.sin(x)

    return velocity


def gaussian_flow(mean, std):
    """The exact velocity of x_t = (1 - t) x_0 + t x_1 for x_0 ~ N(0, 1) and x_1 ~ N(mean, std^2).

    E[x_1 - x_0 | x_t = x] = mean + (t std^2 - (1 - t)) / (t^2 std^2 + (1 - t)^2) (x - t mean).
    """

    def velocity(t, x):
        t = per_row(t, x)
        return mean + (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2) * (x - t * mean)

    return velocity


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_order_on_a_linear_ode(solver, order):
    matrix = torch.tensor([[-0.5, 2.0], [-2.0, -0.5]], dtype=torch.float64)  # a damped rotation
    x_0 = torch.tensor([[1.0, 0.0], [0.3, -0.7], [2.0, 1.0]], dtype=torch.float64)
    exact = x_0 @ torch.linalg.matrix_exp(matrix).T
    n = torch.tensor([20, 40, 80, 160, 320])
    errors = [(solve(lambda t, x: x @ matrix.T, x_0, solver=solver, steps=int(k)).x - exact).norm() for k in n]
    log_n, log_error = n.double().log(), torch.stack(errors).log()
    slope = ((log_n - log_n.mean()) * log_error).sum() / (log_n - log_n.mean()).square().sum()
    assert -slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", FIXED)
def test_fixed_solvers_use_the_times_right(solver):
    """dx/dt = 2 t: Euler errs by h, the second-order methods and RK4 are exact."""
    solution = solve(lambda t, x: (2 * t)[:, None].expand_as(x), torch.zeros(3, 2).double(), solver=solver, steps=8)
    error = 1 / 8 if solver == "euler" else 0
    torch.testing.assert_close(solution.x, torch.full((3, 2), 1.0 - error).double(), rtol=0, atol=1e-14)
    assert solution.nfe.tolist() == [8 * NFE_PER_STEP[solver]] * 3
    assert solution.nfe.dtype == torch.int64
    assert solution.accepted.tolist() == [8] * 3
    assert solution.rejected.tolist() == [0] * 3


@pytest.mark.parametrize("overshoot", [True, False])
@pytest.mark.parametrize("tolerance", [(1e-4, 1e-5), (1e-7, 1e-9)])
def test_dopri5_row_is_torchdiffeq_alone(tolerance, overshoot):
    rtol, atol = tolerance
    stiffness = torch.tensor([0.1, 100.0, 3.0, 40.0, 0.0])
    generator = torch.Generator().manual_seed(3)
    x_0 = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 9, 0.1, 0])[
        :, None, None
    ].to(torch.float64)
    options = {"rtol": rtol, "atol": atol, "trajectory": True, "steps": 7, "overshoot": overshoot}
    together = solve(relaxation(stiffness), x_0, solver="dopri5", **options)
    for b in range(5):
        alone = solve(relaxation(stiffness[b : b + 1]), x_0[b : b + 1], solver="torchdiffeq", **options)
        torch.testing.assert_close(together.x[b], alone.x[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.trajectory[:, b], alone.trajectory[:, 0], rtol=1e-12, atol=1e-12)
        for count in ("nfe", "accepted", "rejected"):
            assert getattr(together, count)[b] == getattr(alone, count)[0], (b, count)
    assert together.nfe[1] > 10 * together.nfe[0]  # the rows are as different as meant
    assert together.rejected.sum() > 0


def test_torchdiffeq_couples_the_rows_and_dopri5_does_not():
    stiffness = torch.tensor([0.1, 400.0])
    x_0 = torch.ones(2, 3, dtype=torch.float64)
    coupled = solve(relaxation(stiffness), x_0, solver="torchdiffeq")
    alone = solve(relaxation(stiffness[:1]), x_0[:1], solver="torchdiffeq")
    assert coupled.nfe[0] > 10 * alone.nfe[0]
    own = solve(relaxation(stiffness), x_0, solver="dopri5")
    assert own.nfe[0] == alone.nfe[0]


def test_dopri5_counts_what_it_evaluates():
    shapes, start_times = [], []

    def velocity(t, x):
        shapes.append((tuple(t.shape), tuple(x.shape)))
        start_times.append(t)
        return relaxation([1.0, 200.0])(t, x)

    solution = solve(velocity, torch.ones(2, 3).double(), solver="dopri5")
    assert set(shapes) == {((2,), (2, 3))}  # never compacted
    assert solution.nfe.max() == len(shapes)  # the slowest row pays for every batched evaluation
    assert (solution.nfe == 2 + 6 * (solution.accepted + solution.rejected)).all()
    assert start_times[-1][0] > start_times[-1][1] - 0.5  # the finished row stands still at its end


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "torchdiffeq"])
def test_bits_do_not_depend_on_mates_or_position(solver, dtype):
    """Rows of odd length in an odd batch, so that vector lanes and their tails fall elsewhere each time.

    The velocity is made of products and sums, which round alike everywhere: what is left is the solver.
    """

    def run(rate, x_0):
        def velocity(t, x):
            k = per_row(rate, x)
            return k * (per_row(t * t, x) - x)

        return solve(velocity, x_0, solver=solver, steps=9, trajectory=True, rtol=1e-4, atol=1e-6)

    generator = torch.Generator().manual_seed(1)
    rate = torch.rand(7, generator=generator, dtype=dtype) * 20
    x_0 = torch.randn(7, 5, generator=generator, dtype=dtype)
    first = run(rate, x_0)

    order = torch.randperm(7, generator=generator)
    moved = run(rate[order], x_0[order])
    assert torch.equal(moved.x, first.x[order])
    assert torch.equal(moved.trajectory, first.trajectory[:, order])
    assert torch.equal(moved.nfe, first.nfe[order])

    for b in range(7):  # each row among six strangers, at the far end
        others_rate, others = rate * 3 + 1, torch.randn(7, 5, generator=generator, dtype=dtype)
        others_rate[6 - b], others[6 - b] = rate[b], x_0[b]
        assert torch.equal(run(others_rate, others).x[6 - b], first.x[b])


@pytest.mark.parametrize(
    ("solver", "steps", "atol"), [("rk4", 200, 1e-6), ("dopri5", 1, 1e-5), ("torchdiffeq", 1, 1e-5)]
)
def test_gaussian_flow_maps_noise_to_data(solver, steps, atol):
    """The flow of N(0, 1) to N(m, s^2) is x_0 -> m + s x_0, and (t m + sqrt(...) x_0) on the way."""
    mean, std = 2.0, 0.3
    x_0 = torch.randn(64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    velocity = gaussian_flow(mean, std)
    solution = solve(velocity, x_0, solver=solver, steps=steps, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(solution.x, mean + std * x_0, rtol=0, atol=atol)

    back = solve(velocity, solution.x, solver=solver, steps=steps, rtol=1e-7, atol=1e-8, t_0=1.0, t_1=0.0)
    torch.testing.assert_close(back.x, x_0, rtol=0, atol=10 * atol)


@pytest.mark.parametrize("solver", ["rk4", *ADAPTIVE])
@pytest.mark.parametrize("reverse", [False, True])
def test_trajectory_follows_the_exact_path(solver, reverse):
    mean, std = -1.0, 2.0
    x_0 = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = torch.cat([torch.linspace(0, 0.5, 30), torch.tensor([0.6, 0.8, 1.0])]).double()

    def exact(t):
        t = t.view(-1, 1, 1)
        return t * mean + ((1 - t) ** 2 + (t * std) ** 2).sqrt() * x_0

    times = grid.flip(0) if reverse else grid
    start = exact(times[:1])[0]
    solution = solve(gaussian_flow(mean, std), start, solver=solver, grid=times, trajectory=True, rtol=1e-8, atol=1e-9)
    assert torch.equal(solution.times, times)
    assert torch.equal(solution.trajectory[0], start)
    assert torch.equal(solution.trajectory[-1], solution.x)
    tolerance = 3e-3 if solver == "rk4" else 1e-5  # rk4 has four coarse steps
    torch.testing.assert_close(solution.trajectory, exact(times), rtol=0, atol=tolerance)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_reporting_changes_no_step(solver):
    x_0 = torch.ones(2, 3, dtype=torch.float64)
    short = solve(relaxation([1.0, 50.0]), x_0, solver=solver)
    long = solve(relaxation([1.0, 50.0]), x_0, solver=solver, steps=333, trajectory=True)
    assert torch.equal(short.x, long.x)
    assert torch.equal(short.nfe, long.nfe)
    assert short.trajectory is None
    assert long.trajectory.shape == (334, 2, 3)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_without_overshoot_no_step_passes_the_end(solver):
    seen = []

    def velocity(t, x):
        seen.append(t.max())
        return relaxation([1.0, 5.0])(t, x)

    x_0 = torch.ones(2, 3, dtype=torch.float64)
    passing = solve(velocity, x_0, solver=solver)
    assert max(seen) > 1
    seen.clear()
    cut = solve(velocity, x_0, solver=solver, overshoot=False)
    assert max(seen) <= 1
    torch.testing.assert_close(cut.x, passing.x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", FIXED)
def test_fixed_loop_reads_nothing_back(solver):
    """Meta tensors have no values: any wait for the device would raise."""
    x_0 = torch.empty(4, 3, device="meta")
    solution = solve(lambda t, x: -x * t[:, None], x_0, solver=solver, steps=5, on_step=lambda i, n: None)
    assert solution.x.shape == (4, 3)
    assert solution.nfe.device.type == "cpu"


def test_dopri5_waits_for_the_device_once_an_attempted_step(monkeypatch):
    """Whatever reads a tensor's values on the host is counted; the start costs a fixed number."""
    waits = []

    def counted(name, real):
        return lambda x, *a, **k: waits.append(name) or real(x, *a, **k)

    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    x_0, found = torch.ones(3, 4, dtype=torch.float64), []
    for tolerance in (1e-2, 1e-5, 1e-9):
        waits.clear()
        stiff = torch.tensor([[1.0], [20.0], [200.0]], dtype=torch.float64)
        options = {"rtol": tolerance, "atol": tolerance, "steps": 7, "on_step": lambda i, n: None}
        solution = solve(lambda t, x, s=stiff: s * (t[:, None].cos() - x), x_0, solver="dopri5", **options)
        spent = len(waits)
        found.append((int((solution.accepted + solution.rejected).max()), spent))
    (few, start), *others = found
    assert few < others[-1][0] and all(spent - start == steps - few for steps, spent in others), found


@pytest.mark.parametrize("solver", SOLVERS)
def test_dtypes(solver):
    """A bfloat16 velocity moves a float32 state; a bfloat16 state still sees float32 times."""
    seen = set()

    def velocity(t, x):
        seen.add(t.dtype)
        return (-x).bfloat16()

    assert solve(velocity, torch.ones(2, 3), solver=solver, steps=4, rtol=0.1, atol=0.1).x.dtype == torch.float32
    assert seen == {torch.float32}
    if solver in FIXED:
        assert solve(velocity, torch.ones(2, 3).bfloat16(), solver=solver).x.dtype == torch.bfloat16
        assert seen == {torch.float32}


@pytest.mark.parametrize("shape", [(3,), (3, 2, 4, 1)])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "torchdiffeq"])
def test_any_shape_of_row(solver, shape):
    x_0 = torch.ones(shape, dtype=torch.float64)
    kept = x_0.clone()
    solution = solve(lambda t, x: -x, x_0, solver=solver, steps=200, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(solution.x, kept * math.exp(-1), rtol=1e-2, atol=0)
    assert torch.equal(x_0, kept)


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_rises_to_n(solver):
    told = []
    solve(
        relaxation([1.0, 30.0]),
        torch.ones(2, 3).double(),
        solver=solver,
        steps=10,
        on_step=lambda *a: told.append(a),
    )
    parts = [i for i, _ in told]
    assert parts == sorted(set(parts))
    assert told[-1] == (10, 10)
    assert {n for _, n in told} == {10}
    backwards = []
    solve(
        lambda t, x: -x,
        torch.ones(2, 3).double(),
        solver=solver,
        steps=10,
        t_0=1.0,
        t_1=0.0,
        overshoot=False,
        on_step=lambda *a: backwards.append(a),
    )
    assert backwards[-1] == (10, 10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_cancel(solver):
    flag, calls = threading.Event(), []

    def velocity(t, x):
        calls.append(t)
        if len(calls) == 5:
            flag.set()
        return relaxation([300.0])(t, x)

    with pytest.raises(Cancelled):
        solve(velocity, torch.ones(1, 2).double(), solver=solver, steps=40, cancel=flag)
    assert len(calls) == 5


def test_unknown_solver_is_told_the_near_one():
    with pytest.raises(MuseError, match=r"'dopri5'.*euler, midpoint, heun, rk4, dopri5, torchdiffeq"):
        solve(lambda t, x: x, torch.ones(1, 2), solver="dopri4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps must be"),
        ({"steps": -3}, "steps must be"),
        ({"steps": 2.5}, "steps must be"),
        ({"t_1": 0.0}, "t_0 and t_1 must differ"),
        ({"grid": [0.0]}, "two or more"),
        ({"grid": [0.0, 0.5, 0.5, 1.0]}, "strictly"),
        ({"grid": [0.0, math.nan, 1.0]}, "finite"),
        ({"solver": "dopri5", "atol": 0.0}, "atol"),
        ({"solver": "dopri5", "rtol": -1.0}, "rtol"),
        ({"solver": "dopri5", "rtol": math.nan}, "rtol"),
        ({"solver": "dopri5", "max_attempts": 0}, "max_attempts"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(MuseError, match=words):
        solve(lambda t, x: x, torch.ones(1, 2), **options)


@pytest.mark.parametrize("x_0", [torch.tensor(1.0), torch.ones(0, 3), torch.ones(2, 3, dtype=torch.int64)])
def test_bad_states(x_0):
    with pytest.raises(MuseError, match="x_0 must be"):
        solve(lambda t, x: x, x_0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_velocity_of_another_shape(solver):
    with pytest.raises(MuseError, match=r"\(2, 1\) for a state of \(2, 3\)"):
        solve(lambda t, x: x[:, :1], torch.ones(2, 3), solver=solver)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_solvers_give_up_in_words(solver):
    x_0 = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(MuseError, match="has not arrived after 20 steps"):
        solve(relaxation([1.0, 1e4]), x_0, solver=solver, max_attempts=20)

    def breaks(t, x):
        broken = (t > 0.3) & (torch.arange(2) == 1)
        return torch.where(broken[:, None], math.nan, -x)

    with pytest.raises(MuseError, match="row 1 is not finite" if solver == "dopri5" else "torchdiffeq: "):
        solve(breaks, x_0, solver=solver)
    with pytest.raises(MuseError, match="row 0 is not finite" if solver == "dopri5" else "torchdiffeq: "):
        solve(lambda t, x: x * math.inf, x_0, solver=solver)

    def blows_up(t, x):  # x(t) = 1 / (1/2 - t) has a pole on the way
        return x * x

    with pytest.raises(MuseError, match=r"underflow|not finite"):
        solve(blows_up, 2 * x_0, solver=solver, rtol=1e-9, atol=1e-9)


def test_dopri5_recovers_from_a_step_that_overflows():
    """x^9 overflows float32 in a stage of a step that is too long; the row must shrink its step."""
    x_0 = torch.tensor([[60.0], [0.5]])
    ceiling = 0.0

    def velocity(t, x):
        nonlocal ceiling
        ceiling = max(ceiling, (x.abs() ** 9).max().item())
        return -((x / 3) ** 9)

    solution = solve(velocity, x_0, solver="dopri5", rtol=1e-3, atol=1e-3)
    assert ceiling == math.inf
    exact = (x_0.double() ** -8 + 8 / 3.0**9) ** (-1 / 8)
    torch.testing.assert_close(solution.x.double(), exact, rtol=1e-2, atol=0)
