"""Solvers of the flow's ordinary differential equation, dx/dt = v(t, x) from noise at t = 0 to data at t = 1.

    euler, midpoint, heun, rk4   `steps` steps, equal or shifted                    in this file
    dopri5                       adaptive: each sample by itself, by torchdiffeq    adaptive.py

NFE, the number of evaluations of the velocity, is the cost of a sample; it is counted per sample.
Every solver treats each sample by itself: its bits depend on the rest of the batch only where the velocity's do.

One step from t to t + h (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, sec. II.1):

    euler      x + h v(t, x)                                                order 1
    midpoint   x + h v(t + h/2, x + h/2 v(t, x))                            order 2
    heun       x + h/2 (k_1 + k_2),  k_2 = v(t + h, x + h k_1)              order 2
    rk4        x + h/6 (k_1 + 2 k_2 + 2 k_3 + k_4)                          order 4

All times and step sizes are put on the device before the loop, and the loop reads nothing back. The host only
queues work, so a GPU never waits for it, and a launch-bound velocity can be captured as a graph. Every sample takes
the same steps, so samples are independent. The updates are products and sums only, which IEEE 754 rounds equally at
every position of the batch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from musekit.config import MuseError, suggest

from . import adaptive
from .types import Cancelled, Solution, Velocity, time_dtype

__all__ = ["NFE_PER_STEP", "SOLVERS", "Cancelled", "Solution", "solve"]


class Step(NamedTuple):
    """One interval of the grid, on the device. Its times are (B,) tensors, or items of the velocity's `at`."""

    t: Tensor  # its start
    t_mid: Tensor | None  # its middle, where the method uses it
    t_end: Tensor | None  # its end, where the method uses it
    h: Tensor  # () its length


def euler(v: Velocity, x: Tensor, s: Step) -> Tensor:
    """x + h v(t, x). x: (B, ...) -> (B, ...)."""
    return x + s.h * v(s.t, x)


def midpoint(v: Velocity, x: Tensor, s: Step) -> Tensor:
    """An Euler half-step finds the slope of the whole step. x: (B, ...) -> (B, ...)."""
    return x + s.h * v(s.t_mid, x + 0.5 * s.h * v(s.t, x))


def heun(v: Velocity, x: Tensor, s: Step) -> Tensor:
    """The mean of the slopes at both ends (the explicit trapezoid). x: (B, ...) -> (B, ...)."""
    k_1 = v(s.t, x)
    k_2 = v(s.t_end, x + s.h * k_1)
    return x + 0.5 * s.h * (k_1 + k_2)


def rk4(v: Velocity, x: Tensor, s: Step) -> Tensor:
    """The classical fourth-order method. x: (B, ...) -> (B, ...)."""
    k_1 = v(s.t, x)
    k_2 = v(s.t_mid, x + 0.5 * s.h * k_1)
    k_3 = v(s.t_mid, x + 0.5 * s.h * k_2)
    k_4 = v(s.t_end, x + s.h * k_3)
    return x + s.h / 6 * (k_1 + 2 * (k_2 + k_3) + k_4)


STEPS: dict[str, tuple[Callable[[Velocity, Tensor, Step], Tensor], int]] = {
    "euler": (euler, 1), "midpoint": (midpoint, 2), "heun": (heun, 2), "rk4": (rk4, 4),
}  # fmt: skip
"""Name -> (step, evaluations of the velocity per step)."""
USES_MIDDLE, USES_END = ("midpoint", "rk4"), ("heun", "rk4")
SOLVERS = (*STEPS, "dopri5")
NFE_PER_STEP = {name: nfe for name, (_, nfe) in STEPS.items()} | {"dopri5": 6}
"""Evaluations per step. dopri5 spends them on rejected steps too, and 2 more at the start."""


