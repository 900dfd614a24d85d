"""Oobleck, the waveform VAE of Stable Audio Open (Evans et al. 2024, arXiv 2407.14358), with a codec's two calls.

Long latents are decoded in overlapping pieces, exactly: the memory of a piece, the samples of the whole. The output of
a convolutional decoder depends on latents within its reach only. A piece is decoded with `reach` more latents on either
side, whose sound is then cut off. At both ends of the music the piece sees the same zero padding as the whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit import gpu
from musekit.config import CodecConfig, MuseError
from musekit.encoders import hub

REACH = 10  # latents on either side of a frame on which its samples depend
PIECE_FRAMES = {"cpu": 128, "cuda": 1024}  # latent frames decoded at a time; on a CPU 47.55 s at once would take 5 GB


def decode_overlapping(
    call: Callable[[Tensor], Tensor], latents: Tensor, hop: int, frames: int, reach: int = REACH
) -> Tensor:
    """call(latents (B, C, T)) -> (B, 2, T * hop) in pieces of at most `frames` latents and their neighbours."""
    length = latents.shape[-1]
    if length <= frames + 2 * reach:
        return call(latents)
    pieces = []
    for start in range(0, length, frames):
        end, low = min(length, start + frames), max(0, start - reach)
        audio = call(latents[..., low : min(length, end + reach)])
        pieces.append(audio[..., (start - low) * hop : (end - low) * hop])
    return torch.cat(pieces, dim=-1)


class Oobleck(nn.Module):
    """A frozen `diffusers.AutoencoderOobleck`: 44.1 kHz stereo <-> 64 channels, 21.5 frames a second.

    vae: the loaded model; without one, the published shape with random weights. Raises MuseError when its rate,
    hop or channels are not what the config says.
    """

    def __init__(self, config: CodecConfig, vae: nn.Module | None = None):
        super().__init__()
        from diffusers import AutoencoderOobleck

        self.config = config
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # diffusers norms its weights by torch's older function
            self.vae = AutoencoderOobleck() if vae is None else vae
        self.sample_rate, self.hop = self.vae.config.sampling_rate, self.vae.hop_length
        is_so = {
            "sample_rate": (self.sample_rate, config.sample_rate),
            "hop": (self.hop, config.hop),
            "latent_dim": (self.vae.config.decoder_input_channels, config.latent_dim),
            "audio channels": (self.vae.config.audio_channels, 2),
        }
        for name, (theirs, ours) in is_so.items():
            if theirs != ours:
                raise MuseError(f"the codec {config.name} has {name} = {theirs}, and this config says {ours}")

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio (B, 2, N) -> latents (B, C, ceil(N / hop)): the posterior's mean. Raises MuseError on a wrong shape."""
        if audio.dim() != 3 or audio.shape[1] != 2 or audio.shape[2] < 1:
            raise MuseError(f"the codec encodes audio of shape (B, 2, N), not {tuple(audio.shape)}")
        device = next(self.parameters()).device
        audio = F.pad(audio.float().to(device), (0, -audio.shape[2] % self.hop))
        return self.vae.encode(audio).latent_dist.mode()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, T) -> audio (B, 2, T * hop). Raises MuseError on a wrong shape."""
        if latents.dim() != 3 or latents.shape[1] != self.config.latent_dim:
            raise MuseError(f"the codec decodes latents (B, {self.config.latent_dim}, T), not {tuple(latents.shape)}")
        latents = latents.float().to(next(self.parameters()).device)
        frames = PIECE_FRAMES[latents.device.type]
        return decode_overlapping(lambda z: self.vae.decode(z).sample, latents, self.hop, frames)


def load(config: CodecConfig) -> Oobleck:
    """The published weights, on a GPU if there is one. Raises MuseError when they are not to be had."""
    from diffusers import AutoencoderOobleck

    where = hub.folder(config.name, "codec.name", "vae")
    with hub.loading(config.name, "codec.name"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        vae = AutoencoderOobleck.from_pretrained(where, local_files_only=True, low_cpu_mem_usage=False)
    return Oobleck(config, vae.float()).eval().requires_grad_(False).to(gpu.device())
