"""Codecs against numpy, librosa, torch, torchaudio and diffusers: spectra, phase, stereo, loss, overlapping pieces."""

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
    frames, size = math.ceil(samples / CONFIG.hop), codec.bands(CONFIG)
    padded = np.pad(audio, ((0, 0), (0, 0), (0, frames * CONFIG.hop - samples))).astype(np.float64)
    padded = np.stack([padded[:, 0] + padded[:, 1], padded[:, 0] - padded[:, 1]], 1) / 2  # mid and side
    expected = np.zeros((2, frames, CONFIG.frames, 2, size))
    cosine = np.zeros((2, frames, size))
    for b in range(2):
        x = librosa.stft(padded[b], n_fft=N_FFT, hop_length=HOP, pad_mode="reflect")
        for t, channel in np.ndindex(frames * CONFIG.frames, 2):
            m = np.abs(x[channel, :, t])
            high = [math.sqrt(np.mean(m[512 + 8 * j : 520 + 8 * j] ** 2)) for j in range(64)]
            expected[b, t // CONFIG.frames, t % CONFIG.frames, channel] = np.array([*m[:512], *high]) ** 0.3
        for t, k in np.ndindex(frames, size):
            bins = slice(k, k + 1) if k < 512 else slice(512 + 8 * (k - 512), 520 + 8 * (k - 512))
            mid, side = x[:, bins, CONFIG.frames * t : CONFIG.frames * (t + 1)]
            cosine[b, t, k] = np.sum((mid * side.conj()).real) / np.sum(abs(mid) * abs(side))
    assert got.shape == (2, frames, codec.values(CONFIG))
    np.testing.assert_allclose(got[..., :-size], expected.reshape(2, frames, -1), rtol=3e-4, atol=3e-4)
    np.testing.assert_allclose(got[..., -size:], cosine, atol=2e-3)


def test_magnitudes_invert_compress_up_to_the_bands():
    audio = chord(1.0)
    c = codec.compress(CONFIG, audio)
    m = codec.magnitudes(CONFIG, c)
    padded = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % CONFIG.hop))[0]
    true = stft(torch.stack([padded[0] + padded[1], padded[0] - padded[1]]) / 2).abs()[..., : m.shape[-1]]
    torch.testing.assert_close(m[0, :, :512], true[:, :512], rtol=1e-3, atol=1e-3)
    energy = [x[:, 512:1024].square().sum(1) for x in (m[0], true)]  # a band keeps its energy
    torch.testing.assert_close(*energy, rtol=1e-3, atol=1e-5)
    assert m.shape[2] == N_FFT // 2 + 1 and not m[0, :, 1024:].any()
    silence = codec.compress(CONFIG, torch.zeros(1, 2, 10_000))
    assert not codec.magnitudes(CONFIG, silence).any()


def test_the_inverse_by_shifted_additions_is_torchs():
    x = stft(torch.randn(2, 20 * HOP)) * torch.rand(2, 1025, 1)
    ours, theirs = codec.istft(x, N_FFT, HOP), torch.istft(x, N_FFT, HOP, window=torch.hann_window(N_FFT))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frequency", [440.0, 1234.5, 5000.3])
def test_the_phase_follows_a_steady_sinusoid(frequency):
    """Phase advances by 2 pi f hop / sr per frame and turns by pi per bin; one constant is free."""
    t = torch.arange(HOP * 40, dtype=torch.float64) / 44100
    true = stft(torch.sin(2 * math.pi * frequency * t).float())[:, 3:-3]
    guess = codec.phase_of(true.abs()[None], N_FFT, HOP)[0]
    peak = round(frequency / 44100 * N_FFT)
    error = (guess / true.sgn())[peak - 1 : peak + 2, 3:]  # (3, T), after its first frames
    assert (error[:, 1:] / error[:, :-1]).angle().abs().max() < 0.1
    assert (error[1:] / error[:1]).angle().abs().max() < 0.2  # the peak's three bins agree


