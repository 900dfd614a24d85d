"""Codecs against numpy, librosa, torchaudio and diffusers: spectra, phase, the VAE's loss, overlapping pieces."""

import dataclasses
import math
import warnings

import librosa
import numpy as np
import pytest
import torch
from fixtures import sinusoids

from musekit import codec, oobleck
from musekit.codec import SpectralVAE
from musekit.config import CodecConfig, MuseError, smoke

CONFIG = CodecConfig()
N_FFT, HOP = CONFIG.n_fft, CONFIG.stft_hop


def chord(seconds=2.0, notes=(57, 61, 64)) -> torch.Tensor:
    """A chord of MIDI notes, (1, 2, N)."""
    return torch.from_numpy(sinusoids([440 * 2 ** ((n - 69) / 12) for n in notes], seconds))[None]


def stft(audio: torch.Tensor) -> torch.Tensor:
    return torch.stft(audio, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True)


@pytest.mark.parametrize("samples", [20480, 20481, 9000])
def test_compress_is_a_loop_over_librosas_stft(samples):
    audio = np.random.default_rng(0).standard_normal((2, 2, samples)).astype(np.float32)
    got = codec.compress(CONFIG, torch.from_numpy(audio)).numpy()
    frames = math.ceil(samples / CONFIG.hop)
    padded = np.pad(audio, ((0, 0), (0, 0), (0, frames * CONFIG.hop - samples))).astype(np.float64)
    expected = np.zeros((2, frames, CONFIG.frames, 2, codec.bands(CONFIG)))
    for b, channel in np.ndindex(2, 2):
        m = np.abs(librosa.stft(padded[b, channel], n_fft=N_FFT, hop_length=HOP, pad_mode="reflect"))
        for t in range(frames * CONFIG.frames):
            high = [math.sqrt(np.mean(m[1024 + 8 * j : 1032 + 8 * j, t] ** 2)) for j in range(64)]
            expected[b, t // CONFIG.frames, t % CONFIG.frames, channel] = np.array([*m[:1024, t], *high]) ** 0.3
    assert got.shape == (2, frames, CONFIG.frames * 2 * codec.bands(CONFIG))
    np.testing.assert_allclose(got, expected.reshape(got.shape), rtol=2e-4, atol=2e-4)


def test_magnitudes_invert_compress_up_to_the_bands():
    audio = chord(1.0)
    m = codec.magnitudes(CONFIG, codec.compress(CONFIG, audio))
    true = stft(torch.nn.functional.pad(audio, (0, -audio.shape[-1] % CONFIG.hop))[0]).abs()[..., : m.shape[-1]]
    torch.testing.assert_close(m[0, :, :1024], true[:, :1024], rtol=1e-3, atol=1e-3)
    energy = [x[:, 1024:1536].square().sum(1) for x in (m[0], true)]  # a band keeps its energy
    torch.testing.assert_close(*energy, rtol=1e-3, atol=1e-5)
    assert m.shape[2] == N_FFT // 2 + 1 and not m[0, :, 1536:].any()
    silence = codec.compress(CONFIG, torch.zeros(1, 2, 10_000))
    assert not silence.any() and not codec.magnitudes(CONFIG, silence).any()


@pytest.mark.parametrize("frequency", [440.0, 1234.5, 5000.3])
def test_the_first_guess_follows_a_steady_sinusoid(frequency):
    """Phase advances by 2 pi f hop / sr per frame and turns by pi per bin; one constant is free.

    What is left is the bias of parabolic interpolation, less than 0.02 bins: 0.03 radians per frame.
    """
    t = torch.arange(HOP * 40, dtype=torch.float64) / 44100
    true = stft(torch.sin(2 * math.pi * frequency * t).float())[:, 3:-3]
    guess = codec.single_pass_phase(true.abs()[None], N_FFT, HOP)[0]
    peak = round(frequency / 44100 * N_FFT)
    error = torch.polar(torch.ones_like(guess), guess - true.angle())[peak - 1 : peak + 2]  # (3, T)
    assert (error[:, 1:] / error[:, :-1]).angle().abs().max() < 0.03
    assert (error[1:] / error[:1]).angle().abs().max() < 0.02  # the peak's three bins agree


@pytest.mark.parametrize("notes", [(69,), (57, 61, 64)])
def test_inversion_of_tones_is_consistent_and_keeps_chroma_and_stereo(notes):
    audio = chord(2.0, notes)[0]
    m = stft(audio)[None, ..., :-1].abs()
    rebuilt = codec.audio_from_magnitudes(m, N_FFT, HOP, 32)[0]
    assert rebuilt.shape == (2, m.shape[-1] * HOP)
    got = np.abs(librosa.stft(rebuilt[0].numpy(), n_fft=N_FFT, hop_length=HOP))[:, : m.shape[-1]]
    error = np.linalg.norm(got - m[0, 0].numpy()[:, : got.shape[1]]) / np.linalg.norm(m[0, 0])
    assert 20 * math.log10(error) < -24  # dB
    x, y = (librosa.feature.chroma_cqt(y=z[0].numpy(), sr=44100, hop_length=2048) for z in (rebuilt, audio))
    n = min(x.shape[1], y.shape[1])
    assert np.corrcoef(x[:, :n].ravel(), y[:, :n].ravel())[0, 1] > 0.98
    torch.testing.assert_close(rebuilt[1], rebuilt[0] / 2, atol=1e-4, rtol=1e-3)  # as in the original


def test_griffin_lim_is_torchaudios_from_the_same_phase(monkeypatch):
    import torchaudio.functional as reference

    m = stft(chord(0.6)[0, :1]).abs()
    phase = torch.rand(m.shape) * 2 * math.pi
    unit = codec.griffin_lim(m, phase, N_FFT, HOP, 8, momentum=0.9)
    ours = torch.istft(m * unit, N_FFT, HOP, window=torch.hann_window(N_FFT))
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.polar(torch.ones_like(phase), phase))
    theirs = reference.griffinlim(m, torch.hann_window(N_FFT), N_FFT, HOP, N_FFT, 1.0, 8, 0.9, None, True)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


