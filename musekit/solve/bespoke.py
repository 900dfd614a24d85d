r"""Bespoke non-stationary solvers: few steps, with times and weights learned for one network.

Step i of n takes any linear combination of what is known (Shaul et al. 2024, arXiv 2403.01329, eq. 14):

    x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_j,    u_j = v(t_j, x_j),    0 = t_0 < t_1 < ... < t_n = 1

One evaluation per step and n (n + 5) / 2 - 1 free numbers. Every explicit Runge-Kutta or multistep method of n
evaluations is a choice of them; Euler is a_i = 1, b_ij = t_{j+1} - t_j.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from musekit.config import MuseError

from .types import Velocity

MAX_WEIGHT = 1e4


@dataclass(frozen=True)
class Bespoke:
    """One solver of n steps. Raises MuseError where the numbers are no solver."""

    times: tuple[float, ...]  # (n + 1,) strictly rising
    weights: tuple[tuple[float, ...], ...]  # n of them; the i-th holds a_i, b_i0, ..., b_ii

    def __post_init__(self):
        n, gaps = len(self.weights), [b - a for a, b in itertools.pairwise(self.times)]
        numbers = [*self.times, *itertools.chain(*self.weights)]
        fits = n > 0 and len(self.times) == n + 1 and all(len(w) == i + 2 for i, w in enumerate(self.weights))
        if not fits or not all(abs(x) < MAX_WEIGHT for x in numbers) or min(gaps) <= 0:
            raise MuseError("a bespoke solver needs n + 1 rising times and n lists of 2, 3, ..., n + 1 finite weights")


def stepper(table: Bespoke, x_0: Tensor) -> Callable[[Velocity, Tensor, object], Tensor]:
    """The table's steps from x_0 (B, ...), for a fixed grid of its times: each call makes the next one.

    Memory: all n velocities. Sums are taken one product and one sum at a time, which IEEE 754 rounds equally at every
    position of the batch.
    """
    velocities, rows = [], iter(table.weights)

    def step(velocity: Velocity, x: Tensor, s) -> Tensor:
        a, *b = next(rows)
        velocities.append(velocity(s.t, x))
        x = x_0 if a == 1.0 else a * x_0
        for weight, u in zip(b, velocities, strict=True):
            x = x + weight * u
        return x

    return step
