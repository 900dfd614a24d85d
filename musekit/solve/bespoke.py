r"""Bespoke non-stationary solvers: few steps, whose times and weights were learned for one network.

Step i of n takes any linear combination of what is known (Shaul et al. 2024, arXiv 2403.01329, eq. 14):

    x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_j,    u_j = v(t_j, x_j),    0 = t_0 < t_1 < ... < t_n = 1

One evaluation a step and n (n + 5) / 2 - 1 free numbers. Every explicit Runge-Kutta or multistep method of so many
evaluations is a choice of them: Euler is a_i = 1, b_ij = t_{j+1} - t_j, Adams-Bashforth of order 2 another. How they
are learned: `musekit.solve.fit`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from musekit.config import MuseError

from .solution import Solution, Velocity, counts, time_dtype

NAME = re.compile(r"bespoke-([1-9][0-9]?)(?:@([0-9a-f]{8}))?")  # bespoke-8, or with what names its numbers exactly
LARGEST = 1e4  # a weight beyond this is no solver's


def evaluations(name: object) -> int | None:
    """n of "bespoke-n" or "bespoke-n@hash"; None for any other name."""
    found = NAME.fullmatch(name) if isinstance(name, str) else None
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Bespoke:
    """One solver of n steps."""

    times: tuple[float, ...]  # (n + 1,) strictly rising
    weights: tuple[tuple[float, ...], ...]  # n rows; row i holds a_i, b_i0, ..., b_ii

    def __post_init__(self):
        n, gaps = len(self.weights), [b - a for a, b in itertools.pairwise(self.times)]
        numbers = [*self.times, *itertools.chain(*self.weights)]
        fits = n > 0 and len(self.times) == n + 1 and all(len(row) == i + 2 for i, row in enumerate(self.weights))
        if not fits or not all(isinstance(x, float) and abs(x) < LARGEST for x in numbers) or min(gaps) <= 0:
            raise MuseError("a bespoke solver needs n + 1 rising times and n rows of 2, 3, ..., n + 1 finite weights")

    @property
    def nfe(self) -> int:
        """Evaluations of the velocity, n."""
        return len(self.weights)

    @classmethod
    def of(cls, times: Sequence[float], weights: Sequence[Sequence[float]]) -> Bespoke:
        """From any sequences of numbers, such as JSON's. Raises MuseError where they are no solver."""
        try:
            rows = tuple(tuple(float(w) for w in row) for row in weights)
            return cls(tuple(float(t) for t in times), rows)
        except (TypeError, ValueError, OverflowError) as error:
            raise MuseError(f"these are no numbers of a bespoke solver ({error})") from error

    @classmethod
    def euler(cls, times: Sequence[float]) -> Bespoke:
        """Euler's method on that grid, to the bit."""
        h = [b - a for a, b in itertools.pairwise(times)]
        return cls.of(times, [[1.0, *h[: i + 1]] for i in range(len(h))])

    @classmethod
    def adams_bashforth(cls, times: Sequence[float]) -> Bespoke:
        """Adams-Bashforth of order 2 on that grid, its first step Euler's (Hairer, Norsett & Wanner, sec. III.1, 5)."""
        h = [b - a for a, b in itertools.pairwise(times)]
        rows = [[1.0, h[0]]]
        for i in range(1, len(h)):
            ratio = h[i] / h[i - 1]
            row = [*rows[-1], h[i] * (1 + ratio / 2)]
            row[-2] -= h[i] * ratio / 2
            rows.append(row)
        return cls.of(times, rows)


def integrate(
    velocity: Velocity,
    x_0: Tensor,
    table: Bespoke,
    *,
    trajectory: bool = False,
    on_time: Callable[[float], None] = lambda t: None,
    at: Callable[[Tensor], Sequence] | None = None,
) -> Solution:
    """Step through the table's times from x_0 (B, ...); the arguments are those of `fixed.integrate`.

    Memory: the n velocities are kept. The sums are taken one product and one sum at a time, which IEEE 754 rounds alike
    wherever in the batch a row lies.
    """
    batch, n, grid = x_0.shape[0], table.nfe, torch.tensor(table.times, dtype=torch.float64)
    if at is None:
        moments = grid[:-1].to(x_0.device, time_dtype(x_0))[:, None].expand(-1, batch).contiguous()  # (n, B)
    else:
        moments = at(grid[:-1])
    x, known, path = x_0, [x_0], [x_0]
    for i, row in enumerate(table.weights):
        known.append(velocity(moments[i], x))
        x = combine(row, known)
        if trajectory:
            path.append(x)
        on_time(table.times[i + 1])
    return Solution(
        x=x,
        nfe=counts(n, batch),
        accepted=counts(n, batch),
        rejected=counts(0, batch),
        times=grid,
        trajectory=torch.stack(path) if trajectory else None,
    )


def combine(row: Sequence[float], known: Sequence[Tensor]) -> Tensor:
    """a x_0 + b_0 u_0 + ..., from left to right."""
    x = known[0] if row[0] == 1.0 else row[0] * known[0]
    for weight, u in zip(row[1:], known[1:], strict=True):
        x = x + weight * u
    return x


def power(n: int, p: float = 1.0, q: float = 1.0) -> list[float]:
    """The grid t = 1 - (1 - s^p)^q for n + 1 even s in [0, 1]: p > 1 steps finely near noise, q > 1 near data."""
    if not (p > 0 and q > 0 and math.isfinite(p) and math.isfinite(q)):
        raise MuseError(f"a grid's powers must be more than 0, not {p:g} and {q:g}")
    return [0.0, *(1 - (1 - (i / n) ** p) ** q for i in range(1, n)), 1.0]
