"""Spectra, phase and codec against slow or foreign references: numpy, librosa, torchaudio."""

import dataclasses
import math

import librosa
import numpy as np
import pytest
import torch
from fixtures import sinusoids

from musekit import codec
from musekit.codec import SpectralVAE
from musekit.config import CodecConfig, MuseError, mini, smoke

CONFIG = CodecConfig()
N_FFT, HOP = CONFIG.n_fft, CONFIG.stft_hop


def chord(seconds=2.0, notes=(57, 61, 64)):
    """A chord of MIDI notes, (1, 2, N)."""
    return torch.from_numpy(sinusoids([440 * 2 ** ((n - 69) / 12) for n in notes], seconds))[None]


def convergence(audio: np.ndarray, m: np.ndarray) -> float:
    """Spectral convergence in dB: 20 log10 of |STFT(audio)| - m over m, in Frobenius norms."""
    got = np.abs(librosa.stft(audio, n_fft=N_FFT, hop_length=HOP))[:, : m.shape[1]]
    return 20 * math.log10(np.linalg.norm(got - m[:, : got.shape[1]]) / np.linalg.norm(m))


def chroma_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of CQT chroma, over all frames."""
    x, y = (librosa.feature.chroma_cqt(y=z, sr=44100, hop_length=2048) for z in (a, b))
    n = min(x.shape[1], y.shape[1])
    return float(np.corrcoef(x[:, :n].ravel(), y[:, :n].ravel())[0, 1])


# ---------------------------------------------------------------- spectrum


@pytest.mark.parametrize("samples", [20480, 20481, 9000])
def test_compress_equals_a_loop_over_librosas_stft(samples):
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((2, 2, samples)).astype(np.float32)
    got = codec.compress(CONFIG, torch.from_numpy(audio)).numpy()
    frames = math.ceil(samples / CONFIG.hop)
    assert got.shape == (2, frames, CONFIG.frames * 2 * codec.bands(CONFIG))
    padded = np.pad(audio, ((0, 0), (0, 0), (0, frames * CONFIG.hop - samples))).astype(np.float64)
    expected = np.zeros((2, frames, CONFIG.frames, 2, codec.bands(CONFIG)))
    for b in range(2):
        for channel in range(2):
            m = np.abs(librosa.stft(padded[b, channel], n_fft=N_FFT, hop_length=HOP, pad_mode="reflect"))
            for t in range(frames * CONFIG.frames):
                row = [m[k, t] ** 0.3 for k in range(1024)]
                row += [math.sqrt(np.mean(m[1024 + 8 * j : 1032 + 8 * j, t] ** 2)) ** 0.3 for j in range(64)]
                expected[b, t // CONFIG.frames, t % CONFIG.frames, channel] = row
    np.testing.assert_allclose(got, expected.reshape(got.shape), rtol=2e-4, atol=2e-4)


def test_magnitudes_invert_compress_up_to_the_bands():
    audio = chord(1.0)
    m = codec.magnitudes(CONFIG, codec.compress(CONFIG, audio))
    padded = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % CONFIG.hop))[0]
    window = torch.hann_window(N_FFT)
    true = torch.stft(padded, N_FFT, HOP, window=window, return_complex=True).abs()[..., : m.shape[-1]]
    torch.testing.assert_close(m[0, :, :1024], true[:, :1024], rtol=1e-3, atol=1e-3)
    high = slice(1024, 1536)  # a band keeps its energy
    energy = [x[:, high].square().sum(1) for x in (m[0], true)]
    torch.testing.assert_close(*energy, rtol=1e-3, atol=1e-5)
    assert m.shape[2] == N_FFT // 2 + 1 and not m[0, :, 1536:].any()


def test_silence_is_zero_both_ways():
    c = codec.compress(CONFIG, torch.zeros(1, 2, 10_000))
    assert not c.any() and not codec.magnitudes(CONFIG, c).any()


def test_loss_weight_has_mean_one_and_falls_with_frequency():
    weight = codec.loss_weight(CONFIG)
    assert weight.shape == (codec.bands(CONFIG),)
    assert weight.mean() == pytest.approx(1, abs=1e-5) and (weight.diff() < 0).all()
    bin_hz = 44100 / N_FFT  # (1 + f / 1 kHz) ** -0.7
    assert weight[round(1000 / bin_hz)] / weight[0] == pytest.approx(2**-0.7, abs=0.01)


# ---------------------------------------------------------------- phase


def stft(audio: torch.Tensor) -> torch.Tensor:
    return torch.stft(audio, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True)


@pytest.mark.parametrize("frequency", [440.0, 1234.5, 5000.3])
def test_the_single_pass_guess_follows_a_steady_sinusoid(frequency):
    """Phase advances by 2 pi f hop / sr a frame and turns by pi a bin; one constant is free.

    What is left is the bias of parabolic interpolation, less than 0.02 bins: 0.03 radians a frame.
    """
    t = torch.arange(HOP * 40, dtype=torch.float64) / 44100
    true = stft(torch.sin(2 * math.pi * frequency * t).float())[:, 3:-3]
    guess = codec.single_pass_phase(true.abs()[None], N_FFT, HOP)[0]
    peak = round(frequency / 44100 * N_FFT)
    error = torch.polar(torch.ones_like(guess), guess - true.angle())[peak - 1 : peak + 2]  # (3, T)
    drift = (error[:, 1:] / error[:, :-1]).angle()
    assert drift.abs().max() < 0.03
    assert (error[1:] / error[:1]).angle().abs().max() < 0.02  # the peak's three bins agree


@pytest.mark.parametrize("notes", [(69,), (57, 61, 64)])
def test_inversion_of_tones_is_consistent_and_keeps_their_chroma(notes):
    audio = chord(2.0, notes)[0]
    m = stft(audio)[None, ..., :-1].abs()
    rebuilt = codec.audio_from_magnitudes(m, N_FFT, HOP, 32)[0]
    assert rebuilt.shape == (2, m.shape[-1] * HOP)
    inner = m[0, 0].numpy()
    assert convergence(rebuilt[0].numpy(), inner) < -24
    assert chroma_correlation(rebuilt[0].numpy(), audio[0].numpy()) > 0.98
    # the second channel is the first at half the level, and stays so
    torch.testing.assert_close(rebuilt[1], rebuilt[0] / 2, atol=1e-4, rtol=1e-3)


def test_inversion_is_better_than_griffin_lim_from_random_phase_at_equal_iterations():
    import torchaudio

    audio = chord(2.0, (48, 60, 64, 67, 72))[0, :1]
    m = stft(audio)[..., :-1].abs()
    rebuilt = {n: codec.audio_from_magnitudes(m[None].repeat(1, 2, 1, 1), N_FFT, HOP, n)[0, 0].numpy() for n in (0, 32)}
    ours = {n: convergence(audio, m[0].numpy()) for n, audio in rebuilt.items()}
    torch.manual_seed(0)
    theirs = torchaudio.transforms.GriffinLim(N_FFT, n_iter=32, hop_length=HOP, power=1.0, momentum=0.99)
    reference = convergence(theirs(stft(audio).abs())[0].numpy(), m[0].numpy())
    assert ours[32] < reference - 3  # dB
    assert ours[32] < ours[0] + 0.5
    assert ours[0] < reference  # the single pass alone already beats 32 iterations from nothing


def test_griffin_lim_equals_torchaudios_from_the_same_phase(monkeypatch):
    """torchaudio's algorithm with our first phase in place of its random one."""
    import torchaudio.functional as reference

    audio = chord(0.6)[0, :1]
    m, first = stft(audio).abs(), torch.rand(1, N_FFT // 2 + 1, 26) * 2 * math.pi
    assert m.shape == first.shape
    unit = codec.griffin_lim(m, first, N_FFT, HOP, 8, momentum=0.9)
    ours = torch.istft(m * unit, N_FFT, HOP, window=torch.hann_window(N_FFT))
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.polar(torch.ones_like(first), first))
    theirs = reference.griffinlim(m, torch.hann_window(N_FFT), N_FFT, HOP, N_FFT, 1.0, 8, 0.9, None, True)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_inversion_of_few_frames_and_of_silence(frames):
    m = torch.rand(1, 2, N_FFT // 2 + 1, frames)
    assert codec.audio_from_magnitudes(m, N_FFT, HOP, 2).shape == (1, 2, frames * HOP)
    assert codec.audio_from_magnitudes(m * 0, N_FFT, HOP, 2).abs().max() < 1e-6


# ---------------------------------------------------------------- codec


@pytest.fixture(scope="module")
def vae() -> SpectralVAE:
    torch.manual_seed(0)
    return build(smoke().codec).eval()


@pytest.mark.parametrize("samples", [2048, 2049, 4095, 4096, 30_000, 44_100])
def test_shapes_and_exact_lengths(vae, samples):
    frames = math.ceil(samples / vae.hop)
    latents = vae.encode(torch.randn(3, 2, samples))
    assert latents.shape == (3, 8, frames) and latents.isfinite().all()
    audio = vae.decode(latents)
    assert audio.shape == (3, 2, frames * vae.hop) and audio.isfinite().all()


def test_silence_and_loud_noise_stay_finite(vae):
    for audio in (torch.zeros(1, 2, 8192), 1e4 * torch.randn(1, 2, 8192)):
        assert vae.decode(vae.encode(audio)).isfinite().all()


def test_the_padded_end_does_not_change_earlier_frames(vae):
    """A clip cut in two at a frame gives the same latents but for the frames that see the cut."""
    audio = torch.randn(1, 2, 40 * 2048)
    whole, part = vae.encode(audio), vae.encode(audio[..., : 20 * 2048])
    torch.testing.assert_close(whole[..., :17], part[..., :17], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 44100), (1, 1, 44100), (1, 3, 44100), (1, 2, 2047), (1, 2, 0)])
