"""Networks to time: the published shapes with random weights, and random inputs for them.

The time of a matrix product does not depend on its numbers, so nothing is trained or downloaded for a timing.
"""

import dataclasses
import warnings
from pathlib import Path

import torch
from torch import nn

from musekit import oobleck
from musekit.config import Stage1Config, Stage2Config, TextConfig, paper
from musekit.encoders.text import TextEncoder
from musekit.muse import Muse
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
    return dataclasses.replace(config, depth=depth, width=width, kv_heads=kv_heads, condition_dim=kv_heads * head_dim)


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


class Words(TextEncoder):
    """In the place of a text encoder: random states of a prompt, one per word, where an encoder leaves its own."""

    def __init__(self, config: TextConfig):
        self.config = config

    def tokens(self, text: str) -> int:
        """The number of words."""
        return len(text.split())

    def __call__(self, texts, length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Token states (B, L, D) and their mask, on the CPU."""
        states = torch.randn(len(texts), length, self.config.dim, generator=torch.Generator().manual_seed(1))
        return states, torch.arange(length) < torch.tensor([[self.tokens(text)] for text in texts])


def system(quick: bool = False) -> Muse:
    """The paper preset's `Muse` with random weights, `Words` for its text encoder, and no codec."""
    config = paper()
    shape1, shape2 = stage1_config("271M", quick), stage2_config("1.05B", quick)
    shape1 = dataclasses.replace(shape1, gaussian_rank=config.stage1.gaussian_rank)
    muse = Muse(Path(), dataclasses.replace(config, stage1=shape1, stage2=shape2))
    muse.text, muse.weights = Words(config.text), "random"
    muse.stage1 = stage1(shape1, muse.device)
    return muse


def prompt(config: Stage1Config, batch: int, tokens: int, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Random token states (B, L, D) and their mask, all true."""
    generator = torch.Generator(device).manual_seed(1)
    states = torch.randn(batch, tokens, config.text_dim, device=device, generator=generator)
    return states, torch.ones(batch, tokens, dtype=torch.bool, device=device)


def condition(network: StableAudioMuQ, embedding: torch.Tensor | int, seconds: float = 12.0):
    """The joined conditional and unconditional conditioning of embeddings (B, 512), or of B random ones."""
    if isinstance(embedding, int):
        embedding = nn.functional.normalize(torch.randn(embedding, network.config.embedding_dim), dim=-1)
    embedding = embedding.to(network.mean)
    timing = torch.tensor([[0.0, seconds]]).to(network.mean).expand(len(embedding), 2)
    return network.condition_pair(embedding, timing)


def training_batch(config: Stage1Config | Stage2Config, batch: int, device, frames: int | None = None) -> dict:
    """A training batch of random numbers for Stage 1, or for Stage 2 with so many latent frames."""
    shape = (config.dim,) if frames is None else (config.latent_dim, frames)
    x = torch.randn(2, batch, *shape, device=device)
    found = {"x_0": x[0], "x_1": x[1], "t": torch.rand(batch, device=device)}
    found["keep"] = torch.ones(batch, dtype=torch.bool, device=device)
    if frames is None:
        found["tokens"], found["mask"] = prompt(config, batch, 16, device)
        return found
    embedding = torch.randn(batch, config.embedding_dim, device=device)
    found["embedding"] = nn.functional.normalize(embedding, dim=-1)
    found["mask"] = torch.ones(batch, frames, dtype=torch.bool, device=device)
    return found | {"seconds": torch.tensor([[0.0, 12.0]], device=device).expand(batch, 2)}


def oobleck_codec(device: torch.device, quick: bool) -> oobleck.Oobleck:
    """The full-size codec of the published shape, or one with a small decoder, with random weights."""
    from diffusers import AutoencoderOobleck

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers calls an older function of torch
        vae = AutoencoderOobleck(encoder_hidden_size=16, decoder_channels=2) if quick else None
    return oobleck.Oobleck(paper().codec, vae).eval().requires_grad_(False).to(device)


def of_size(stage: int, size: str, quick: bool, device="cpu") -> Text2MuQFlow | StableAudioMuQ:
    """A stage's network of one of SIZES."""
    return stage1(stage1_config(size, quick), device) if stage == 1 else stage2(stage2_config(size, quick), device)


def parameters(network: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in network.parameters())
