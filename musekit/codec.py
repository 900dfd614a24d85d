"""Codecs: audio (B, 2, N) <-> latents (B, C, T). `SpectralVAE` is the mini preset's; `oobleck` has the paper preset's.

`SpectralVAE` is a variational autoencoder (Kingma & Welling 2013, arXiv 1312.6114) of compressed magnitude spectra
c = |STFT(x)| ** power of mid (L + R) / 2 and side (L - R) / 2. A power law keeps the peaks (the notes) apart from the
floor and is zero for silence. Bins up to `linear_bins` are represented one by one, those above as `high_bands` bands of
8 bins. The angle between side and mid, which is where a sound comes from, is represented once per latent frame by its
cosine. All its layers are matrix products.

Decoding needs no search for the phase. It adds two sounds. Below about 1 kHz, where notes lie close together, a window
twice as long tells them apart, and the decoder predicts by how much each bin's phase turns from frame to frame. Above,
the short window keeps attacks sharp, and the turns follow from the slope of the magnitudes over bins (`phase`). What
the decoder says of them is a mean, which flutters less than a real sound does: a share is played as noise (`grained`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musekit.config import CodecConfig, MuseError

BINS_PER_BAND = 8  # STFT bins in a high band
LONGER = 2  # the long window by the short one
FADE = 8  # bins in which one window's sound fades into the other's
# The noise begins again after as many frames: another number is another sound, so raise DECODER with it.
CHUNK = 192  # STFT frames that are synthesised at a time, so that they stay in the processor's cache
NOISE = 0.3  # share of the power above 1 kHz that is noise, chosen on valid clips
LEVEL = 1.18  # of what is above 1 kHz: a mean of compressed magnitudes is quieter than the mean
DECODER = 2  # names what was decoded in caches: raise it when decoding changes
MELS, MEL_FLOOR = 128, 1e-3  # bands of the loss in decibels, and the power below which they do not count


def bands(config: CodecConfig) -> int:
    """Values of one channel of one STFT frame."""
    return config.linear_bins + config.high_bands


def values(config: CodecConfig) -> int:
    """Values of one latent frame: magnitudes of mid and side in each STFT frame, and the angles' cosines."""
    return (2 * config.frames + 1) * bands(config)


def first_band(config: CodecConfig) -> int:
    """The lowest band that the decoder repeats in the short window."""
    return config.low_bins // LONGER - FADE


