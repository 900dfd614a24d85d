"""Dormand-Prince 5(4) with its own time, step size and acceptance for every sample of the batch.

torchdiffeq measures one error over the whole batch and takes one step size for it, so a sample's result depends on the
rest of its batch. Here sample b takes the steps that torchdiffeq takes for a batch of sample b only: the same tableau,
first step, error norm, controller and interpolant (torchdiffeq 0.2.5, `dopri5`), up to rounding.

The velocity always gets the whole (B, ...) batch with one time per sample. Finished samples are evaluated and ignored:
leaving them out would change the batch size, with it the kernels, and so the last bits of the other samples. Step sizes
are Python floats, one sample at a time. That costs one read-back of B numbers per step, which is needed anyway to know
which samples have arrived, and keeps bits independent of the position: torch's float64 `pow` on a CPU rounds 1 % of
values differently in the lanes of a vector and in its scalar tail.

    Dormand & Prince, J. Comp. Appl. Math. 6 (1980) 19; Shampine, Math. Comp. 46 (1986) 135 (the middle);
    Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, sec. II.4 (step sizes).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from musekit.config import MuseError
from musekit.flow import match_dims

from .types import Solution, Velocity, time_dtype

C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)  # stage i is at t + C[i] h
A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # also the fifth-order solution
)
ERROR = (  # fifth-order minus fourth-order weights
    35 / 384 - 1951 / 21600,
    0.0,
    500 / 1113 - 22642 / 50085,
    125 / 192 - 451 / 720,
    -2187 / 6784 - -12231 / 42400,
    11 / 84 - 649 / 6300,
    -1 / 60,
)
MIDDLE = (  # weights of the state half-way through the step
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
NFE_START, NFE_STEP = 2, 6  # the first slope and the probe of the first step; then six new stages per step
ORDER, SAFETY, GROW, SHRINK = 5, 0.9, 10.0, 0.2
MAX_OVERFLOWS = 16  # steps per sample that may overflow; each makes the next a fifth as long


def integrate(
    velocity: Velocity,
    x_0: Tensor,
    *,
    rtol: float,
    atol: float,
    overshoot: bool,
    max_attempts: int,
    on_time: Callable[[float], None],
) -> Solution:
    """Integrate each sample of x_0 (B, ...) from t = 0 to 1; `on_time(t)` gets the time of the slowest sample.

    x(1) comes from the quartic interpolant of the step that reaches or passes t = 1.

    Raises MuseError where a sample needs more than `max_attempts` steps, its step size underflows, or its
    velocity is not finite.
    """
    batch = x_0.shape[0]
    samples = range(batch)
    x, end, t = x_0, x_0.clone(), [0.0] * batch
    slope = velocity(_per_sample(t, x, time_dtype(x)), x)
    h = _first_steps(velocity, x, slope, t, rtol, atol)
    accepted, rejected, overflowed, arrived = [0] * batch, [0] * batch, [0] * batch, [False] * batch

    while running := [b for b in samples if not arrived[b]]:
        t_new = [t[b] + h[b] for b in samples]
        for b in running:
            if not overshoot and t_new[b] > 1.0:
                t_new[b], h[b] = 1.0, 1.0 - t[b]
            check_step(b, t[b], t_new[b], h[b], accepted[b] + rejected[b], max_attempts)

        x_new, k, error = _attempt(velocity, x, slope, t, h, t_new)
        ratio = norms(error / (atol + rtol * torch.maximum(x.abs(), x_new.abs())))

        accept = [False] * batch
        for b in running:
            if math.isnan(ratio[b]):  # a stage overflowed: perhaps only because the step was too long
                ratio[b] = math.inf
            overflowed[b] += ratio[b] == math.inf
            if overflowed[b] > MAX_OVERFLOWS:
                raise not_finite(b, t[b])
            accept[b] = ratio[b] <= 1
            arrived[b] = accept[b] and t_new[b] >= 1.0
        if finished := [b for b in running if arrived[b]]:
            fraction = [(1.0 - t[b]) / (t_new[b] - t[b]) if b in finished else 0.0 for b in samples]
            end[finished] = _interpolated(x, x_new, k, h, fraction)[finished]
        keep = match_dims(torch.tensor(accept, device=x.device), x)
        x, slope = torch.where(keep, x_new, x), torch.where(keep, k[-1], slope)

        for b in running:
            accepted[b] += accept[b]
            rejected[b] += not accept[b]
            t[b] = t_new[b] if accept[b] else t[b]
            h[b] = 0.0 if arrived[b] else next_step(h[b], ratio[b])
        on_time(min(1.0, *t))

    return Solution(
        x=end,
        nfe=torch.tensor([NFE_START + NFE_STEP * (accepted[b] + rejected[b]) for b in samples]),
        accepted=torch.tensor(accepted),
        rejected=torch.tensor(rejected),
    )


def _first_steps(velocity: Velocity, x: Tensor, slope: Tensor, t: list[float], rtol: float, atol: float) -> list[float]:
    """One first step size per sample. Costs one evaluation a little ahead, which measures the curvature."""
    scale = atol + rtol * x.abs()
    size, speed = norms(x / scale), norms(slope / scale)
    check_finite(size, t)
    check_finite(speed, t)
    probe = list(map(probe_step, size, speed))
    ahead = [t_b + probe_b for t_b, probe_b in zip(t, probe, strict=True)]
    x_ahead = x + match_dims(_per_sample(probe, x, x.dtype), x) * slope
    change = velocity(_per_sample(ahead, x, time_dtype(x)), x_ahead) - slope
    bend = [norm / probe_b for norm, probe_b in zip(norms(change / scale), probe, strict=True)]
    check_finite(bend, t)
    return list(map(first_step, probe, speed, bend))


def _attempt(
    velocity: Velocity, x: Tensor, slope: Tensor, t: list[float], h: list[float], t_new: list[float]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """One step of every sample: the new state, the seven slopes and the error, each (B, ...)."""
    dtype = time_dtype(x)
    t_start, t_step, t_end = (_per_sample(values, x, dtype) for values in (t, h, t_new))  # (B,) each
    # Just before the end, as torchdiffeq does: a velocity that jumps at that time is evaluated on this side.
    t_end = torch.nextafter(t_end, t_end - 1)
    h_x = match_dims(_per_sample(h, x, x.dtype), x)
    k = [slope]
    for c, a in zip(C, A, strict=True):
        x_new = x + h_x * _combine(a, k)
        k.append(velocity(t_end if c == 1 else t_start + c * t_step, x_new))
    return x_new, k, h_x * _combine(ERROR, k)


def _interpolated(x: Tensor, x_new: Tensor, k: list[Tensor], h: list[float], fraction: list[float]) -> Tensor:
    """Each sample's state at this fraction of its step, by the quartic through both ends, slopes and the middle."""
    h_x = match_dims(_per_sample(h, x, x.dtype), x)
    middle = x + h_x * _combine(MIDDLE, k)
    s_0, s_1 = h_x * k[0], h_x * k[-1]
    coefficients = (  # lowest first
        x,
        s_0,
        s_1 - 4 * s_0 - 11 * x - 5 * x_new + 16 * middle,
        5 * s_0 - 3 * s_1 + 18 * x + 14 * x_new - 32 * middle,
        2 * (s_1 - s_0) - 8 * (x_new + x) + 16 * middle,
    )
    value, s = x, match_dims(_per_sample(fraction, x, x.dtype), x)
    power = s
    for coefficient in coefficients[1:]:
        value, power = value + power * coefficient, power * s
    return value