def solve(
    velocity: Velocity,
    x_0: Tensor,
    *,
    solver: str = "euler",
    steps: int = 50,
    shift: float = 1.0,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    on_step: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
    trajectory: bool = False,
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
        steps: number n of steps of a fixed solver. dopri5 chooses its own steps: there n is only the number of
            progress reports.
        shift: at 1 steps are equal. Above, more of them lie near noise: t -> t / (shift - (shift - 1) t), the shift of
            Esser et al. 2024 (arXiv 2403.03206).
        rtol, atol: a step of dopri5 is accepted where the root mean square over a sample of
            error / (atol + rtol max(|x|, |x_new|)) is at most 1.
        on_step: `on_step(i, n)`, i rising to n: steps done. A fixed solver reports queued steps: a GPU may still be
            computing them.
        cancel: checked before each evaluation.
        trajectory: keep x at all n + 1 times, for n + 1 times the memory; not with dopri5.

    Returns:
        Solution: x (B, ...), nfe (B,) and, if requested, trajectory (n + 1, B, ...).

    Raises:
        MuseError: unknown solver, steps < 1, an unusable tolerance, x_0 or velocity; dopri5 does not reach t = 1 or is
            asked for its trajectory.
        Cancelled: the flag was set.
    """
    if solver not in SOLVERS:
        raise suggest(solver, SOLVERS, "solver")
    if x_0.dim() == 0 or x_0.numel() == 0 or not x_0.is_floating_point():
        raise MuseError(
            f"x_0 must be a batch (B, ...) of floating-point numbers, not {tuple(x_0.shape)} of {x_0.dtype}"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise MuseError(f"steps must be a whole number of 1 or more, not {steps!r}")

    def evaluate(t: Tensor, x: Tensor) -> Tensor:
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"{solver} was cancelled")
        v = velocity(t, x)
        if v.shape != x.shape:
            raise MuseError(f"the velocity gave {tuple(v.shape)} for a state of {tuple(x.shape)}; they must agree")
        return v.to(x.dtype)

    x_0, at = x_0.contiguous(), getattr(velocity, "at", None)
    if solver in STEPS:
        return _fixed_grid(evaluate, x_0, grid(steps, shift), STEPS[solver], at, trajectory, on_step, solver)
    if not (rtol >= 0 and 0 < atol < math.inf and rtol < math.inf) or trajectory:
        raise MuseError(f"dopri5 needs rtol of 0 or more (here {rtol}), atol above 0 ({atol}), and keeps no trajectory")
    reported = 0

    def on_time(share: float) -> None:
        nonlocal reported
        if on_step is not None and (reached := min(steps, math.floor(steps * share + 1e-9))) > reported:
            reported = reached
            on_step(reached, steps)

    return adaptive.integrate(evaluate, x_0, rtol, atol, on_time)


def grid(steps: int, shift: float = 1.0) -> list[float]:
    """The n + 1 times of n steps, more of which lie near noise where shift > 1."""
    return [i / steps / (shift - (shift - 1) * (i / steps)) for i in range(steps + 1)]


def _fixed_grid(
    velocity: Velocity, x: Tensor, times: Sequence[float], method: tuple[Callable, int],
    at: Callable[[Tensor], Sequence] | None, trajectory: bool, on_step: Callable[[int, int], None] | None,
    solver: str = "",
) -> Solution:  # fmt: skip
    """Step through the n + 1 `times` from x (B, ...).

    method: the step, and its evaluations. at: turns times (m,) float64 into the m items that the velocity gets instead;
    None: (B,) tensors.
    """
    (step, nfe_per_step), batch, n = method, len(x), len(times) - 1
    if at is None:

        def at(moments: Tensor) -> Tensor:  # (m, B): all samples share their times
            return moments.to(x.device, time_dtype(x))[:, None].expand(-1, batch).contiguous()

    # Middles and lengths come from float64 and are rounded once: lengths of float32 times would jitter.
    moments = torch.tensor(times, dtype=torch.float64)
    t = at(moments if solver in USES_END else moments[:-1])
    t_mid = at((moments[1:] + moments[:-1]) / 2) if solver in USES_MIDDLE else [None] * n
    t_end = t[1:] if solver in USES_END else [None] * n
    h = moments.diff().to(device=x.device, dtype=x.dtype)  # (n,)
    path = [x] * trajectory
    for i in range(n):
        x = step(velocity, x, Step(t[i], t_mid[i], t_end[i], h[i]))
        path += [x] * trajectory
        if on_step is not None:
            on_step(i + 1, n)
    return Solution(x, torch.full((batch,), nfe_per_step * n), torch.stack(path) if trajectory else None)
