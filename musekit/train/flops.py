"""How much arithmetic a training step is, and how much of it this machine could do: model-FLOPs utilisation.

MFU = operations that the model needs a second / operations that the dense matrix units do at most. Work that is
done twice to save memory (recomputed activations) does not count, so MFU falls with it, as the speed does.
"""

from __future__ import annotations

import time

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode


class TrainingFlops:
    """Operations of a forward and a backward pass, from the shapes of a batch: 2 a multiply-add of every matrix.

    The loss is evaluated once a shape on fake tensors, of which only shapes are computed. The backward pass costs
    twice the forward one: one product for the inputs' gradients, one for the weights'.
    """

    def __init__(self, model: nn.Module):
        self.model, self.known = model, {}

    def __call__(self, batch: dict) -> int:
        """Of one batch; 0 where the loss cannot be evaluated by its shapes alone."""
        key = tuple(tuple(v.shape) for v in batch.values() if torch.is_tensor(v))
        if key not in self.known:
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
                shapes = {k: fake.from_tensor(v) if torch.is_tensor(v) else v for k, v in batch.items()}
                with FlopCounterMode(display=False) as counter:
                    try:
                        self.model.training_loss(shapes)
                        self.known[key] = 3 * counter.get_total_flops()
                    except (RuntimeError, NotImplementedError):  # the loss looks at values
                        self.known[key] = 0
        return self.known[key]


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192, seconds: float = 0.5) -> float:
    """The best rate of a dense (size, size) product that is seen within so many seconds, in operations a second."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < end:
        wait(device)
        began = time.perf_counter()
        for _ in range(4):
            a @ b
        wait(device)
        best = max(best, 8 * size**3 / (time.perf_counter() - began))
    return best


def wait(device: torch.device) -> None:
    """Until all that was queued on a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: torch.device) -> float:
    """GiB: the most that tensors took on this GPU, or this process in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)