def test_encode_says_what_shape_it_wants(vae, shape):
    with pytest.raises(MuseError, match=r"\(B, 2, N >= 2048\), not \("):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(8, 10), (1, 7, 10), (1, 64, 10)])
def test_decode_says_what_shape_it_wants(vae, shape):
    with pytest.raises(MuseError, match=r"\(B, 8, T\), not \("):
        vae.decode(torch.zeros(shape))


def test_an_unknown_codec_suggests():
    with pytest.raises(MuseError, match="did you mean 'spectral'"):
        build(dataclasses.replace(CONFIG, kind="spectrall"))


def lively(config: CodecConfig) -> SpectralVAE:
    """A codec whose every layer does something: zero-initialised ones would hide mistakes."""
    torch.manual_seed(0)
    vae = build(config)
    for layer in vae.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.05)
    vae.fit_scale(3 * torch.rand(50, vae.mean.numel()))
    return vae


def test_the_loss_is_the_elbo_written_out_and_so_is_its_gradient():
    """mean |e| + mean e^2 in the scaled spectrum + kl_weight times the KL divergence to N(0, 1)."""
    vae = lively(dataclasses.replace(smoke().codec, kl_weight=0.1))
    c, epsilon = 3 * torch.rand(2, 6, vae.mean.numel()), torch.randn(2, 6, vae.config.latent_dim)
    value, parts = vae.training_loss({"c": c, "epsilon": epsilon})
    (value * 0.37).backward()
    ours = {name: p.grad.clone() for name, p in vae.named_parameters()}
    vae.zero_grad()

    y = (c - vae.mean) * vae.gain
    mean, log_variance = vae.posterior(y)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    error = vae.decoder(mean + epsilon * q.scale) - y
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    expected = error.abs().mean() + (error**2).mean() + 0.1 * kl
    (expected * 0.37).backward()
    torch.testing.assert_close(parts["kl"], kl)
    torch.testing.assert_close(parts["l1"], error.abs().mean())
    torch.testing.assert_close(parts["l2"], (error**2).mean())
    torch.testing.assert_close(value, expected)
    for name, p in vae.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_fit_scale_centres_every_value_and_weighs_low_bands_more():
    vae = build(smoke().codec)
    spread = torch.linspace(0.5, 2, vae.mean.numel())
    c = torch.randn(500, vae.mean.numel()) * spread + 3
    vae.fit_scale(c)
    y = vae.scaled(c)
    assert y.mean(0).abs().max() < 1e-4 and y.std() == pytest.approx(1, abs=1e-2)
    weight = codec.loss_weight(vae.config).repeat(4)
    torch.testing.assert_close(vae.gain / vae.gain[0], weight / weight[0])


