"""Explicit Runge-Kutta methods on a fixed grid: Euler, midpoint, Heun, RK4.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""`velocity(t, x) -> dx/dt`: t is (B,), one time per sample; x and dx/dt are (B, ...)."""


class CancelFlag(Protocol):
    """Anything with `is_set()`, such as a `threading.Event`."""

    def is_set(self) -> bool: ...


class Cancelled(Exception):  # noqa: N818 - the user's wish, not an error
    """The caller's cancel flag was set while a solver ran; no part of the solution is kept."""


@dataclass(frozen=True)
class Solution:
    """The end of an integration of dx/dt = velocity(t, x), and what it cost.

    The three counts are on the CPU whatever the device of x, so reading them never waits for a GPU.
    """

    x: Tensor  # (B, ...) the state at t_1
    nfe: Tensor  # (B,) int64, evaluations of the velocity per sample
    accepted: Tensor  # (B,) int64, steps taken
    rejected: Tensor  # (B,) int64, steps tried and discarded; 0 on a fixed grid
    trajectory: Tensor | None = None  # (n + 1, B, ...) x at `times`, if requested


def time_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the times that the velocity gets: that of x, but at least float32.

    bfloat16 has 8 significant bits: near t = 1 it cannot tell 100 steps apart.
    """
    return torch.promote_types(x.dtype, torch.float32)


def counts(values: list[int] | int, batch: int) -> Tensor:
    """A (batch,) int64 tensor on the CPU, from one number per sample or one for all."""
    return torch.tensor([values] * batch if isinstance(values, int) else values, dtype=torch.int64)


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
    "euler": (euler, 1),
    "midpoint": (midpoint, 2),
    "heun": (heun, 2),
    "rk4": (rk4, 4),
}
"""Name -> (step, evaluations of the velocity per step)."""
USES_MIDDLE, USES_END = ("midpoint", "rk4"), ("heun", "rk4")


def integrate(
    velocity: Velocity,
    x_0: Tensor,
    times: list[float],
    *,
    solver: str,
    trajectory: bool,
    on_time: Callable[[float], None],
    at: Callable[[Tensor], Sequence] | None = None,
) -> Solution:
    """Step through the n + 1 `times` from x_0 (B, ...). `on_time(t)` is called when each step is queued.

    at: turns times (m,) float64 into the m items that the velocity gets instead; None: (B,) tensors.
    """
    step, nfe_per_step = STEPS[solver]
    batch, n = x_0.shape[0], len(times) - 1
    if at is None:

        def at(moments: Tensor) -> Tensor:  # (m, B): all samples share their times
            return moments.to(x_0.device, time_dtype(x_0))[:, None].expand(-1, batch).contiguous()

    # Middles and lengths come from float64 and are rounded once: lengths of float32 times would jitter.
    grid = torch.tensor(times, dtype=torch.float64)
    t = at(grid if solver in USES_END else grid[:-1])
    t_mid = at((grid[1:] + grid[:-1]) / 2) if solver in USES_MIDDLE else [None] * n
    t_end = t[1:] if solver in USES_END else [None] * n
    h = grid.diff().to(device=x_0.device, dtype=x_0.dtype)  # (n,)

    x = x_0
    path = [x_0]
    for i in range(n):
        x = step(velocity, x, Step(t[i], t_mid[i], t_end[i], h[i]))
        if trajectory:
            path.append(x)
        on_time(times[i + 1])
    return Solution(
        x=x,
        nfe=counts(nfe_per_step * n, batch),
        accepted=counts(n, batch),
        rejected=counts(0, batch),
        trajectory=torch.stack(path) if trajectory else None,
    )
