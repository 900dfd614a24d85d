"""Solvers of the flow's ordinary differential equation, dx/dt = v(t, x) from noise at t = 0 to data at t = 1.

    euler, midpoint, heun, rk4   `steps` equal steps, or a grid of one's own        fixed.py
    dopri5                       adaptive: t, step size, acceptance per sample      dopri5.py
    torchdiffeq                  adaptive: one step size for the whole batch        batch_dopri5.py
    bespoke-n                    n evaluations, learned for one network             bespoke.py

NFE, the number of evaluations of the velocity, is the cost of a sample; it is counted per sample.
Every solver but `torchdiffeq` treats each sample by itself: its bits depend on the rest of the batch only where the
velocity's do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from musekit.config import MuseError, suggest

from . import batch_dopri5, bespoke, dopri5, fixed
from .bespoke import Bespoke
from .fixed import CancelFlag, Cancelled, Solution, Velocity

__all__ = ["ADAPTIVE", "NFE_PER_STEP", "SOLVERS", "Bespoke", "Cancelled", "Solution", "solve"]

ADAPTIVE = ("dopri5", "torchdiffeq")
SOLVERS = (*fixed.STEPS, *ADAPTIVE)
NFE_PER_STEP = {name: nfe for name, (_, nfe) in fixed.STEPS.items()}
NFE_PER_STEP |= dict.fromkeys(ADAPTIVE, dopri5.NFE_STEP)
"""Evaluations per step. Adaptive solvers spend them on rejected steps too, and 2 more at the start."""


def solve(
    velocity: Velocity,
    x_0: Tensor,
    *,
    solver: str = "euler",
    steps: int = 50,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    t_0: float = 0.0,
    t_1: float = 1.0,
    on_step: Callable[[int, int], None] | None = None,
    cancel: CancelFlag | None = None,
    grid: Sequence[float] | Tensor | None = None,
    trajectory: bool = False,
    overshoot: bool = True,
    max_attempts: int = 10_000,
    table: Bespoke | None = None,
) -> Solution:
    r"""Integrate dx/dt = velocity(t, x) from x_0 at t_0 to t_1.

    Args:
        velocity: `velocity(t, x) -> dx/dt` with t (B,), one time per sample (at least float32), and x (B, ...),
            both on the device of x_0. Its result has the shape of x and is cast to x's dtype. Where it has a
            method `at(times) -> list`, a fixed-grid solver calls that once with the float64 times (n,) of the grid
            and passes the list's items instead of t: time embeddings are then computed once per grid.
        x_0: (B, ...) floating point, the state at t_0; not modified. The state keeps its dtype: pass float32
            where the velocity runs in bfloat16.
        solver: one of `SOLVERS`.
        steps: number n of equal steps of a fixed solver. An adaptive solver chooses its own steps: there n
            is only the number of progress reports and of points of the trajectory.
        rtol, atol: an adaptive step is accepted where the root mean square over a sample of
            error / (atol + rtol max(|x|, |x_new|)) is at most 1.
        t_0, t_1: both ends; t_1 < t_0 integrates backwards, from data to noise.
        on_step: `on_step(i, n)`, i rising to n: steps done, or the part of [t_0, t_1] that the slowest sample
            has covered. A fixed solver reports queued steps: a GPU may still be computing them.
        cancel: checked before each evaluation.
        grid: n + 1 strictly monotone times instead of `steps`, t_0 and t_1.
        trajectory: keep x at all n + 1 times (adaptive solvers interpolate), for n + 1 times the memory.
        overshoot: an adaptive solver's last step may pass t_1 and x(t_1) comes from its interpolant, as in
            torchdiffeq. False ends the last step at t_1, for a velocity that is undefined beyond.
        max_attempts: most steps, accepted and rejected, that an adaptive solver may try per sample.
        table: the learned times and weights of the solver "bespoke-n"; steps, t_0, t_1 and grid are then ignored.

    Returns:
        Solution: x (B, ...), nfe, accepted, rejected (B,) and, if requested, trajectory (n + 1, B, ...).

    Raises:
        MuseError: unknown solver, steps < 1, an unusable grid, tolerance, x_0 or velocity, an adaptive
            solver that does not reach t_1.
        Cancelled: the flag was set.
    """
    if bespoke.evaluations(solver) is not None:
        if table is None or table.nfe != bespoke.evaluations(solver):
            raise MuseError(f"{solver} is learned for one network: solve needs its table of that many steps")
    elif solver not in SOLVERS or table is not None:
        raise suggest(solver, (*SOLVERS, "bespoke-8"), "solver")
    if x_0.dim() == 0 or x_0.numel() == 0 or not x_0.is_floating_point():
        raise MuseError(
            f"x_0 must be a batch (B, ...) of floating-point numbers, not {tuple(x_0.shape)} of {x_0.dtype}"
        )
    if table is not None:
        times = list(table.times)
    else:
        times = _times(steps, t_0, t_1) if grid is None else _checked_grid(grid)

    def evaluate(t: Tensor, x: Tensor) -> Tensor:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"{solver} was cancelled")
        v = velocity(t, x)
        if v.shape != x.shape:
            raise MuseError(f"the velocity gave {tuple(v.shape)} for a state of {tuple(x.shape)}; they must agree")
        return v.to(x.dtype)

    on_time = _progress(on_step, times)
    x_0 = x_0.contiguous()
    fixed_options = {"trajectory": trajectory, "on_time": on_time, "at": getattr(velocity, "at", None)}
    if table is not None:
        return bespoke.integrate(evaluate, x_0, table, **fixed_options)
    if solver in fixed.STEPS:
        return fixed.integrate(evaluate, x_0, times, solver=solver, **fixed_options)

    if not (rtol >= 0 and 0 < atol < math.inf and rtol < math.inf):
        raise MuseError(f"rtol must be 0 or more and atol more than 0, not rtol = {rtol} and atol = {atol}")
    if max_attempts < 1:
        raise MuseError(f"max_attempts must be 1 or more, not {max_attempts}")
    options = {
        "rtol": rtol,
        "atol": atol,
        "overshoot": overshoot,
        "max_attempts": max_attempts,
        "trajectory": trajectory,
    }
    if solver == "torchdiffeq":
        return batch_dopri5.integrate(evaluate, x_0, times, on_time=on_time, **options)
    if times[0] < times[-1]:
        return dopri5.integrate(evaluate, x_0, times, on_time=on_time, **options)
    # Backwards: with s = -t, dx/ds = -v(-s, x), and s increases.
    mirrored = [-t for t in times]
    solution = dopri5.integrate(lambda s, x: -evaluate(-s, x), x_0, mirrored, on_time=lambda s: on_time(-s), **options)
    return replace(solution, times=-solution.times)


def _times(steps: int, t_0: float, t_1: float) -> list[float]:
    """The n + 1 ends of n equal steps, in float64; the last is t_1 to the bit."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise MuseError(f"steps must be a whole number of 1 or more, not {steps!r}")
    return _checked_grid([*(t_0 + (t_1 - t_0) * i / steps for i in range(steps)), t_1])


def _checked_grid(grid: Sequence[float] | Tensor) -> list[float]:
    times = torch.as_tensor(grid, dtype=torch.float64, device="cpu").flatten().tolist()
    gaps = [b - a for a, b in itertools.pairwise(times)]
    if not gaps or not all(map(math.isfinite, times)) or not (min(gaps) > 0 or max(gaps) < 0):
        raise MuseError(
            "the time grid must hold two or more finite times, strictly rising or strictly falling "
            f"(t_0 and t_1 must differ); got {len(times)}: {', '.join(f'{t:g}' for t in times[:5])} ..."
        )
    return times


def _progress(on_step: Callable[[int, int], None] | None, times: list[float]) -> Callable[[float], None]:
    """Turns a reached time into `on_step(i, n)`, called only when i has risen."""
    reported, n = 0, len(times) - 1
    sign = 1 if times[-1] > times[0] else -1

    def on_time(t: float) -> None:
        nonlocal reported
        reached = reported
        while reached < n and sign * times[reached + 1] <= sign * t:
            reached += 1
        if on_step is not None and reached > reported:
            on_step(reached, n)
        reported = reached

    return on_time