def test_decoding_undoes_the_scale():
    """A network that returned y would give back the clip's own magnitudes."""
    vae = lively(smoke().codec)
    c = codec.compress(vae.config, chord(0.5))
    torch.testing.assert_close(vae.scaled(c) / vae.gain + vae.mean, c, atol=1e-4, rtol=1e-4)
    z = torch.randn(1, vae.config.latent_dim, 6)
    m = codec.magnitudes(vae.config, vae.decoder(z.transpose(1, 2)) / vae.gain + vae.mean)
    expected = codec.audio_from_magnitudes(m, N_FFT, HOP, vae.config.phase_iterations)
    torch.testing.assert_close(vae.decode(z), expected)


def test_a_perfect_network_makes_the_codec_a_phase_inversion():
    """Without the network's error the round trip is compress, magnitudes, invert: chroma stays."""
    audio = chord(2.0)
    m = codec.magnitudes(CONFIG, codec.compress(CONFIG, audio))
    rebuilt = codec.audio_from_magnitudes(m, N_FFT, HOP, CONFIG.phase_iterations)
    assert rebuilt.shape[-1] == math.ceil(audio.shape[-1] / 2048) * 2048
    assert chroma_correlation(rebuilt[0, 0].numpy(), audio[0, 0].numpy()) > 0.98
    level = [x.square().mean(-1).sqrt() for x in (rebuilt[0, :, : audio.shape[-1]], audio[0])]
    torch.testing.assert_close(*level, rtol=0.05, atol=0)


def test_the_mini_codec_has_the_size_the_design_gives_it():
    with torch.device("meta"):
        count = sum(p.numel() for p in build(mini().codec).parameters())
    assert 6e6 < count < 12e6
