"""Arithmetic of a training step, and the most that this machine could do: model-FLOPs utilisation (MFU).

MFU = FLOPs per second that the model needs / FLOPs per second of the dense matrix units. Recomputed activations do not
count as needed, so recomputation lowers MFU as it lowers the speed.
"""

from __future__ import annotations

import contextlib
import sys

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class TrainingFlops:
    """FLOPs of a forward and a backward pass, from the shapes of a batch: 2 per multiply-add of every matrix product.

    The loss is evaluated once per shape, on fake tensors. The backward pass costs twice the forward pass: one product
    for the gradients of the inputs, one for those of the weights.
    """

    def __init__(self, model: nn.Module):
        self.model, self.known = model, {}

    def __call__(self, batch: dict) -> int:
        """FLOPs of one batch; 0 where the loss depends on values and cannot be evaluated by shapes."""
        key = tuple(tuple(v.shape) for v in batch.values() if torch.is_tensor(v))
        if key not in self.known:
            self.known[key] = 0
            with (
                contextlib.suppress(RuntimeError, NotImplementedError),
                torch.no_grad(),
                FakeTensorMode(allow_non_fake_inputs=True) as fake,
                sdpa_kernel(SDPBackend.MATH),  # the counter does not know the CPU's flash attention
                FlopCounterMode(display=False) as counter,
            ):
                self.model.training_loss(
                    {k: fake.from_tensor(v) if torch.is_tensor(v) else v for k, v in batch.items()}
                )
                self.known[key] = 3 * counter.get_total_flops()
        return self.known[key]


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192, seconds: float = 0.5) -> float:
    """The best rate of a dense (size, size) product within so many seconds, in FLOPs per second."""
    from torch.utils.benchmark import Timer  # writes a line when it is imported

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timer = Timer("a @ b", globals={"a": a, "b": b})  # waits for the GPU
    return 2 * size**3 / min(timer.blocked_autorange(min_run_time=seconds).times)


def peak_memory(device: torch.device) -> float:
    """GiB: the peak of this GPU's tensors, or of this process in RAM (0 on Windows, which does not say)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