def test_the_phase_keeps_an_attack_where_it_was():
    """A click between two frames: nothing but the slope over frames says where it is."""
    audio = torch.zeros(1, 40 * HOP)
    audio[0, 20 * HOP + 137] = 1.0
    m = stft(audio).abs()
    energy = codec.istft(m * codec.phase_of(m, N_FFT, HOP), N_FFT, HOP)[0].square()
    assert energy[20 * HOP + 137 - 64 : 20 * HOP + 137 + 64].sum() > 0.8 * energy.sum()
    blurred = codec.istft(m * torch.polar(torch.ones_like(m), 6.28 * torch.rand_like(m)), N_FFT, HOP)[0].square()
    assert blurred[20 * HOP + 137 - 64 : 20 * HOP + 137 + 64].sum() < 0.2 * blurred.sum()


@pytest.mark.parametrize("notes", [(69,), (57, 61, 64)])
def test_inversion_of_tones_keeps_spectrum_chroma_and_stereo(notes):
    audio = chord(2.0, notes)
    m, angle = (f(CONFIG, codec.compress(CONFIG, audio)) for f in (codec.magnitudes, codec.angles))
    rebuilt = codec.audio_from_magnitudes(m, angle, N_FFT, HOP, 1)[0]
    assert rebuilt.shape == (2, m.shape[-1] * HOP)
    x, y = (np.abs(librosa.stft(z[0].numpy(), n_fft=N_FFT, hop_length=HOP)) for z in (rebuilt, audio[0]))
    n = min(x.shape[1], y.shape[1]) - 4
    assert 20 * math.log10(np.linalg.norm(x[:, 4:n] - y[:, 4:n]) / np.linalg.norm(y[:, 4:n])) < -15  # dB
    x, y = (librosa.feature.chroma_cqt(y=z[0].numpy(), sr=44100, hop_length=2048) for z in (rebuilt, audio[0]))
    n = min(x.shape[1], y.shape[1])
    assert np.corrcoef(x[:, :n].ravel(), y[:, :n].ravel())[0, 1] > 0.98
    middle = slice(8192, -8192)
    torch.testing.assert_close(rebuilt[1, middle], rebuilt[0, middle] / 2, atol=2e-3, rtol=2e-2)  # as in the original


@pytest.mark.parametrize(("left", "right"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7), (0.7, -0.7), (0.9, 0.3)])
def test_a_sound_stays_at_its_place_between_the_speakers(left, right):
    source = chord(1.0)[0, 0]
    audio = torch.stack([left * source, right * source])[None]
    m, angle = (f(CONFIG, codec.compress(CONFIG, audio)) for f in (codec.magnitudes, codec.angles))
    level = codec.audio_from_magnitudes(m, angle, N_FFT, HOP, 1)[0].square().mean(1).sqrt()
    torch.testing.assert_close(level, audio[0].square().mean(1).sqrt(), rtol=0.03, atol=2e-3)


def test_griffin_lim_is_torchaudios_from_the_same_phase(monkeypatch):
    import torchaudio.functional as reference

    m = stft(chord(0.6)[0, :1]).abs()
    phase = torch.rand(m.shape) * 2 * math.pi
    unit = codec.griffin_lim(m, torch.polar(torch.ones_like(m), phase), N_FFT, HOP, 8, momentum=0.9)
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


