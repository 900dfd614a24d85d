"""Codecs: audio (B, 2, N) <-> latents (B, C, T).

`SpectralVAE` is the mini preset's: a variational autoencoder of compressed magnitude spectra (`spectrum`),
all matrix products, whose phase is found again when decoding (`phase`). Kingma & Welling 2013, arXiv 1312.6114.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from musekit import phase, spectrum
from musekit.config import CodecConfig, MuseError
from musekit.layers import TemporalBlock


class SpectralVAE(nn.Module):
    """Two STFT frames of both channels become one latent frame of C channels, every 46 ms."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.sample_rate, self.hop = config.sample_rate, config.hop
        values = config.frames * 2 * spectrum.bands(config)
        self.register_buffer("mean", torch.zeros(values))  # of c over the training clips; set by `fit_scale`
        self.register_buffer("scale", torch.ones(()))  # one standard deviation for all bands: floors stay small
        self.register_buffer("weight", spectrum.loss_weight(config).repeat(config.frames * 2), persistent=False)
        self.encoder = nn.Sequential(
            nn.Linear(values, config.width),
            *[TemporalBlock(config.width) for _ in range(config.encoder_depth)],
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim, config.width),
            *[TemporalBlock(config.width) for _ in range(config.decoder_depth)],
            nn.LayerNorm(config.width),
            nn.Linear(config.width, values),
        )

    def fit_scale(self, c: Tensor) -> None:
        """Set the input's mean and scale from training spectra c (n, values)."""
        self.mean.copy_(c.float().mean(0))
        self.scale.copy_((c.float() - self.mean).std())

    def posterior(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | c), each (B, T, C)."""
        mean, log_variance = self.encoder((c - self.mean) / self.scale).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12, 4)

    def spectrum_of(self, z: Tensor) -> Tensor:
        """z (B, T, C) -> c (B, T, values)."""
        return self.decoder(z).float() * self.scale + self.mean

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 + L2 of c, weighted over frequency, + kl_weight * KL; c (B, T, values), epsilon (B, T, C)."""
        c, epsilon = batch["c"], batch["epsilon"]
        target = (c.float() - self.mean) / self.scale
        mean, log_variance = self.encoder(target).float().chunk(2, dim=-1)
        log_variance = log_variance.clamp(-12, 4)
        error = self.decoder(mean + epsilon * (0.5 * log_variance).exp()).float() - target
        # the weight depends on the band alone, so it multiplies sums over everything else
        absolute = (error.abs().mean((0, 1)) * self.weight).mean() * self.scale
        squared = (error.square().mean((0, 1)) * self.weight).mean() * self.scale**2
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        return absolute + squared + self.config.kl_weight * kl, {"l1": absolute, "l2": squared, "kl": kl}

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio (B, 2, N) -> latents (B, C, ceil(N / hop)): the posterior's mean. Raises MuseError on a wrong shape."""
        if audio.dim() != 3 or audio.shape[1] != 2 or audio.shape[2] < self.hop:
            raise MuseError(f"the codec encodes audio of shape (B, 2, N >= {self.hop}), not {tuple(audio.shape)}")
        return self.posterior(spectrum.compress(self.config, audio.float()))[0].transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, T) -> audio (B, 2, T * hop). Raises MuseError on a wrong shape."""
        if latents.dim() != 3 or latents.shape[1] != self.config.latent_dim:
            raise MuseError(f"the codec decodes latents (B, {self.config.latent_dim}, T), not {tuple(latents.shape)}")
        m = spectrum.magnitudes(self.config, self.spectrum_of(latents.float().transpose(1, 2)))
        return phase.invert(m, self.config.n_fft, self.config.stft_hop, self.config.phase_iterations)


def build(config: CodecConfig) -> nn.Module:
    """The codec of that config, untrained."""
    if config.kind == "spectral":
        return SpectralVAE(config)
    from musekit.config import suggest

    raise suggest(config.kind, ["spectral"], "codec")