def latent_frames(config: CodecConfig, samples: int) -> int:
    """Latent frames that cover so many samples."""
    return -(-samples // config.hop)


def stft(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Centred STFT with a Hann window: audio (B, N) -> (B, n_fft / 2 + 1, N / hop + 1)."""
    window = torch.hann_window(n_fft, device=audio.device, dtype=audio.dtype)
    return torch.stft(audio, n_fft, hop, window=window, return_complex=True)


def to_bands(config: CodecConfig, power: Tensor) -> Tensor:
    """(..., n_fft / 2 + 1, T) -> (..., bands, T): bins one by one, and means over the bins of each high band."""
    low, high = config.linear_bins, config.linear_bins + BINS_PER_BAND * config.high_bands
    grouped = power[..., low:high, :].unflatten(-2, (config.high_bands, BINS_PER_BAND)).mean(-2)
    return torch.cat([power[..., :low, :], grouped], dim=-2)


def to_bins(config: CodecConfig, x: Tensor) -> Tensor:
    """(..., bands, T) -> (..., n_fft / 2 + 1, T): each band's value at all of its bins, and 0 above them."""
    low, high = x[..., : config.linear_bins, :], x[..., config.linear_bins :, :]
    x = torch.cat([low, high.repeat_interleave(BINS_PER_BAND, dim=-2)], dim=-2)
    return F.pad(x, (0, 0, 0, config.n_fft // 2 + 1 - x.shape[-2]))


def power(spectrum: Tensor) -> Tensor:
    """Squared absolute values."""
    return spectrum.real.square() + spectrum.imag.square()


def compress(config: CodecConfig, spectrum: Tensor) -> Tensor:
    """`middles` of audio -> c (B, T, values).

    A latent frame's values: compressed magnitudes (frames, 2, bands), then the cosines (bands,) of the angle between
    side and mid, averaged by strength.
    """
    batch, frames, squares = len(spectrum), spectrum.shape[-1] // config.frames, power(spectrum)
    c = to_bands(config, squares).pow(config.power / 2)  # (B, 2, bands, frames T)
    c = c.permute(0, 3, 1, 2).reshape(batch, frames, -1)
    (mid, side), both = spectrum.unbind(1), squares.prod(1).sqrt()
    shared = mid.real * side.real + mid.imag * side.imag
    shared, both = (to_bands(config, x).unflatten(2, (frames, -1)).mean(3) for x in (shared, both))
    cosine = torch.where(both > 1e-7, shared / both.clamp_min(1e-7), 1.0)
    return torch.cat([c, cosine.transpose(1, 2)], dim=2)


def middles(config: CodecConfig, audio: Tensor, longer: int = 1) -> Tensor:
    """audio (B, 2, N) -> the spectrum of mid and side (B, 2, longer n_fft / 2 + 1, T frames / longer), in a window
    `longer` times as long, every frame of the last latent frame included."""
    n_fft, hop, frames = longer * config.n_fft, longer * config.stft_hop, latent_frames(config, audio.shape[2])
    length = max(frames * config.hop, n_fft // 2 + 1)  # the STFT reflects half a window at the edges
    left, right = F.pad(audio, (0, length - audio.shape[2])).unbind(1)
    spectrum = stft(torch.stack([left + right, left - right], 1).flatten(0, 1) / 2, n_fft, hop)
    return spectrum[..., : frames * config.frames // longer].unflatten(0, (len(audio), 2))


def turns(spectrum: Tensor) -> Tensor:
    """Spectra of mid and side in the lowest bins (B, 2, K, F) -> by how much their phases turn from frame to frame
    beyond what the bins' middles do, of both together: complex numbers of length 1 (B, F, K)."""
    turned = (spectrum[..., 1:] * spectrum[..., :-1].conj()).sum(1)
    bins = torch.arange(turned.shape[1], device=turned.device)
    quarter = torch.tensor([1, -1j, -1, 1j], device=turned.device)[bins % 4]  # a middle turns by a quarter per frame
    return F.pad((turned * quarter[:, None]).sgn(), (1, 0), value=1).transpose(1, 2)


def directions(config: CodecConfig, cosine: Tensor) -> Tensor:
    """Cosines (B, T, bands) of the angle between side and mid -> e^(i angle) (B, n_fft / 2 + 1, T).

    A cosine does not know the angle's sign. It alternates by `BINS_PER_BAND` bins, so that what has no place between
    the speakers is spread over both.
    """
    cosine = to_bins(config, cosine.transpose(1, 2)).clamp(-1, 1)
    sign = 1 - 2 * (torch.arange(cosine.shape[1], device=cosine.device) // BINS_PER_BAND % 2)
    return torch.complex(cosine, (1 - cosine.square()).sqrt() * sign[:, None])


def loss_weight(config: CodecConfig) -> Tensor:
    """Weight of each band in the codec's error, mean 1: falls as (1 + f / 1 kHz)^-0.7, as melodies live low."""
    weight = (1 + centres(config) / 1000) ** -0.7
    return weight / weight.mean()


def centres(config: CodecConfig) -> Tensor:
    """Frequency of each band in Hz."""
    high = config.linear_bins + BINS_PER_BAND * (torch.arange(config.high_bands) + 0.5)
    return torch.cat([torch.arange(config.linear_bins), high]) * config.sample_rate / config.n_fft


def mel_weights(config: CodecConfig) -> Tensor:
    """Triangles evenly spaced on the mel scale up to half the sample rate, over `bands`: (bands, MELS)."""
    hz, top = centres(config), 2595 * math.log10(1 + config.sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, MELS + 2) / 2595) - 1)
    half = (edges[2:] - edges[:-2]).div(2).clamp_min(config.sample_rate / config.n_fft)  # no band without a bin
    size = torch.ones(bands(config))
    size[config.linear_bins :] = BINS_PER_BAND
    return (1 - (hz[:, None] - edges[1:-1]).abs() / half).clamp_min(0) * size[:, None]


def audio_from_magnitudes(
    part: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]], frames: int, n_fft: int, peak: Tensor,
    first: int = 0, followed: int | None = None, noise: float = 0.0,
) -> Tensor:  # fmt: skip
    """The sound (B, 2, frames * n_fft / 4) of spectra that are computed `CHUNK` frames at a time.

    part(indices of n frames): magnitudes (B, 2, F, n) of mid and side in the bins from `first` on, unit complex numbers
    (B, F, n) of the angle between them, and `turned`. turned, peak, followed: as in `phase_of`; noise: as in `grained`.
    """
    from musekit.phase import phase_of  # imports numba, for which pages should not wait

    hop, count = n_fft // 4, frames + 1  # so many centred frames cover it: the last one is repeated
    window = torch.hann_window(n_fft, device=peak.device)
    weight, squares = window.new_zeros(count + 3, hop), window.square().view(4, hop)
    audio, before = window.new_zeros(2 * len(peak), count + 3, hop), None
    grain = noise_spectrum(n_fft)[first:].to(peak.device) if noise else None
    for j in range(4):
        weight[j : j + count] += squares[j]
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        around = torch.arange(max(start - 1, 0), min(stop + 1, count), device=peak.device)
        m, direction, turned = part(around.clamp_max(frames - 1))
        both = m.square().sum(1).sqrt()  # where mid is silent, its phase is that of side
        unit = phase_of(both, n_fft, hop, first, turned, followed, peak, before).to(m.device)
        own = slice(start - int(around[0]), stop - int(around[0]))
        before = unit[..., own.stop - 1]
        if grain is not None:
            unit = grained(unit, both, grain[: both.shape[1], around % CHUNK], noise)
        unit, m = unit[..., own], m[..., own]
        mid, side = m[:, 0] * unit, m[:, 1] * direction[..., own] * unit
        spectrum = F.pad(torch.cat([mid + side, mid - side]), (0, 0, first, n_fft // 2 + 1 - first - m.shape[2]))
        pieces = (torch.fft.irfft(spectrum.transpose(1, 2), n_fft) * window).unflatten(2, (4, hop))
        for j in range(4):  # overlap-add
            audio[:, start + j : stop + j] += pieces[:, :, j]
    audio = audio.div_(weight.clamp_min(1e-8))[:, 2:-2].flatten(1)
    return torch.stack(audio.chunk(2), dim=1)


def noise_spectrum(n_fft: int) -> Tensor:
    """White noise of mean power 1, always the same, that begins again after CHUNK frames: (n_fft / 2 + 1, CHUNK)."""
    hop, window = n_fft // 4, torch.hann_window(n_fft)
    x = torch.randn(CHUNK * hop, generator=torch.Generator().manual_seed(0))
    frames = torch.cat([x, x[: n_fft - hop]]).unfold(0, n_fft, hop)
    return (torch.fft.rfft(frames * window) / window.square().sum().sqrt()).T


def grained(unit: Tensor, m: Tensor, grain: Tensor, noise: float) -> Tensor:
    """Phases `unit` of magnitudes m, (B, F, T) each, with noise `grain` (F, T) for a share `noise` of the power: less
    where m rises, so that attacks stay sharp, and none in the first frame."""
    rise = F.pad(m[..., :-1], (1, 0)) / m.clamp_min(1e-9)
    size = noise**0.5 * rise.clamp_max(1)
    return (1 - size.square()).sqrt() * unit + size * grain


class Spectra(NamedTuple):
    """What the decoder says of T latent frames. Magnitudes are compressed, those of mid and side; turns are complex."""

    high: Tensor  # (B, T * frames, 2, bands - first) in the short window
    low: Tensor  # (B, T * frames / 2, 2, low_bins) in the long window
    turned: Tensor  # (B, T * frames / 2, low_bins) as in `turns`
    cosine: Tensor  # (B, T, bands) of the angle between side and mid


def spectra_of(config: CodecConfig, audio: Tensor) -> tuple[Spectra, Tensor]:
    """The true ones of audio (B, 2, N), and the encoder's input c (B, T, values)."""
    size, first, short = bands(config), first_band(config), middles(config, audio)
    long, c = middles(config, audio, LONGER)[:, :, : config.low_bins], compress(config, short)
    low = power(long).pow(config.power / 2).permute(0, 3, 1, 2)
    high = c[..., :-size].unflatten(2, (config.frames, 2, size)).flatten(1, 2)[..., first:]
    return Spectra(high, low, turns(long), c[..., -size:]), c


class TemporalBlock(nn.Module):
    """x + W2 silu(W1 [x_{t-d}, x_t, x_{t+d}]): a convolution of width 3 over time, written as one matrix product.

    CPUs with matrix units run bf16 products many times faster than convolutions; x is (B, T, D).
    """

    def __init__(self, width: int, expand: int = 2, dilation: int = 1):
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(3 * width, expand * width)
        self.outer = nn.Linear(expand * width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        d = self.dilation
        y = F.pad(self.norm(x), (0, 0, d, d))
        y = torch.cat([y[:, : -2 * d], y[:, d:-d], y[:, 2 * d :]], dim=-1)  # (B, T, 3 D)
        return x + self.outer(F.silu(self.inner(y)))


def drawn(config: CodecConfig) -> tuple[int, int]:
    """Values of one latent frame that the decoder draws in each window: high ones, low ones."""
    high = config.frames * 2 * (bands(config) - first_band(config))
    return high, config.frames // LONGER * 2 * config.low_bins


def beginning_at_zero(layer: nn.Linear) -> nn.Linear:
    """The layer with zeros for weights: what is beside it begins alone."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """Scaled values and the magnitudes that are `drawn` (B, T, ...) -> (B, T, 2 C): blocks at the rate of the STFT,
    then at that of the latents, beside one linear layer."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config, size = config, bands(config)
        self.frame_in = nn.Linear(2 * size, config.frame_width)
        self.frame_blocks = nn.Sequential(*[TemporalBlock(config.frame_width) for _ in range(config.encoder_depth)])
        self.join = nn.Linear(config.frames * config.frame_width, config.width)
        self.angle_in = nn.Linear(size, config.width)
        self.low_in = nn.Linear(drawn(config)[1], config.width)
        self.linear = nn.Linear(sum(drawn(config)), config.latent_dim, bias=False)
        blocks = [TemporalBlock(config.width) for _ in range(config.encoder_depth)]
        last = beginning_at_zero(nn.Linear(config.width, 2 * config.latent_dim))
        nn.init.constant_(last.bias[config.latent_dim :], -4.0)  # little noise
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(config.width), last)

    def forward(self, y: Tensor, magnitudes: Tensor) -> Tensor:
        size = bands(self.config)
        h = self.frame_in(y[..., :-size].reshape(len(y), -1, 2 * size))
        h = self.frame_blocks(h).unflatten(1, (-1, self.config.frames)).flatten(2)
        h = self.join(h) + self.angle_in(y[..., -size:]) + self.low_in(magnitudes[..., -drawn(self.config)[1] :])
        return self.blocks(h) + F.pad(self.linear(magnitudes), (0, self.config.latent_dim))


class Decoder(nn.Module):
    """Latents (B, T, C) -> `Spectra`: blocks at the rate of the latents, then at that of the short window's frames. The
    long window's frames have blocks of their own, with dilations: a note's frequency is clear from its whole length."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config, width = config, config.frame_width
        blocks = [TemporalBlock(config.width) for _ in range(config.decoder_depth)]
        self.blocks = nn.Sequential(nn.Linear(config.latent_dim, config.width), *blocks, nn.LayerNorm(config.width))
        self.angle_out = nn.Linear(config.width, bands(config))
        self.split = nn.Linear(config.width, config.frames * width)
        blocks = [TemporalBlock(width) for _ in range(config.decoder_depth)]
        last = beginning_at_zero(nn.Linear(width, 2 * (bands(config) - first_band(config))))
        self.frame_blocks = nn.Sequential(*blocks, nn.LayerNorm(width), last)
        blocks = [TemporalBlock(width, dilation=dilation) for dilation in config.low_dilations]
        last = beginning_at_zero(nn.Linear(width, 4 * config.low_bins * config.frames // LONGER))
        self.linear = nn.Linear(config.latent_dim, sum(drawn(config)), bias=False)
        self.low_blocks = nn.Sequential(nn.Linear(config.width, width), *blocks, nn.LayerNorm(width), last)

    def forward(self, z: Tensor) -> Spectra:
        h, frames = self.blocks(z), self.config.frames
        high = self.frame_blocks(self.split(h).unflatten(2, (frames, -1)).flatten(1, 2)).unflatten(2, (2, -1))
        (low, turned), linear = self.lows(h), self.linear(z).split(drawn(self.config), -1)
        high, low = (x + y.unflatten(2, (-1, *x.shape[2:])).flatten(1, 2) for x, y in zip((high, low), linear))
        return Spectra(high, low, turned, self.angle_out(h))

    def lows(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """`Spectra.low` and `.turned` of what `blocks` return."""
        low = self.low_blocks(h).unflatten(2, (self.config.frames // LONGER, 2, -1)).flatten(1, 2)
        low, turned = low.unbind(2)
        return low.unflatten(2, (2, -1)), torch.view_as_complex(turned.float().unflatten(2, (-1, 2)))


class SpectralVAE(nn.Module):
    """`frames` STFT frames of mid and side become one latent frame of C channels, every 46 ms."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.sample_rate, self.hop = config.sample_rate, config.hop
        # the network's input is y = (c - mean) * gain and its loss is the error in y: gain weighs low bands more
        self.register_buffer("mean", torch.zeros(values(config)))  # of c over the training clips; set by `fit_scale`
        self.register_buffer("gain", torch.ones(values(config)))
        self.register_buffer("low_mean", torch.zeros(2, config.low_bins))  # the same for the long window
        self.register_buffer("low_gain", torch.ones(2, config.low_bins))
        # the posterior's mean variance in training, by rank 0: latents are in units of its root, and a change of one
        # unit hardly changes what is decoded
        self.register_buffer("tolerance", torch.ones(config.latent_dim))
        self.register_buffer("mels", mel_weights(config)[first_band(config) :], persistent=False)
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def fit_scale(self, audio: Sequence[Tensor]) -> None:
        """Set means and gains from crops of training clips, (2, N) each: one scale for all bands keeps floors small."""
        config, size = self.config, bands(self.config)
        found = [spectra_of(config, x[None]) for x in audio]
        low, c = torch.cat([x.low[0, ::4] for x, _ in found]), torch.cat([c[0, ::8] for _, c in found])
        self.mean.copy_(c.mean(0))
        self.low_mean.copy_(low.mean(0))
        weight = torch.cat([loss_weight(config).repeat(config.frames * 2), torch.ones(size, device=c.device)])
        self.gain.copy_(weight)
        self.gain[:-size] /= ((c - self.mean) * weight)[:, :-size].std()
        weight = loss_weight(config)[: config.low_bins // LONGER].repeat_interleave(LONGER)
        self.low_gain.copy_(weight / ((low - self.low_mean) * weight).std())
        # the linear layers begin as principal components of what is drawn, each window with half of the weight
        y = torch.cat([self.scaled(x)[0, ::2] for x, _ in found])
        weight = torch.cat([torch.full((n,), n**-0.5, device=y.device) for n in drawn(config)])
        if len(y) < config.latent_dim:
            raise MuseError(f"{len(y)} latent frames are too few for {config.latent_dim} channels: add clips")
        _, size, axes = torch.svd_lowrank(y * weight, config.latent_dim, niter=4)
        size = size.clamp_min(1e-3 * size[0]) / len(y) ** 0.5  # steady sounds have fewer components
        self.encoder.linear.weight.data.copy_((axes / size * weight[:, None]).T)
        self.decoder.linear.weight.data.copy_(axes * size / weight[:, None])

    def posterior(self, true: Spectra, c: Tensor) -> tuple[Tensor, Tensor]:
        """`spectra_of` a sound -> mean and log-variance of q(z | sound), each (B, T, C)."""
        mean, log_variance = self.encoder((c - self.mean) * self.gain, self.scaled(true)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12, 4)

    def scaled(self, true: Spectra) -> Tensor:
        """The scaled magnitudes of both windows, (B, T, `drawn`)."""
        (mean, gain), frames = self.scales(), self.config.frames
        high = ((true.high.unflatten(1, (-1, frames)) - mean) * gain).flatten(2)
        low = ((true.low - self.low_mean) * self.low_gain).unflatten(1, (-1, frames // LONGER)).flatten(2)
        return torch.cat([high, low], -1)

    def scales(self) -> tuple[Tensor, Tensor]:
        """Mean and gain of `Spectra.high`, of each of the frames in a latent frame: (frames, 2, bands - first)."""
        shape, first = (self.config.frames, 2, bands(self.config)), first_band(self.config)
        mean, gain = (x[: -shape[2]].view(shape)[..., first:] for x in (self.mean, self.gain))
        return mean, gain

    def unscaled(self, guess: Spectra) -> Spectra:
        """The decoder's output in the units of `spectra_of`."""
        (mean, gain), size, frames = self.scales(), bands(self.config), self.config.frames
        return guess._replace(
            high=(guess.high.unflatten(1, (-1, frames)) / gain + mean).flatten(1, 2),
            low=guess.low / self.low_gain + self.low_mean,
            cosine=guess.cosine / self.gain[-size:] + self.mean[-size:],
        )

    def log_mels(self, high: Tensor) -> Tensor:
        """Log mel power of left and right together, of magnitudes `Spectra.high`: (B, T * frames, MELS)."""
        power = high.clamp_min(1e-3).pow(2 / self.config.power).sum(-2)
        return (power @ self.mels + MEL_FLOOR).log()

    def training_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """mean |e| + mean e^2 of both windows + turn_weight turn + angle_weight angle + mel_weight mel + kl_weight KL.

        batch: audio (B, 2, N), the posterior's noise epsilon (B, T, C). e: error of the scaled magnitudes. turn:
        squared error of how phases turn, and angle: of the cosines, each weighted by strength. mel: mean absolute error
        of log mel power.
        """
        config, size = self.config, bands(self.config)
        with torch.no_grad(), torch.autocast(batch["audio"].device.type, enabled=False):
            true, c = spectra_of(config, batch["audio"].float())
            mid, side = c[..., :-size].unflatten(-1, (config.frames, 2, size)).mean(-3).unbind(-2)
            both = mid * side
        mean, log_variance = self.posterior(true, c)
        if self.training and log_variance.requires_grad:  # of a frozen encoder the latents stay
            self.tolerance.lerp_(log_variance.detach().exp().mean((0, 1)), 0.01)
        z = mean + batch["epsilon"] * (0.5 * log_variance).exp()
        decoded = self.decoder(z)
        with torch.autocast(c.device.type, enabled=False):
            guess = self.unscaled(Spectra(*(x if x.is_complex() else x.float() for x in decoded)))
            mel = (self.log_mels(guess.high) - self.log_mels(true.high)).abs().mean()
        gain = self.scales()[1]
        errors = [
            (guess.high - true.high).unflatten(1, (-1, config.frames)) * gain,
            (guess.low - true.low) * self.low_gain,
        ]
        absolute, squared = (sum(how(e).mean() for e in errors) / 2 for how in (torch.abs, torch.square))
        turn = weighted(guess.turned - true.turned, true.low.pow(1 / config.power).sum(2))
        angle = weighted(guess.cosine - true.cosine, both)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        loss = absolute + squared + config.turn_weight * turn + config.angle_weight * angle
        loss = loss + config.mel_weight * mel + config.kl_weight * kl
        return loss, {"l1": absolute, "l2": squared, "turn": turn, "angle": angle, "mel": mel, "kl": kl}

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio (B, 2, N) -> latents (B, C, ceil(N / hop)): the posterior's mean. Raises MuseError on a wrong shape."""
        if audio.dim() != 3 or audio.shape[1] != 2 or audio.shape[2] < self.hop:
            raise MuseError(f"the codec encodes audio of shape (B, 2, N >= {self.hop}), not {tuple(audio.shape)}")
        mean, _ = self.posterior(*spectra_of(self.config, audio.float()))
        return (mean / self.tolerance.sqrt()).transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, T) -> audio (B, 2, T * hop). Raises MuseError on a wrong shape."""
        if latents.dim() != 3 or latents.shape[1] != self.config.latent_dim:
            raise MuseError(f"the codec decodes latents (B, {self.config.latent_dim}, T), not {tuple(latents.shape)}")
        z = latents.float().transpose(1, 2) * self.tolerance.sqrt()
        return synthesise(self.config, self.unscaled(self.decoder(z)), NOISE, LEVEL)


def weighted(error: Tensor, strength: Tensor) -> Tensor:
    """Mean squared error, weighted by strength."""
    return (strength * error.abs().square()).mean() / strength.mean().clamp_min(1e-6)


def synthesise(config: CodecConfig, spectra: Spectra, noise: float = 0.0, level: float = 1.0) -> Tensor:
    """Spectra -> audio (B, 2, T * hop): the sum of both windows' sounds, which fade into each other over FADE bins.

    noise, level: of the short window's sound; the defaults are those of true spectra.
    """
    first, size, frames = first_band(config), config.low_bins // LONGER, spectra.high.shape[1]
    fade = torch.linspace(0, math.pi / 2, LONGER * FADE, device=spectra.low.device)[:, None]

    def some(c: Tensor, rate: int, k: Tensor) -> tuple[Tensor, Tensor]:
        """Frames k of the magnitudes (B, 2, bands, n), and of the angles (B, n_fft / 2 + 1, n)."""
        m = c[:, k].clamp_min(0).pow(1 / config.power).permute(0, 2, 3, 1)
        latent = k // rate
        angles = directions(config, spectra.cosine[:, latent[0] : latent[-1] + 1])
        return m, angles.index_select(2, latent - latent[0])

    def low(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m, direction = some(spectra.low, config.frames // LONGER, k)
        m[:, :, -len(fade) :] *= fade.cos()
        return m, direction[:, :size].repeat_interleave(LONGER, 1), spectra.turned[:, k].transpose(1, 2)

    def high(k: Tensor) -> tuple[Tensor, Tensor, None]:
        m, direction = some(spectra.high, config.frames, k)
        m = to_bins(config, F.pad(m, (0, 0, first, 0)))[:, :, first:]
        m[:, :, :FADE] *= fade[::LONGER].sin()
        return m, direction[:, first:], None

    peaks = [c.amax((1, 2, 3)).clamp_min(0).pow(1 / config.power) for c in (spectra.low, spectra.high)]
    audio = audio_from_magnitudes(low, frames // LONGER, LONGER * config.n_fft, peaks[0])
    above = (first, config.linear_bins - first, noise)
    return audio + level * audio_from_magnitudes(high, frames, config.n_fft, peaks[1], *above)