@pytest.fixture
def vae() -> SpectralVAE:
    """Every matrix is drawn: layers that start at zero would hide mistakes."""
    torch.manual_seed(0)
    network = SpectralVAE(dataclasses.replace(smoke().codec, kl_weight=0.1)).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.05)
    network.fit_scale(3 * torch.rand(50, network.mean.numel()))
    return network


def test_shapes_exact_lengths_and_finite_audio(vae):
    for samples in (2048, 2049, 4095, 4096, 30_000):
        frames = math.ceil(samples / vae.hop)
        latents = vae.encode(torch.randn(3, 2, samples))
        audio = vae.decode(latents)
        assert latents.shape == (3, 8, frames) and audio.shape == (3, 2, frames * vae.hop)
        assert latents.isfinite().all() and audio.isfinite().all()
    for audio in (torch.zeros(1, 2, 8192), 1e4 * torch.randn(1, 2, 8192)):
        assert vae.decode(vae.encode(audio)).isfinite().all()
    with pytest.raises(MuseError, match=r"\(B, 2, N >= 2048\), not \("):
        vae.encode(torch.zeros(1, 1, 44100))


def test_the_loss_is_the_elbo_written_out_and_so_is_its_gradient(vae):
    """mean |e| + mean e^2 in the scaled spectrum + kl_weight times the KL divergence to N(0, 1)."""
    c, epsilon = 3 * torch.rand(2, 6, vae.mean.numel()), torch.randn(2, 6, vae.config.latent_dim)
    value, terms = vae.training_loss({"c": c, "epsilon": epsilon})
    (value * 0.37).backward()
    gradients = {name: p.grad.clone() for name, p in vae.named_parameters()}
    vae.zero_grad()
    y = (c - vae.mean) * vae.gain
    mean, log_variance = vae.posterior(y)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    error = vae.decoder(mean + epsilon * q.scale) - y
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    expected = error.abs().mean() + (error**2).mean() + 0.1 * kl
    (expected * 0.37).backward()
    for got, true in ((terms["kl"], kl), (terms["l1"], error.abs().mean()), (terms["l2"], (error**2).mean())):
        torch.testing.assert_close(got, true)
    torch.testing.assert_close(value, expected)
    for name, p in vae.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_the_scale_centres_every_value_weighs_low_bands_more_and_is_undone_by_decode(vae):
    c = torch.randn(500, vae.mean.numel()) * torch.linspace(0.5, 2, vae.mean.numel()) + 3
    vae.fit_scale(c)
    y, weight = vae.scaled(c), codec.loss_weight(vae.config).repeat(4)
    assert y.mean(0).abs().max() < 1e-4 and y.std() == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(vae.gain / vae.gain[0], weight / weight[0])
    torch.testing.assert_close(y / vae.gain + vae.mean, c, atol=1e-4, rtol=1e-4)
    z = torch.randn(1, vae.config.latent_dim, 6)
    m = codec.magnitudes(vae.config, vae.decoder(z.transpose(1, 2)) / vae.gain + vae.mean)
    expected = codec.audio_from_magnitudes(m, N_FFT, HOP, vae.config.phase_iterations)
    torch.testing.assert_close(vae.decode(z), expected)


@pytest.fixture(scope="module")
def waveform_vae():
    """diffusers' own in float64: the published strides with few channels, every weight random."""
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return AutoencoderOobleck(encoder_hidden_size=16, decoder_channels=2, decoder_input_channels=8).double().eval()


def test_the_reach_is_what_autograd_says(waveform_vae):
    """Which latents have a gradient of the middle frame's samples."""
    hop, reach = waveform_vae.hop_length, oobleck.decoder_reach(waveform_vae.decoder, waveform_vae.hop_length)
    latents, middle = torch.randn(1, 8, 2 * reach + 9, dtype=torch.float64, requires_grad=True), reach + 4
    waveform_vae.decode(latents).sample[..., middle * hop : (middle + 1) * hop].square().sum().backward()
    used = latents.grad.abs().amax((0, 1)).nonzero().flatten()
    assert max(middle - int(used.min()), int(used.max()) - middle) == reach and 5 < reach < 20


@pytest.mark.parametrize(("length", "frames"), [(40, 5), (41, 8), (23, 1), (60, 60)])
@torch.no_grad()
def test_pieces_have_the_samples_of_the_whole(waveform_vae, length, frames):
    calls = []

    def decode(z):
        calls.append(z.shape[-1])
        return waveform_vae.decode(z).sample

    latents, hop = torch.randn(2, 8, length, dtype=torch.float64), waveform_vae.hop_length
    reach, whole = oobleck.decoder_reach(waveform_vae.decoder, hop), decode(latents)
    calls.clear()
    pieces = oobleck.decode_overlapping(decode, latents, hop, reach, frames)
    torch.testing.assert_close(pieces, whole, atol=1e-10, rtol=1e-10)
    is_whole = length <= frames + 2 * reach
    assert max(calls) <= frames + 2 * reach and len(calls) == (1 if is_whole else -(-length // frames))
    if not is_whole:  # with less overlap the samples differ
        other = oobleck.decode_overlapping(decode, latents, hop, reach - 2, frames)
        assert (other - whole).abs().max() > 1e-10
