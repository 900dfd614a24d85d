"""LoRA: fine-tuning by small matrices beside the frozen ones, W' = W + B A (Hu et al. 2021, arXiv 2106.09685).

A (rank, inputs) begins random and B (outputs, rank) zero, for every product in a network's blocks. `save` writes A and
B alone; `merge` adds B A to a network's weights, so that sampling is what it was.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from musekit.config import MuseError
from musekit.files import write_atomic

ENDS = (".lora_a", ".lora_b")


class Adapted(nn.Linear):
    """A linear layer with its own weights, frozen, and the two small matrices."""

    on = True  # whether the small matrices count

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs) -> (..., outputs)."""
        y = super().forward(x)
        return y + F.linear(F.linear(x, self.lora_a), self.lora_b) if self.on else y


def adapt(network: nn.Module, rank: int) -> None:
    """Freeze a stage and give every layer of its blocks that is trained small matrices of its own."""
    trained = [m for m in network.blocks.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
    network.requires_grad_(False)
    for parent in list(network.blocks.modules()):
        for name, layer in list(parent.named_children()):
            if any(layer is one for one in trained):
                setattr(parent, name, Adapted(layer, rank))


@contextlib.contextmanager
def off(network: nn.Module):
    """The network as it was before `adapt`, inside the block."""
    layers = [layer for layer in network.modules() if isinstance(layer, Adapted)]
    try:
        for layer in layers:
            layer.on = False
        yield
    finally:
        for layer in layers:
            layer.on = True


class LoRA(NamedTuple):
    """What a file of `save` holds."""

    part: str  # the stage that it fine-tunes
    small: dict[str, Tensor]  # its matrices
    about: dict[str, str]  # what else was saved: of a student (`distil`) its steps, shift and teacher


def save(path: Path, part: str, state: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write the small matrices in a network's state in half precision, and whose they are."""
    small = {name: value.detach().cpu().half().contiguous() for name, value in state.items() if name.endswith(ENDS)}
    write_atomic(path, to_bytes(small, about | {"part": part}))


def read(path: Path) -> LoRA:
    """A file of `save`. Raises MuseError when it is no such file."""
    try:
        with safe_open(path, "pt") as file:
            small = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - it is no dict
            about = dict(file.metadata())
            return LoRA(about.pop("part"), small, about)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise MuseError(f"{path} holds no LoRA ({error}): `musekit train --train.lora` writes one") from error


@torch.no_grad()
def merge(network: nn.Module, small: dict[str, Tensor]) -> None:
    """Add the products of the small matrices to a network's weights. Raises MuseError for those of another network."""
    weights = dict(network.named_parameters())
    try:
        for name in {name.rpartition(".")[0] for name in small}:
            a, b, weight = small[f"{name}.lora_a"], small[f"{name}.lora_b"], weights[f"{name}.weight"]
            if (len(b), a.shape[-1]) != weight.shape:  # before the product takes memory
                raise KeyError(f"{name} is {tuple(weight.shape)}")
            weight.add_(b @ a)
    except (KeyError, RuntimeError) as error:
        raise MuseError(f"this LoRA is of another network: {str(error).splitlines()[0]:.100}") from error
