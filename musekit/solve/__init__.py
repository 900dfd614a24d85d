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

import math
from collections.abc import Callable

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
    on_step: Callable[[int, int], None] | None = None,
    cancel: CancelFlag | None = None,
    trajectory: bool = False,
    overshoot: bool = True,
    max_attempts: int = 10_000,
    table: Bespoke | None = None,
) -> Solution:
    r"""Integrate dx/dt = velocity(t, x) from x_0 at t = 0 to t = 1.

    Args:
        velocity: `velocity(t, x) -> dx/dt` with t (B,), one time per sample (at least float32), and x (B, ...),
            both on the device of x_0. Its result has the shape of x and is cast to x's dtype. Where it has a
            method `at(times) -> list`, a fixed-grid solver calls that once with the float64 times (n,) of the grid
            and passes the list's items instead of t: time embeddings are then computed once per grid.
        x_0: (B, ...) floating point, the state at t = 0; not modified. The state keeps its dtype: pass float32
            where the velocity runs in bfloat16.
        solver: one of `SOLVERS`.
        steps: number n of equal steps of a fixed solver. An adaptive solver chooses its own steps: there n
            is only the number of progress reports.
        rtol, atol: an adaptive step is accepted where the root mean square over a sample of
            error / (atol + rtol max(|x|, |x_new|)) is at most 1.
        on_step: `on_step(i, n)`, i rising to n: steps done, or the part of the way that the slowest sample has
            covered. A fixed solver reports queued steps: a GPU may still be computing them.
        cancel: checked before each evaluation.
        trajectory: keep x at all n + 1 times, for n + 1 times the memory; fixed-grid and bespoke solvers only.
        overshoot: an adaptive solver's last step may pass t = 1 and x(1) comes from its interpolant, as in
            torchdiffeq. False ends the last step at t = 1, for a velocity that is undefined beyond.
        max_attempts: most steps, accepted and rejected, that an adaptive solver may try per sample.
        table: the learned times and weights of the solver "bespoke-n"; steps are then ignored.

    Returns:
        Solution: x (B, ...), nfe, accepted, rejected (B,) and, if requested, trajectory (n + 1, B, ...).

    Raises:
        MuseError: unknown solver, steps < 1, an unusable tolerance, x_0 or velocity, an adaptive solver that does
            not reach t = 1 or is asked for its trajectory.
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
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise MuseError(f"steps must be a whole number of 1 or more, not {steps!r}")
    times = [i / steps for i in range(steps + 1)] if table is None else list(table.times)

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

    if not (rtol >= 0 and 0 < atol < math.inf and rtol < math.inf) or max_attempts < 1 or trajectory:
        raise MuseError(
            f"{solver} needs rtol of 0 or more (here {rtol}), atol above 0 ({atol}), max_attempts of 1 or more"
            f" ({max_attempts}), and keeps no trajectory"
        )
    integrate = batch_dopri5.integrate if solver == "torchdiffeq" else dopri5.integrate
    options = {"rtol": rtol, "atol": atol, "overshoot": overshoot, "max_attempts": max_attempts}
    return integrate(evaluate, x_0, on_time=on_time, **options)


def _progress(on_step: Callable[[int, int], None] | None, times: list[float]) -> Callable[[float], None]:
    """Turns a reached time into `on_step(i, n)`, called only when i has risen."""
    reported, n = 0, len(times) - 1

    def on_time(t: float) -> None:
        nonlocal reported
        reached = reported
        while reached < n and times[reached + 1] <= t:
            reached += 1
        if on_step is not None and reached > reported:
            on_step(reached, n)
        reported = reached

    return on_time
