"""Networks to time: the published shapes with random weights, and what a call needs of a prompt.

How long a product takes does not depend on its numbers, so nothing is trained or downloaded for a timing.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from musekit.config import Stage1Config, Stage2Config, paper
from musekit.stage1 import Text2MuQFlow
from musekit.stage2 import StableAudioMuQ

SIZES = ("50M", "271M", "500M", "1.05B")
SHAPES1 = {"50M": (8, 576), "271M": (16, 1024), "500M": (16, 1408), "1.05B": (16, 2048)}  # depth, width
SHAPES2 = {"50M": (10, 512), "271M": (14, 1024), "500M": (25, 1024), "1.05B": (24, 1536)}


def stage1_config(size: str = "271M", quick: bool = False) -> Stage1Config:
    """The paper preset's Stage 1, made wider and deeper or narrower and shallower in its own proportions."""
    config = paper().stage1
    depth, width = (2, 64) if quick else SHAPES1[size]
    if quick:
        width = 32 * (2 + SIZES.index(size))
    return dataclasses.replace(config, depth=depth, width=width, heads=width // (16 if quick else 64), gaussian_rank=0)


def stage2_config(size: str = "1.05B", quick: bool = False) -> Stage2Config:
    """The paper preset's Stage 2 in the same way."""
    config = paper().stage2
    depth, width = (2, 64 * (1 + SIZES.index(size))) if quick else SHAPES2[size]
    heads, head_dim = width // config.head_dim, config.head_dim
    kv_heads = heads // 2 if heads % 2 == 0 else heads
    return dataclasses.replace(
        config, depth=depth, width=width, kv_heads=kv_heads, condition_dim=kv_heads * head_dim,
    )  # fmt: skip


def random(network_class, config, device="cpu", dtype=torch.float32) -> nn.Module:
    """A network with small random weights, made without PyTorch's slow initialisation."""
    with torch.device("meta"):
        network = network_class(config)
    network = network.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith(("std", "variance")) or ("norm" in key and key.endswith("weight")):
                value.fill_(1.0)
            elif value.is_floating_point():
                value.normal_(std=0.02, generator=generator)
    return network.eval().requires_grad_(False)


def stage1(config: Stage1Config, device="cpu") -> Text2MuQFlow:
    """Stage 1 of that shape."""
    return random(Text2MuQFlow, config, device)


def stage2(config: Stage2Config, device="cpu", dtype=torch.float32) -> StableAudioMuQ:
    """Stage 2 of that shape."""
    return random(StableAudioMuQ, config, device, dtype)


def prompt(config: Stage1Config, batch: int, tokens: int, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Token states (B, L, D) and their mask: all of them are there."""
    generator = torch.Generator(device).manual_seed(1)
    states = torch.randn(batch, tokens, config.text_dim, device=device, generator=generator)
    return states, torch.ones(batch, tokens, dtype=torch.bool, device=device)


def condition(network: StableAudioMuQ, batch: int, seconds: float = 12.0):
    """The joined conditional and unconditional rows of random embeddings."""
    like = network.mean
    embedding = nn.functional.normalize(torch.randn(batch, network.config.embedding_dim), dim=-1).to(like)
    timing = torch.tensor([[0.0, seconds]]).to(like).expand(batch, 2)
    return network.condition_pair(embedding, timing)


def parameters(network: nn.Module) -> int:
    """Numbers that are learned or carried."""
    return sum(p.numel() for p in network.parameters())
