"""A few pieces of a Stage 2 in training, decoded now and then to listen to.

<run>/samples/true-<i>.flac               the held-out clip's own latents, decoded once: the best possible result
<run>/samples/<samples seen>-<i>.flac     what Stage 2 makes of that clip's embedding, always from the same noise
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from musekit import distributed, flow, solve
from musekit.config import MuseConfig
from musekit.files import write_atomic
from musekit.stage2 import GuidedStage2, Stage2Inference

PIECES = 4  # held-out clips, shared by the ranks


@torch.no_grad()
def write_previews(network: nn.Module, codec: nn.Module, data, config: MuseConfig, folder: Path, name: str) -> None:
    """Write `<folder>/<name>-<i>.flac` of the first clips of a held-out `Stage2Data`; called on every rank."""
    import soundfile

    device = distributed.device()

    def write(path: Path, latents: Tensor) -> None:
        audio, flac = codec.to(device).decode(latents[None].float().to(device))[0].cpu(), io.BytesIO()
        audio = audio / (audio.abs().max() / 0.99).clamp_min(1.0)
        soundfile.write(flac, audio.T.numpy(), config.codec.sample_rate, format="FLAC", subtype="PCM_16")
        write_atomic(path, flac.getvalue())

    training = network.training
    network.eval()
    for i in range(min(PIECES, len(data)))[distributed.rank() :: distributed.world()]:
        latents = data.latents(i, config.stage2.max_frames)
        if not (own := folder / f"true-{i}.flac").exists():
            write(own, latents)
        write(folder / f"{name}-{i}.flac", piece(network, data.embeddings[i], latents.shape[1], i, config))
    network.train(training)


def piece(network: nn.Module, embedding: Tensor, frames: int, seed: int, config: MuseConfig) -> Tensor:
    """Latents (C, frames) for an embedding (D,), with the preset's solver and guidance."""
    sample, device = config.sample, distributed.device()
    seconds = torch.tensor([[0.0, frames * config.codec.hop / config.codec.sample_rate]], device=device)
    inference = Stage2Inference(network, torch.bfloat16 if device.type == "cuda" else None, compile=False)
    condition = network.condition_pair(embedding[None].to(device), seconds)
    velocity = GuidedStage2(inference, condition, sample.guidance_scale)
    x_0 = flow.noise(seed, 2, frames, config.stage2.latent_dim)[None].to(device)
    return network.latents(solve.solve(velocity, x_0, solver=sample.stage2_solver, steps=sample.stage2_steps).x)[0]
