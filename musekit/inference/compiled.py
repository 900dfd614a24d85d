"""`torch.compile` of one block, which all layers share: a GPU runs what lies between two products as one kernel.

A block is compiled once for a shape, in some seconds, and kept on disk by torch. That pays for full-size networks; for
small ones it would take longer than the music. Training compiles blocks where it is asked to (`--train.compile`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

LARGE = 100_000_000  # parameters from which a network's blocks are compiled

SHAPES = 64  # of which torch keeps a compiled block; its own 8 are fewer than a bench has


def compiled(block: Callable[..., Tensor], network: nn.Module) -> Callable[..., Tensor]:
    """The block compiled, where the network lies on a GPU and is large; else, or where compiling fails, itself."""
    place = next(network.parameters())
    if not place.is_cuda or sum(p.numel() for p in network.parameters()) < LARGE:
        return block
    return Compiled(block)


class Compiled:
    """A compiled function that falls back on the plain one, with a warning, where there is no compiler."""

    def __init__(self, function: Callable[..., Tensor]):
        torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
        self.plain, self.fast = function, torch.compile(function, dynamic=False)

    def __call__(self, *arguments) -> Tensor:
        if self.fast is None:
            return self.plain(*arguments)
        try:
            return self.fast(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            told = (str(error).splitlines() or [""])[0]
            warnings.warn(f"torch.compile failed ({told}): the work goes on without it, slower", stacklevel=2)
            self.fast = None
            return self.plain(*arguments)


def has_triton() -> bool:
    """Whether kernels can be compiled for this machine's GPU."""
    from torch.utils._triton import has_triton

    return has_triton()
