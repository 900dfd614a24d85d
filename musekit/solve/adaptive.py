"""dopri5, Dormand and Prince's adaptive method of order 5, by torchdiffeq (Chen, github.com/rtqichen/torchdiffeq).

torchdiffeq takes one step size for a whole batch, so a sample's result would depend on its neighbours. Here it
integrates one sample after the other. The velocity still gets the whole batch, since another batch size would choose
other kernels, and so other last bits: a batch of B costs B times as much. It is the solver to compare others with.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from musekit.config import MuseError

from .types import Solution, Velocity

MAX_STEPS = 10_000  # accepted and rejected, per sample


def integrate(velocity: Velocity, x_0: Tensor, rtol: float, atol: float, on_time: Callable[[float], None]) -> Solution:
    """Integrate each sample of x_0 (B, ...) from t = 0 to 1; `on_time` gets the share of the work that is done.

    Raises MuseError where a sample needs more than `MAX_STEPS` steps, its step underflows or its state is not finite.
    """
    from torchdiffeq import odeint

    ends, nfe, batch = x_0.clone(), torch.zeros(len(x_0), dtype=torch.int64), len(x_0)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x_0.device)
    options = {"max_num_steps": MAX_STEPS, "step_t": times[1:]}  # a step ends at 1, none goes beyond
    for b in range(batch):

        def slope(t: Tensor, x: Tensor, b=b) -> Tensor:
            nfe[b] += 1
            states = x_0.clone()
            states[b] = x[0]
            return velocity(t.expand(batch).contiguous(), states)[b : b + 1]

        slope.callback_accept_step = lambda t, x, h, b=b: on_time((b + float(t + h)) / batch)
        try:
            path = odeint(slope, x_0[b : b + 1], times, rtol=rtol, atol=atol, method="dopri5", options=options)
            ends[b] = path[-1, 0]
        except AssertionError as error:
            if not str(error).startswith(("max_num_steps exceeded", "underflow in dt", "non-finite values in state")):
                raise  # not torchdiffeq's: an assertion inside the velocity
            raise MuseError(
                f"dopri5: sample {b}: {str(error)[:60]}; look at x_0, the weights and the guidance scale, loosen rtol"
                " and atol, or take a fixed-grid solver"
            ) from error
    return Solution(ends, nfe)
