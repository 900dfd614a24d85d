"""Step sizes of `dopri5`: the first one, the next one, and when to give up.

All of it works on Python floats, one row at a time. That costs one read-back of B numbers a step, which is
needed anyway to know who has finished, and it keeps the bits of a row apart from its position: torch's
float64 `pow` on the CPU rounds 1 % of values one way in the lanes of a vector, another in its scalar tail.

    Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, sec. II.4; torchdiffeq 0.2.5.
"""

from __future__ import annotations

import math

from torch import Tensor

from musekit.config import MuseError

from .solution import time_dtype

ORDER, SAFETY, GROW, SHRINK = 5, 0.9, 10.0, 0.2
PATIENCE = 16  # steps of a row that may overflow; each makes the next a fifth as long


def norms(x: Tensor) -> list[float]:
    """The root mean square of each row of x (B, ...), on the host."""
    squares = x.detach().to(time_dtype(x)).reshape(x.shape[0], -1).square()
    return [math.sqrt(mean) for mean in squares.mean(dim=1).tolist()]


def probe_step(size: float, speed: float) -> float:
    """A small first guess, from the scaled norms of x and of its slope: a step that moves x by 1 %."""
    return 1e-6 if size < 1e-5 or speed < 1e-5 else 0.01 * size / speed


def first_step(probe: float, speed: float, bend: float) -> float:
    """The step on which an Euler step errs by 1 % of the tolerance, from the scaled slope and curvature."""
    if speed <= 1e-15 and bend <= 1e-15:
        return min(100 * probe, max(1e-6, 1e-3 * probe))
    return min(100 * probe, (0.01 / max(speed, bend)) ** (1 / ORDER))


def next_step(h: float, ratio: float) -> float:
    """h times 0.9 ratio^(-1/5): at most 10 times as long, at least a fifth, never shorter after a success.

    ratio is the scaled error of the step just tried, which is accepted where ratio <= 1.
    """
    if ratio == 0:
        return h * GROW
    return h * min(GROW, max(SAFETY / ratio ** (1 / ORDER), 1.0 if ratio < 1 else SHRINK))


def check_finite(values: list[float], t: list[float]) -> None:
    """Raises MuseError naming the first row whose value is infinite or not a number."""
    for row, value in enumerate(values):
        if not math.isfinite(value):
            raise not_finite(row, t[row])


def not_finite(row: int, t: float) -> MuseError:
    """The error of a row whose velocity is infinite or not a number."""
    return MuseError(
        f"dopri5: the velocity of row {row} is not finite near t = {t:.6g}; "
        "look at x_0, at the weights and at the guidance scale"
    )


def check_step(row: int, t: float, t_new: float, h: float, tried: int, max_attempts: int) -> None:
    """Raises MuseError where a row has tried too often, or where its step no longer moves t."""
    if tried >= max_attempts:
        raise MuseError(
            f"dopri5: row {row} has not arrived after {tried} steps (t = {t:.6g}, step size {h:.3g}); "
            "loosen rtol and atol, raise max_attempts, or take a fixed-grid solver"
        )
    if not t_new > t:
        raise MuseError(
            f"dopri5: the step size of row {row} underflows at t = {t:.6g} ({h:.3g}): the velocity jumps, "
            "or is too noisy for rtol and atol; loosen them, or take a fixed-grid solver"
        )
