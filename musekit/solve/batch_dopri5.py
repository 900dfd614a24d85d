"""torchdiffeq's dopri5: one time and one step size for the whole batch (Chen, github.com/rtqichen/torchdiffeq).

It is the reference that `dopri5` is checked against, and it shows the coupling: the error norm is taken over the whole
batch, so a sample's result depends on the rest of its batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from musekit.config import MuseError

from .types import Solution, Velocity


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
    """Integrate x_0 (B, ...) from t = 0 to 1. The counts are the same for all samples.

    Raises MuseError where it needs more than `max_attempts` steps, its step underflows or x is not finite.
    """
    from torchdiffeq import odeint

    batch, calls, tried, accepted = x_0.shape[0], [], [], []

    def slope(t: Tensor, x: Tensor) -> Tensor:
        calls.append(t)
        return velocity(t.expand(batch).contiguous(), x)

    def after_step(t: Tensor, x: Tensor, h: Tensor) -> None:
        accepted.append(t)
        on_time(float(t + h))

    slope.callback_step = lambda t, x, h: tried.append(t)  # torchdiffeq looks for these two attributes
    slope.callback_accept_step = after_step
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x_0.device)
    options = {"max_num_steps": max_attempts} | ({} if overshoot else {"step_t": times[1:]})
    try:
        path = odeint(slope, x_0, times, rtol=rtol, atol=atol, method="dopri5", options=options)
    except AssertionError as error:
        if not str(error).startswith(("max_num_steps exceeded", "underflow in dt", "non-finite values in state")):
            raise  # not torchdiffeq's: an assertion inside the velocity
        raise MuseError(
            f"torchdiffeq: {str(error)[:60]}; look at x_0, the weights and the guidance scale, loosen rtol and atol,"
            " or take a fixed-grid solver"
        ) from error
    on_time(1.0)
    return Solution(
        x=path[-1],
        nfe=torch.full((batch,), len(calls)),
        accepted=torch.full((batch,), len(accepted)),
        rejected=torch.full((batch,), len(tried) - len(accepted)),
    )
