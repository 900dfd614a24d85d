"""What a solver gives back, and the two ways in which it can stop early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""`velocity(t, x) -> dx/dt`: t is (B,), one time a row; x and dx/dt are (B, ...)."""


class CancelFlag(Protocol):
    """Anything with `is_set()`, such as a `threading.Event`."""

    def is_set(self) -> bool: ...


class Cancelled(Exception):  # noqa: N818 - it is the user's wish, not an error
    """The caller's cancel flag was set while a solver ran; no part of the solution is kept."""


@dataclass(frozen=True)
class Solution:
    """The end of an integration of dx/dt = velocity(t, x), and what it cost.

    The three counts live on the CPU whatever the device of x: reading them never waits for an accelerator.
    """

    x: Tensor  # (B, ...) the state at t_1
    nfe: Tensor  # (B,) int64, evaluations of the velocity that each row used
    accepted: Tensor  # (B,) int64, steps taken
    rejected: Tensor  # (B,) int64, steps tried and thrown away; 0 on a fixed grid
    times: Tensor  # (n + 1,) float64, the grid: where a fixed solver steps, where an adaptive one reports
    trajectory: Tensor | None = None  # (n + 1, B, ...) x at `times`, where it was asked for


def time_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the times shown to the velocity: that of x, but at least float32.

    bfloat16 has 8 significant bits: of 100 steps near t = 1 it could tell only every second one apart.
    """
    return torch.promote_types(x.dtype, torch.float32)


def counts(values: list[int] | int, batch: int) -> Tensor:
    """A (batch,) int64 tensor on the CPU, of one number a row or of one for all."""
    return torch.tensor([values] * batch if isinstance(values, int) else values, dtype=torch.int64)
