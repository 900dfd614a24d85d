"""What solvers take and return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""`velocity(t, x) -> dx/dt`: t is (B,), one time per sample; x and dx/dt are (B, ...)."""


class Cancelled(Exception):  # noqa: N818 - the user's wish, not an error
    """The caller's cancel flag was set while a solver ran; no part of the solution is kept."""


@dataclass(frozen=True)
class Solution:
    """The end of an integration of dx/dt = velocity(t, x), and what it cost."""

    x: Tensor  # (B, ...) the state at t = 1
    nfe: Tensor  # (B,) int64 on the CPU, evaluations of the velocity per sample: reading it never waits for a GPU
    trajectory: Tensor | None = None  # (n + 1, B, ...) x at all times, if requested


def time_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the times that the velocity gets: that of x, but at least float32.

    bfloat16 has 8 significant bits: near t = 1 it cannot tell 100 steps apart.
    """
    return torch.promote_types(x.dtype, torch.float32)