def test_the_loss_is_its_formula_written_out_and_so_is_its_gradient(vae):
    """mean |e| + mean e^2 + 0.2 angles + 0.1 log mel + kl_weight times the KL divergence to N(0, 1)."""
    config, size = vae.config, codec.bands(vae.config)
    audio, epsilon = 0.1 * torch.randn(2, 2, 6 * vae.hop), torch.randn(2, 6, config.latent_dim)
    value, terms = vae.training_loss({"audio": audio, "epsilon": epsilon})
    (value * 0.37).backward()
    gradients = {name: p.grad.clone() for name, p in vae.named_parameters()}
    vae.zero_grad()
    c = codec.compress(config, audio)
    y = (c - vae.mean) * vae.gain
    mean, log_variance = vae.posterior(y)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    decoded = vae.decoder(mean + epsilon * q.scale)
    error = decoded - y
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    strength = [c[..., i * size : (i + 1) * size] for i in range(8)]  # mid, side of four frames
    strength = sum(strength[::2]) / 4 * (sum(strength[1::2]) / 4)
    angle = (strength / strength.mean() * error[..., -size:] ** 2).mean()

    def log_mel(y):
        c = (y / vae.gain + vae.mean).clamp_min(1e-3) ** (2 / 0.3)
        power = [
            c[..., 2 * i * size : (2 * i + 1) * size] + c[..., (2 * i + 1) * size : (2 * i + 2) * size]
            for i in range(4)
        ]
        return torch.log(torch.stack(power, 2) @ codec.mel_weights(config) + codec.MEL_FLOOR)

    mel = (log_mel(decoded) - log_mel(y)).abs().mean()
    e = error[..., :-size]
    expected = e.abs().mean() + (e**2).mean() + 0.2 * angle + 0.1 * mel + 0.1 * kl
    (expected * 0.37).backward()
    for name, true in {"kl": kl, "l1": e.abs().mean(), "l2": (e**2).mean(), "angle": angle, "mel": mel}.items():
        torch.testing.assert_close(terms[name], true, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    for name, p in vae.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_the_scale_centres_every_value_weighs_low_bands_more_and_is_undone_by_decode(vae):
    c, size = torch.randn(500, vae.mean.numel()) * torch.linspace(0.5, 2, vae.mean.numel()) + 3, codec.bands(vae.config)
    vae.fit_scale(c)
    y, weight = vae.scaled(c), codec.loss_weight(vae.config).repeat(8)
    assert y.mean(0).abs().max() < 1e-4 and y[:, :-size].std() == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(vae.gain[:-size] / vae.gain[0], weight / weight[0])
    assert (vae.gain[-size:] == 1).all()
    torch.testing.assert_close(y / vae.gain + vae.mean, c, atol=1e-4, rtol=1e-4)
    z = torch.randn(1, vae.config.latent_dim, 6)
    c = vae.decoder(z.transpose(1, 2)) / vae.gain + vae.mean
    m, angle = codec.magnitudes(vae.config, c), codec.angles(vae.config, c)
    torch.testing.assert_close(vae.decode(z), codec.audio_from_magnitudes(m, angle, N_FFT, HOP, 1))


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
    hop, reach = waveform_vae.hop_length, oobleck.REACH
    latents, middle = torch.randn(1, 8, 2 * reach + 9, dtype=torch.float64, requires_grad=True), reach + 4
    waveform_vae.decode(latents).sample[..., middle * hop : (middle + 1) * hop].square().sum().backward()
    used = latents.grad.abs().amax((0, 1)).nonzero().flatten()
    assert max(middle - int(used.min()), int(used.max()) - middle) == reach


@pytest.mark.parametrize(("length", "frames"), [(40, 5), (41, 8), (23, 1), (60, 60)])
@torch.no_grad()
def test_pieces_have_the_samples_of_the_whole(waveform_vae, length, frames):
    calls = []

    def decode(z):
        calls.append(z.shape[-1])
        return waveform_vae.decode(z).sample

    latents, hop = torch.randn(2, 8, length, dtype=torch.float64), waveform_vae.hop_length
    reach, whole = oobleck.REACH, decode(latents)
    calls.clear()
    pieces = oobleck.decode_overlapping(decode, latents, hop, frames)
    torch.testing.assert_close(pieces, whole, atol=1e-10, rtol=1e-10)
    is_whole = length <= frames + 2 * reach
    assert max(calls) <= frames + 2 * reach and len(calls) == (1 if is_whole else -(-length // frames))
    if not is_whole:  # with less overlap the samples differ
        other = oobleck.decode_overlapping(decode, latents, hop, frames, reach - 2)
        assert (other - whole).abs().max() > 1e-10
