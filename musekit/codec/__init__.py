"""Codecs: audio (B, 2, N) <-> latents (B, C, T).

`SpectralVAE` is the mini preset's: a variational autoencoder of compressed magnitude spectra (`spectrum`),
all matrix products, whose phase is found again when decoding (`phase`). Kingma & Welling 2013, arXiv 1312.6114.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from musekit.codec import phase, spectrum
from musekit.config import CodecConfig, MuseError
from musekit.layers import TemporalBlock


class AbsoluteAndSquared(torch.autograd.Function):
    """(mean |e|, mean e^2) of e, with the gradient of their sum; three passes over e where autograd makes nine.

    The codec's error is its largest array by far, and memory traffic is what a CPU's training step waits for.
    """

    @staticmethod
    def forward(ctx, e: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(e)
        flat, n = e.flatten(), e.numel()
        absolute = torch.linalg.vector_norm(flat, 1, dtype=torch.float32) / n
        return absolute, torch.linalg.vector_norm(flat, 2, dtype=torch.float32).square() / n

    @staticmethod
    def backward(ctx, d_absolute: Tensor, d_squared: Tensor) -> Tensor:
        (e,) = ctx.saved_tensors
        n = e.numel()
        return e.sign().mul_(float(d_absolute) / n).add_(e, alpha=2 * float(d_squared) / n)


class SpectralVAE(nn.Module):
    """Two STFT frames of both channels become one latent frame of C channels, every 46 ms."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.sample_rate, self.hop = config.sample_rate, config.hop
        values = config.frames * 2 * spectrum.bands(config)
        # the network sees y = (c - mean) * gain, and its error in y is the loss: gain weighs low bands more
        self.register_buffer("mean", torch.zeros(values))  # of c over the training clips; set by `fit_scale`
        self.register_buffer("gain", torch.ones(values))
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
        """Set mean and gain from training spectra c (n, values): one scale for all bands, so floors stay small."""
        self.mean.copy_(c.float().mean(0))
        weight = spectrum.loss_weight(self.config).repeat(self.config.frames * 2)
        self.gain.copy_(weight / ((c.float() - self.mean) * weight).std())

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | y), each (B, T, C)."""
        mean, log_variance = self.encoder(y).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12, 4)

    def scaled(self, c: Tensor) -> Tensor:
        """Compressed spectra c -> y."""
        return (c - self.mean) * self.gain

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """mean |e| + mean e^2 + kl_weight KL; batch: c (B, T, values), the posterior's noise epsilon (B, T, C)."""
        y = torch.addcmul(-self.mean * self.gain, batch["c"].float(), self.gain)
        if torch.is_autocast_enabled(y.device.type):
            y = y.to(torch.get_autocast_dtype(y.device.type))  # a third of the memory traffic of float32
        mean, log_variance = self.posterior(y)
        error = self.decoder(mean + batch["epsilon"] * (0.5 * log_variance).exp()) - y
        absolute, squared = AbsoluteAndSquared.apply(error)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        return absolute + squared + self.config.kl_weight * kl, {"l1": absolute, "l2": squared, "kl": kl}

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio (B, 2, N) -> latents (B, C, ceil(N / hop)): the posterior's mean. Raises MuseError on a wrong shape."""
        if audio.dim() != 3 or audio.shape[1] != 2 or audio.shape[2] < self.hop:
            raise MuseError(f"the codec encodes audio of shape (B, 2, N >= {self.hop}), not {tuple(audio.shape)}")
        return self.posterior(self.scaled(spectrum.compress(self.config, audio.float())))[0].transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, T) -> audio (B, 2, T * hop). Raises MuseError on a wrong shape."""
        if latents.dim() != 3 or latents.shape[1] != self.config.latent_dim:
            raise MuseError(f"the codec decodes latents (B, {self.config.latent_dim}, T), not {tuple(latents.shape)}")
        c = self.decoder(latents.float().transpose(1, 2)) / self.gain + self.mean
        m = spectrum.magnitudes(self.config, c)
        return phase.invert(m, self.config.n_fft, self.config.stft_hop, self.config.phase_iterations)


def build(config: CodecConfig) -> nn.Module:
    """The codec of that config, untrained."""
    if config.kind == "spectral":
        return SpectralVAE(config)
    from musekit.config import suggest

    raise suggest(config.kind, ["spectral"], "codec")