def _combine(weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    """Sum over i of weights[i] k[i], by products and sums only."""
    total = weights[0] * k[0]
    for weight, slope in zip(weights[1:], k[1:], strict=True):
        if weight:
            total = total + weight * slope
    return total


def _per_sample(values: list[float], x: Tensor, dtype: torch.dtype) -> Tensor:
    """One number per sample, (B,), on the device of x."""
    return torch.tensor(values, dtype=dtype, device=x.device)


def norms(x: Tensor) -> list[float]:
    """The root mean square of each sample of x (B, ...), on the host."""
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
    """Raises MuseError naming the first sample whose value is infinite or not a number."""
    for row, value in enumerate(values):
        if not math.isfinite(value):
            raise not_finite(row, t[row])


def not_finite(row: int, t: float) -> MuseError:
    """The error of a sample whose velocity is infinite or not a number."""
    return MuseError(
        f"dopri5: the velocity of sample {row} is not finite near t = {t:.6g}; "
        "look at x_0, at the weights and at the guidance scale"
    )


def check_step(row: int, t: float, t_new: float, h: float, tried: int, max_attempts: int) -> None:
    """Raises MuseError where a sample has tried too often, or where its step no longer moves t."""
    if tried >= max_attempts:
        raise MuseError(
            f"dopri5: sample {row} has not arrived after {tried} steps (t = {t:.6g}, step size {h:.3g}); "
            "loosen rtol and atol, raise max_attempts, or take a fixed-grid solver"
        )
    if not t_new > t:
        raise MuseError(
            f"dopri5: the step size of sample {row} underflows at t = {t:.6g} ({h:.3g}): the velocity jumps, "
            "or is too noisy for rtol and atol; loosen them, or take a fixed-grid solver"
        )
