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
from musekit.config import MuseConfig, MuseError
from musekit.files import write_atomic
from musekit.stage2 import GuidedStage2, Stage2Inference

PIECES = 4  # held-out clips, shared by the ranks


class Previews:
    """Called with the moving average and the number of samples that it has seen, by all ranks together.

    Raises MuseError when the codec does not fit the cache.
    """

    def __init__(self, codec: nn.Module, validation, config: MuseConfig, run_folder: Path):
        self.codec, self.data, self.config = codec.to(distributed.device()), validation, config
        self.folder = Path(run_folder) / "samples"
        if (channels := self.data.latents(0, 1).shape[0]) != config.codec.latent_dim:
            raise MuseError(f"the codec decodes {config.codec.latent_dim} channels, the cache holds {channels}")

    @torch.no_grad()
    def __call__(self, network: nn.Module, samples: int) -> None:
        training = network.training
        network.eval()
        for i in range(min(PIECES, len(self.data)))[distributed.rank() :: distributed.world()]:
            if not (self.folder / f"true-{i}.flac").exists():
                self.write(f"true-{i}", self.data.latents(i, self.config.stage2.max_frames))
            self.write(f"{samples:012d}-{i}", self.piece(network, i))
        network.train(training)

    def piece(self, network: nn.Module, i: int) -> Tensor:
        """Latents (C, T) for clip i's embedding, as long as that clip, with the preset's solver and guidance."""
        sample, config, device = self.config.sample, self.config, distributed.device()
        frames = self.data.latents(i, config.stage2.max_frames).shape[1]
        seconds = torch.tensor([[0.0, frames * config.codec.hop / config.codec.sample_rate]], device=device)
        embedding = self.data.embeddings[i][None].to(device)
        inference = Stage2Inference(network, torch.bfloat16 if device.type == "cuda" else None, compile=False)
        velocity = GuidedStage2(inference, network.condition_pair(embedding, seconds), sample.guidance_scale)
        x_0 = flow.noise(i, 2, frames, config.stage2.latent_dim)[None].to(device)
        return network.latents(solve.solve(velocity, x_0, solver=sample.stage2_solver, steps=sample.stage2_steps).x)[0]

    def write(self, name: str, latents: Tensor) -> None:
        """Decode latents (C, T) into a FLAC file, scaled down where it would clip."""
        import soundfile

        audio = self.codec.decode(latents[None].float().to(distributed.device()))[0].cpu()
        audio, data = audio / (audio.abs().max() / 0.99).clamp_min(1.0), io.BytesIO()
        soundfile.write(data, audio.T.numpy(), self.config.codec.sample_rate, format="FLAC", subtype="PCM_16")
        write_atomic(self.folder / f"{name}.flac", data.getvalue())
