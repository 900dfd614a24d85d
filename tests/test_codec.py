"""Codecs against numpy, librosa, torch, torchaudio and diffusers: spectra, phase, stereo, loss, overlapping pieces."""

import dataclasses
import math
import warnings

import librosa
import numpy as np
import pytest
import torch
from fixtures import sinusoids

from musekit import codec, oobleck, phase
from musekit.codec import SpectralVAE
from musekit.config import CodecConfig, MuseError, smoke

CONFIG = CodecConfig()
N_FFT, HOP = CONFIG.n_fft, CONFIG.stft_hop


def chord(seconds=2.0, notes=(57, 61, 64)) -> torch.Tensor:
    """A chord of MIDI notes, (1, 2, N)."""
    return torch.from_numpy(sinusoids([440 * 2 ** ((n - 69) / 12) for n in notes], seconds))[None]


def stft(audio: torch.Tensor) -> torch.Tensor:
    return torch.stft(audio, N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True)


def istft(spectrum: torch.Tensor) -> torch.Tensor:
    return torch.istft(spectrum, N_FFT, HOP, window=torch.hann_window(N_FFT))


@pytest.mark.parametrize("samples", [20480, 20481, 9000])
def test_compress_is_a_loop_over_librosas_stft(samples):
    audio = np.random.default_rng(0).standard_normal((2, 2, samples)).astype(np.float32)
    got = codec.compress(CONFIG, codec.middles(CONFIG, torch.from_numpy(audio))).numpy()
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


def test_bands_keep_the_energy_of_their_bins():
    true = stft(chord(1.0)[0]).abs()
    m = codec.to_bins(CONFIG, codec.to_bands(CONFIG, true.square()).sqrt())
    torch.testing.assert_close(m[:, :512], true[:, :512])
    torch.testing.assert_close(*(x[:, 512:1024].square().sum(1) for x in (m, true)), rtol=1e-3, atol=1e-5)
    assert m.shape == true.shape and not m[:, 1024:].any()


