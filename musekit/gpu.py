"""Devices and their precision, and what keeps a GPU busy while sampling: compiled blocks, recorded CUDA graphs.

A block is compiled once per shape, which takes seconds; torch caches the result on disk. That pays for full-size
networks; a small network would wait longer for the compiler than for its music. Stage 1 needs hundreds of small kernels
per step, more than the host can launch in that time. A CUDA graph records them once and launches them by one call.
"""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MIN_COMPILED_PARAMETERS = 100_000_000  # smaller networks are not compiled
RECOMPILE_LIMIT = 64  # shapes of one block that torch keeps compiled; its default of 8 is too few for a benchmark
MAX_GRAPHS = 8  # recorded shapes per network; each holds the memory of its intermediate results


def device() -> torch.device:
    """This process's GPU if the machine has one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


def fast_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively (NVIDIA's GPUs from the A100 on, AMD's GPUs, CPUs with
    `matrix_units`), else float32. It is decided by what the device is, not measured: a recipe's bits never change.
    """
    on_gpu = device.type == "cuda"
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else bool(matrix_units())
    return torch.bfloat16 if fast else torch.float32


def matrix_units() -> str:
    """The CPU's instructions that multiply bfloat16: "AMX" (Intel), "AVX512_BF16" (AMD from Zen 4 on, some of Intel's),
    or "" where it has none that torch uses."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else ""


def compiled(block: Callable[..., Tensor], network: nn.Module) -> Callable[..., Tensor]:
    """`block` compiled if `network` is large and on a GPU; otherwise `block` itself."""
    parameter = next(network.parameters())
    large = sum(p.numel() for p in network.parameters()) >= MIN_COMPILED_PARAMETERS
    return compile_block(block) if parameter.is_cuda and large else block


def compile_block(block: Callable[..., Tensor], dynamic: bool = False) -> Callable[..., Tensor]:
    """`torch.compile`, which falls back on the block itself, with a warning, where the compiler fails.

    dynamic: compile once for all batch sizes and lengths.
    """
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
    return torch.compile(block, dynamic=dynamic)


class CudaGraph:
    """A recording of function(*fixed, *inputs): `fixed` changes per prompt, `inputs` per call; shapes never do."""

    def __init__(self):
        self.graph: torch.cuda.CUDAGraph | None = None
        self.source: list[Tensor] = []  # the tensors last copied to `fixed`
        self.fixed: list[Tensor] = []
        self.inputs: list[Tensor] = []

    @classmethod
    def cached(cls, graphs: dict, key: tuple, function: Callable, fixed: Sequence[Tensor]) -> "CudaGraph":
        """The recording under `key`, reading `fixed`; beyond `MAX_GRAPHS` recordings the oldest is dropped."""
        if key not in graphs and len(graphs) == MAX_GRAPHS:
            del graphs[next(iter(graphs))]
        graph = graphs.setdefault(key, cls())
        graph.function = function
        if not graph.fixed:
            graph.fixed = [tensor.clone() for tensor in fixed]
        if len(graph.source) != len(fixed) or any(a is not b for a, b in zip(graph.source, fixed)):
            for target, given in zip(graph.fixed, fixed, strict=True):
                target.copy_(given)
            graph.source = list(fixed)
        return graph

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """function(*fixed, *inputs) as a new tensor, or as a tuple of new ones."""
        if self.graph is None:
            self._record(inputs)
        for target, given in zip(self.inputs, inputs, strict=True):
            target.copy_(given)
        self.graph.replay()
        # clones: a solver keeps several slopes, and the next launch overwrites them
        return self.output.clone() if torch.is_tensor(self.output) else tuple(part.clone() for part in self.output)

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # first runs choose kernels and workspace, which a graph must not record
            for _ in range(3):
                self.function(*self.fixed, *self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # another thread may use the GPU
            self.output = self.function(*self.fixed, *self.inputs)
