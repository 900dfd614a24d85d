"""CUDA graphs: a function of tensors of fixed shapes, recorded once and launched as one.

Stage 1 is hundreds of small kernels a step, and the host cannot queue them as fast as a GPU runs them. A recorded
graph is queued by one call. It reads and writes fixed memory, so what changes is copied in before each launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

KEPT = 8  # recordings of different shapes that a network keeps; each holds the memory of its intermediate results


class Recorded:
    """One function's recording: `of(function, held)` says what it reads and does not change, a call gives the rest."""

    def __init__(self):
        self.graph: torch.cuda.CUDAGraph | None = None
        self.source: list[Tensor] = []  # what was last copied to `held`
        self.held: list[Tensor] = []
        self.inputs: list[Tensor] = []

    def of(self, function: Callable[..., Tensor], held: Sequence[Tensor]) -> Recorded:
        """Copy `held` (the prompt's tensors) to where the graph reads them, unless they are those that lie there."""
        self.function = function
        if not self.held:
            self.held = [tensor.clone() for tensor in held]
        if len(self.source) != len(held) or any(a is not b for a, b in zip(self.source, held)):
            for mine, given in zip(self.held, held, strict=True):
                mine.copy_(given)
            self.source = list(held)
        return self

    def __call__(self, *inputs: Tensor) -> Tensor:
        """function(*held, *inputs). The result is a new tensor."""
        if self.graph is None:
            self._record(inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self.output.clone()  # a solver keeps several slopes; the next launch writes over this one

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            aside
        ):  # libraries choose kernels and workspace in their first runs, which is no graph's
            for _ in range(3):
                self.function(*self.held, *self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # another thread may use the GPU
            self.output = self.function(*self.held, *self.inputs)