@pytest.mark.parametrize("chunk", [7, 10**6])
def test_synthesis_in_chunks_is_torchs_inverse_of_the_whole_spectrum(chunk, monkeypatch):
    monkeypatch.setattr(codec, "CHUNK", chunk)
    mid, side = stft(torch.randn(2, 20 * HOP)).abs() * torch.rand(2, 1025, 1)
    whole = torch.stack([mid, side])[None, ..., [*range(21), 20]]  # the last frame is repeated
    unit = phase.phase_of(whole.square().sum(1).sqrt(), N_FFT, HOP)[0]
    angle = torch.polar(torch.ones(1025), torch.linspace(0, 3, 1025))[:, None]
    mid, side = whole[0, 0] * unit, whole[0, 1] * angle * unit
    theirs = istft(torch.stack([mid + side, mid - side]))

    def part(k: torch.Tensor) -> tuple:
        return whole[..., k], angle.expand(1, -1, len(k)), None

    ours = codec.audio_from_magnitudes(part, 21, N_FFT, whole.square().sum(1).amax((1, 2)).sqrt())
    torch.testing.assert_close(ours[0], theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("frequency", [440.0, 1234.5, 5000.3])
def test_the_phase_follows_a_steady_sinusoid(frequency):
    """Phase advances by 2 pi f hop / sr per frame and turns by pi per bin; one constant is free."""
    t = torch.arange(HOP * 40, dtype=torch.float64) / 44100
    true = stft(torch.sin(2 * math.pi * frequency * t).float())[:, 3:-3]
    guess = phase.phase_of(true.abs()[None], N_FFT, HOP)[0]
    peak = round(frequency / 44100 * N_FFT)
    error = (guess / true.sgn())[peak - 1 : peak + 2, 3:]  # (3, T), after its first frames
    assert (error[:, 1:] / error[:, :-1]).angle().abs().max() < 0.1
    assert (error[1:] / error[:1]).angle().abs().max() < 0.2  # the peak's three bins agree


def test_the_phase_keeps_an_attack_where_it_was():
    """A click between two frames: nothing but the slope over frames says where it is."""
    audio = torch.zeros(1, 40 * HOP)
    audio[0, 20 * HOP + 137] = 1.0
    m = stft(audio).abs()
    energy = istft(m * phase.phase_of(m, N_FFT, HOP))[0].square()
    assert energy[20 * HOP + 137 - 64 : 20 * HOP + 137 + 64].sum() > 0.8 * energy.sum()
    blurred = istft(m * torch.polar(torch.ones_like(m), 6.28 * torch.rand_like(m)))[0].square()
    assert blurred[20 * HOP + 137 - 64 : 20 * HOP + 137 + 64].sum() < 0.2 * blurred.sum()


def test_turns_tell_two_close_notes_apart_where_slopes_do_not():
    """C2 and D2 lie within one lobe of the window: its magnitudes alone say little of how the phase goes on."""
    spectrum = codec.middles(CONFIG, chord(2.0, (36, 38)), codec.LONGER)[:, :, :24]
    m, true, n_fft = spectrum[:, 0].abs(), spectrum[0, 0, :, 4:-4], codec.LONGER * N_FFT

    def agreement(turned) -> float:
        """Of each bin with its own true phases, up to a constant; 1 is perfect."""
        guess = phase.phase_of(m, n_fft, n_fft // 4, 0, turned)[0, :, 4:-4] * true.abs()
        return float((guess * true.conj()).sum(1).abs().sum() / true.abs().square().sum())

    assert agreement(codec.turns(spectrum).transpose(1, 2)) > 0.9 > 0.5 > agreement(None)


def test_turns_are_the_phases_differences():
    spectrum = torch.randn(2, 2, 20, 7, dtype=torch.complex128)
    spectrum[:, 1] = 0
    expected = np.diff(np.angle(spectrum[:, 0].numpy()), axis=2) - np.arange(20)[:, None] * np.pi / 2
    got = codec.turns(spectrum)[:, 1:].numpy()
    np.testing.assert_allclose(got, np.exp(1j * expected).transpose(0, 2, 1), atol=1e-12)


@pytest.mark.parametrize("notes", [(69,), (57, 61, 64)])
def test_true_spectra_give_spectrum_chroma_and_stereo_back(notes):
    audio = chord(2.0, notes)
    rebuilt = codec.synthesise(CONFIG, codec.spectra_of(CONFIG, audio)[0])[0]
    assert rebuilt.shape == (2, math.ceil(audio.shape[2] / CONFIG.hop) * CONFIG.hop)
    x, y = (np.abs(librosa.stft(z[0].numpy(), n_fft=N_FFT, hop_length=HOP)) for z in (rebuilt, audio[0]))
    n = min(x.shape[1], y.shape[1]) - 4
    assert 20 * math.log10(np.linalg.norm(x[:, 4:n] - y[:, 4:n]) / np.linalg.norm(y[:, 4:n])) < -15  # dB
    x, y = (librosa.feature.chroma_cqt(y=z[0].numpy(), sr=44100, hop_length=2048) for z in (rebuilt, audio[0]))
    n = min(x.shape[1], y.shape[1])
    assert np.corrcoef(x[:, :n].ravel(), y[:, :n].ravel())[0, 1] > 0.98
    middle = slice(8192, -8192)
    torch.testing.assert_close(rebuilt[1, middle], rebuilt[0, middle] / 2, atol=2e-3, rtol=2e-2)  # as in the original


def flutter(audio: torch.Tensor) -> float:
    """Mean change of log magnitudes from frame to frame between 2 and 8 kHz, of audio (N,)."""
    log = stft(audio[None])[0, 93:372, 8:-8].abs().clamp_min(1e-6).log()
    return float((log[:, 4:] - log[:, :-4]).abs().mean())


def test_a_smoothed_sound_gets_its_flutter_and_its_power_from_noise_but_no_new_attacks():
    """White noise of two levels, as a decoder says it: the mean of its magnitudes, which is steady."""
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(1, 2, 100 * CONFIG.hop)
    audio[..., : 50 * CONFIG.hop] *= 1e-3
    true = codec.spectra_of(CONFIG, audio)[0]
    high = true.high.unflatten(1, (2, -1)).mean(2, keepdim=True).expand(-1, -1, 50 * CONFIG.frames, -1, -1)
    flat = true._replace(high=high.flatten(1, 2))
    sounds = [audio, *(codec.synthesise(CONFIG, flat, noise) for noise in (0.0, codec.NOISE, 1.0))]
    sounds = [x[0, 0, audio.shape[2] // 2 + CONFIG.hop :] for x in sounds]
    real, steady, some, full = map(flutter, sounds)
    assert steady < 0.5 * real and steady < some < full and 0.8 * real < full < 1.2 * real
    power = [float(stft(x[None])[0, 93:372].abs().square().mean()) for x in sounds]
    assert 0.8 < power[3] / power[1] < 1.25
    one = torch.ones(1, 3, 4, dtype=torch.complex64)
    m = torch.tensor([0.01, 0.01, 1, 1]).expand(1, 3, 4)
    size = (codec.grained(one, m, 5j * one[0], 0.36) / 5).imag
    torch.testing.assert_close(size[0, 0], torch.tensor([0, 0.6, 0.006, 0.6]))  # none where a sound begins


def test_the_noise_begins_again_without_a_seam():
    grain = codec.noise_spectrum(N_FFT)
    torch.testing.assert_close(grain.abs().square().mean(), torch.tensor(1.0), rtol=0.02, atol=0)
    period, twice = codec.CHUNK * HOP, istft(grain.repeat(1, 2))
    torch.testing.assert_close(twice[period : 2 * period - N_FFT], twice[: period - N_FFT], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("left", "right"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7), (0.7, -0.7), (0.9, 0.3)])
def test_a_sound_stays_at_its_place_between_the_speakers(left, right):
    source = chord(1.0)[0, 0]
    audio = torch.stack([left * source, right * source])[None]
    level = codec.synthesise(CONFIG, codec.spectra_of(CONFIG, audio)[0])[0].square().mean(1).sqrt()
    torch.testing.assert_close(level, audio[0].square().mean(1).sqrt(), rtol=0.03, atol=2e-3)


@pytest.fixture
def vae() -> SpectralVAE:
    """Every matrix is drawn: layers that start at zero would hide mistakes."""
    torch.manual_seed(0)
    network = SpectralVAE(dataclasses.replace(smoke().codec, kl_weight=0.1)).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.05)
    network.fit_scale(list(0.3 * torch.randn(4, 2, 8 * network.hop)))
    return network


def test_shapes_exact_lengths_and_finite_audio(vae):
    for samples in (2048, 2049, 4095, 4096, 30_000):
        frames = math.ceil(samples / vae.hop)
        latents = vae.encode(torch.randn(3, 2, samples))
        audio = vae.decode(latents)
        assert latents.shape == (3, 8, frames) and audio.shape == (3, 2, frames * vae.hop)
        assert latents.isfinite().all() and audio.isfinite().all()
    audio = 0.1 * torch.randn(1, 2, 8192)
    latents, rebuilt = vae.encode(audio), vae.decode(vae.encode(audio))
    vae.tolerance.copy_(torch.rand(8) + 0.5)  # the unit of the latents
    torch.testing.assert_close(vae.encode(audio) * vae.tolerance.sqrt()[:, None], latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.decode(vae.encode(audio)), rebuilt, rtol=1e-3, atol=1e-4)
    for audio in (torch.zeros(1, 2, 8192), 1e4 * torch.randn(1, 2, 8192)):
        assert vae.decode(vae.encode(audio)).isfinite().all()
    with pytest.raises(MuseError, match=r"\(B, 2, N >= 2048\), not \("):
        vae.encode(torch.zeros(1, 1, 44100))


def test_the_loss_is_its_formula_written_out_and_so_is_its_gradient(vae):
    """mean |e| + mean e^2 of both windows + turns + 0.2 angles + 0.1 log mel + kl_weight times the KL divergence to
    N(0, 1)."""
    config, size, first = vae.config, codec.bands(vae.config), codec.first_band(vae.config)
    audio, epsilon = 0.1 * torch.randn(2, 2, 6 * vae.hop), torch.randn(2, 6, config.latent_dim)
    value, terms = vae.training_loss({"audio": audio, "epsilon": epsilon})
    (value * 0.37).backward()
    gradients = {name: p.grad.clone() for name, p in vae.named_parameters()}
    vae.zero_grad()
    c = codec.compress(config, codec.middles(config, audio))
    mean, log_variance = vae.posterior(codec.spectra_of(config, audio)[0], c)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    guess = vae.decoder(mean + epsilon * q.scale)
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean()
    sides = [c[..., i * size : (i + 1) * size] for i in range(8)]  # mid, side of four frames
    y = ((c - vae.mean) * vae.gain)[..., :-size].reshape(2, 6, 4, 2, size)[..., first:].reshape(2, 24, 2, -1)
    long = codec.middles(config, audio, 2)[:, :, : config.low_bins]
    low = (long.abs() ** 0.3).permute(0, 3, 1, 2)
    errors = [guess.high - y, guess.low - (low - vae.low_mean) * vae.low_gain]
    l1, l2 = (0.5 * (errors[0].abs() ** p).mean() + 0.5 * (errors[1].abs() ** p).mean() for p in (1, 2))
    strength = long.abs().sum(1).transpose(1, 2)
    turn = (strength * (guess.turned - codec.turns(long)).abs() ** 2).mean() / strength.mean()
    strength = sum(sides[::2]) / 4 * (sum(sides[1::2]) / 4)
    cosine = guess.cosine + vae.mean[-size:]
    angle = (strength / strength.mean() * (cosine - c[..., -size:]) ** 2).mean()

    def log_mel(y):
        gain, mean = (x[:-size].view(4, 2, size)[..., first:] for x in (vae.gain, vae.mean))
        c = (y.reshape(2, 6, 4, 2, -1) / gain + mean).clamp_min(1e-3) ** (2 / 0.3)
        return torch.log(c.sum(3) @ codec.mel_weights(config)[first:] + codec.MEL_FLOOR)

    mel = (log_mel(guess.high) - log_mel(y)).abs().mean()
    expected = l1 + l2 + turn + 0.2 * angle + 0.1 * mel + 0.1 * kl
    (expected * 0.37).backward()
    for name, true in {"kl": kl, "l1": l1, "l2": l2, "turn": turn, "angle": angle, "mel": mel}.items():
        torch.testing.assert_close(terms[name], true, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    for name, p in vae.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_the_scale_centres_every_value_weighs_low_bands_more_and_is_undone(vae):
    audio, size = list(0.3 * torch.randn(6, 2, 16 * vae.hop)), codec.bands(vae.config)
    vae.fit_scale(audio)
    true, c = codec.spectra_of(vae.config, torch.stack(audio))
    scaled = (c - vae.mean) * vae.gain
    y, weight = scaled[:, ::8].flatten(0, 1), codec.loss_weight(vae.config).repeat(8)
    assert y.mean(0).abs().max() < 1e-4 and y[:, :-size].std() == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(vae.gain[:-size] / vae.gain[0], weight / weight[0])
    assert (vae.gain[-size:] == 1).all()
    low = ((true.low[:, ::4] - vae.low_mean) * vae.low_gain).flatten(0, 1)
    assert low.mean(0).abs().max() < 1e-4 and low.std() == pytest.approx(1, abs=1e-2)
    high = scaled[..., :-size].unflatten(2, (4, 2, size)).flatten(1, 2)[..., codec.first_band(vae.config) :]
    low = (true.low - vae.low_mean) * vae.low_gain
    exact = true._replace(high=high, low=low, cosine=scaled[..., -size:])
    for got, expected in zip(vae.unscaled(exact), true, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_codec_begins_as_principal_components(vae):
    """Each window has half of the weight; the networks beside the linear layers begin at zero."""
    torch.manual_seed(0)
    vae, audio = SpectralVAE(vae.config), list(0.3 * torch.randn(4, 2, 32 * 2048))
    vae.fit_scale(audio)
    true, c = codec.spectra_of(vae.config, torch.stack(audio))
    y, sizes = vae.scaled(true).flatten(0, 1), codec.drawn(vae.config)
    weight = torch.cat([torch.full((n,), n**-0.5) for n in sizes])
    u, s, v = torch.linalg.svd(y[::2] * weight, full_matrices=False)
    best = (y * weight) @ v[: vae.config.latent_dim].T @ v[: vae.config.latent_dim] / weight
    with torch.no_grad():
        guess = vae.decoder(vae.posterior(true, c)[0])
    drawn = torch.cat([x.reshape(len(audio), 32, -1) for x in (guess.high, guess.low)], 2).flatten(0, 1)
    best, got, alone = (((x - y) * weight).square().sum() for x in (best, drawn, torch.zeros_like(y)))
    assert best < 0.95 * alone and got == pytest.approx(float(best), rel=0.03)


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
