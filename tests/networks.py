"""Small random networks of both stages and inputs for them, which the tests of the networks share."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from musekit.config import Stage1Config, Stage2Config
from musekit.stage1 import Text2MuQFlow
from musekit.stage2 import StableAudioMuQ

B, L, T = 3, 7, 11  # batch size, text tokens, latent frames
STAGE1 = Stage1Config(dim=24, text_dim=12, width=32, depth=3, heads=4, ff_mult=2, gaussian_rank=5)
STAGE1_WIDE = Stage1Config(dim=64, text_dim=48, width=256, depth=4, heads=8, ff_mult=4, gaussian_rank=0)
STAGE2 = Stage2Config(
    latent_dim=4, embedding_dim=12, condition_dim=12, width=32, depth=2, head_dim=8, kv_heads=2, max_frames=19
)
STABLE_AUDIO = dataclasses.replace(
    STAGE2, modulation=False, patch=1, ff_mult=4.0, stable_audio=True, time_dim=6, number_dim=256, max_seconds=64.0
)
STAGE2_WIDE = dataclasses.replace(
    STAGE2, width=128, head_dim=32, kv_heads=1, embedding_dim=24, condition_dim=32, depth=4
)


def randomise(network: nn.Module, std: float, dtype=torch.float64) -> nn.Module:
    """Draw every weight: layers that start at zero would hide mistakes."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std)
    return network.to(dtype).eval()


def stage1(config=STAGE1, dtype=torch.float64, std: float = 0.3) -> Text2MuQFlow:
    """Random weights, and the scale and principal directions of random data."""
    network = randomise(Text2MuQFlow(config), std)
    network.fit_scale(torch.randn(60, config.dim).double() @ torch.randn(config.dim, config.dim).double())
    return network.to(dtype).requires_grad_(False)


def texts(config=STAGE1, dtype=torch.float64, length: int = L):
    """Token states (B, L, D) and masks of texts of different lengths."""
    lengths = torch.tensor([length, 1, 3])
    tokens = torch.randn(B, length, config.text_dim, generator=torch.Generator().manual_seed(1))
    return tokens.to(dtype), torch.arange(length)[None] < lengths[:, None]


def stage2(config=STAGE2, dtype=torch.float64, std: float = 0.2) -> StableAudioMuQ:
    return randomise(StableAudioMuQ(config), std, dtype).requires_grad_(False)


def conditions(config=STAGE2, dtype=torch.float64, batch: int = B):
    """Unit embeddings (B, 512) and seconds (B, 2)."""
    rng = torch.Generator().manual_seed(2)
    embedding = F.normalize(torch.randn(batch, config.embedding_dim, generator=rng, dtype=torch.float64), dim=-1)
    seconds = torch.tensor([[0.0, 0.5], [1.0, 0.5], [0.0, 12.0]] * batch, dtype=torch.float64)[:batch]
    return embedding.to(dtype), seconds.to(dtype)


def relative_error(x, exact) -> float:
    return float((x.double() - exact).norm() / exact.norm())


def state_at(shape, dtype=torch.float64):
    """x_t (B, ...) and one time per sample (B,), which float32 can represent."""
    rng = torch.Generator().manual_seed(4)
    return torch.randn(B, *shape, generator=rng, dtype=torch.float32).to(dtype), torch.tensor(
        [0.25, 0.6875, 0.96875]
    ).to(dtype)
