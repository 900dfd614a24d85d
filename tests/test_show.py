"""Figures, pictures of sound, players and cards: readable, true to their arrays, small, and without global state."""

import base64
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.functional import loudness

from musekit.show import pictures, plots, style
from musekit.show.players import LUFS, loudness_of, player, players

RATE = 44100
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.1, (2, RATE)).astype(np.float32)


def tone(hz: float = 440.0, seconds: float = 1.0, channels: int = 2) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return np.tile(0.3 * np.sin(2 * np.pi * hz * t), (channels, 1)).astype(np.float32)


FIGURES = {
    "contact sheet": lambda **k: pictures.contact_sheet([("seed 0", tone()), ("seed 1", NOISE)], RATE, **k),
    "strip": lambda **k: pictures.strip([(f"{i} $x$ \u4e2d", tone(220)) for i in range(5)], RATE, **k),
    "score": lambda **k: pictures.score_over_spectrogram([[0.1, 0.5, 69, 80, 0]], tone(), RATE, **k),
    "sweep": lambda **k: plots.sweep({"a": ([1, 10, 100], np.ones((3, 2)))}, {"bar": 2.0}, log="xy", **k),
    "curves": lambda **k: plots.sweep({"a": ([1, 20_000], [2, 1]), "b": ([1, 20_000], [3, 1])}, marks=False, **k),
    "bars": lambda **k: plots.bars(
        ["instrument", "mode"],
        {"real": ([0.9, 0.8], [0.85, 0.8], [0.95, 0.8]), "generated": ([0.8, np.nan], [0.7, np.nan], [0.9, np.nan])},
        **k,
    ),
    "trajectories": lambda **k: plots.trajectories(
        RNG.normal(size=(5, 9, 2)), np.zeros((3, 2)), (np.zeros((2, 2)), np.ones((2, 2))), [0, 0, 1, 1, 1], **k
    ),
    "scatter": lambda **k: plots.scatter(
        {"a": np.zeros((4, 2)), "b": np.ones((3, 2))}, np.ones((9, 2)), {"regression": np.zeros(2)}, **k
    ),
    "pairs": lambda **k: plots.pairs([("vague $", 0.2, 0.4), ("specific", 0.3, 0.1)], ("a", "b"), **k),
    "diagonal": lambda **k: plots.diagonal({"a": ([1, 10], [1.2, 9])}, **k),
    "waterfall": lambda **k: plots.waterfall([("naive", 1000.0, "a"), ("ours $", 2.0, "b")], **k),
    "images": lambda **k: plots.images({"one": np.eye(9), "two": np.ones((9, 9))}, **k),
    "signed images": lambda **k: plots.images({"latents": RNG.normal(size=(8, 20))}, signed=True, **k),
}


def png(figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_without_a_warning_and_carries_its_caption(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name](title="A title", caption="The finding. " * 20, stamp="commit 0123456")
        assert png(figure).startswith(b"\x89PNG")
    below = figure.get_supxlabel()
    assert "The finding." in below and below.endswith("commit 0123456")
    assert figure.get_suptitle() == "A title"
    assert figure._supxlabel.get_window_extent().x1 <= figure.bbox.x1
    for axes in figure.axes:
        assert all(text.get_fontsize() >= 10 for text in (*axes.texts, *axes.get_xticklabels(), axes.xaxis.label))


def test_figures_import_no_pyplot():
    code = "import sys; from musekit.show import plots; assert not {'matplotlib', 'torch'} & set(sys.modules); "
    code += "plots.images({'': [[0, 1], [1, 0]]}); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(style.__file__).parents[2])


def test_magnitudes_are_amplitudes_and_decibels_have_a_floor():
    m = pictures.magnitudes(tone(RATE / 4096 * 100), 4096, 1024)
    assert m.shape == (2049, 44) and m[100, 20] == pytest.approx(0.3, rel=1e-3)
    assert pictures.decibels(np.array([1.0, 0.1, 0.0])) == pytest.approx([0, -20, -80])


def test_a_note_is_drawn_at_its_own_height():
    levels = pictures.log_frequency(tone(440.0), RATE, low=110.0, octaves=4, per_octave=16)
    middle = levels[:, levels.shape[1] // 2]
    assert levels.shape[0] == 64 and np.argmax(middle) == 32 and middle[5] < middle.max() - 40
    axes = FIGURES["score"]().axes[0]
    picture = axes.images[0].get_array()
    [line] = axes.collections[0].get_segments()
    assert picture[:, 20].argmax() / 48 == pytest.approx(line[0, 1], abs=1 / 24)  # A4 is 2.75 octaves above C2


def test_bars_show_their_intervals_and_no_others():
    axes = FIGURES["bars"]().axes[0]
    assert [p.get_height() for p in axes.patches][:2] == [0.9, 0.8]
    ends = [c.lines[2][0].get_segments() for c in axes.containers if hasattr(c, "has_yerr")]
    assert np.allclose(ends[0][0][:, 1], [0.85, 0.95]) and [len(e) for e in ends] == [1, 1]
    assert sum(text.get_text() == "0.80" for text in axes.texts) == 2  # a gap has no number


def test_a_picture_is_a_small_png_with_its_command(monkeypatch):
    monkeypatch.setattr(plots.Picture, "command", "make notebooks NOTEBOOKS=x.ipynb")
    figure = pictures.strip([("noise", np.tile(NOISE, 6))] * 4, RATE, title="four", caption="C")
    picture = plots.Picture(figure)
    data, metadata = picture._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "four"
    assert base64.b64decode(data["image/png"]) == picture.png and "four" in data["text/plain"]
    assert len(picture.png) < 60_000 and figure.get_supxlabel() == "C\nmake notebooks NOTEBOOKS=x.ipynb"


def test_loudness_is_that_of_the_standard_and_playback_is_matched():
    tone = np.sin(2 * np.pi * 997 * np.arange(5 * RATE) / RATE).astype(np.float32)  # BS.1770: full scale is -3.01 LUFS
    assert loudness_of(tone, RATE) == pytest.approx(-3.01, abs=0.06)
    assert loudness_of(np.tile(0.1 * tone, (2, 1)), RATE) == pytest.approx(-20.0, abs=0.06)
    gap = np.concatenate([0.1 * tone, np.zeros(5 * RATE, np.float32)])
    assert loudness_of(gap, RATE) == pytest.approx(-23.0, abs=0.3)  # silence is gated
    assert loudness_of(np.zeros((2, RATE)), RATE) == -np.inf
    noise = np.tile(NOISE, 4) * np.linspace(0.001, 1, 4 * RATE, dtype=np.float32)
    assert loudness_of(noise, RATE) == pytest.approx(float(loudness(torch.from_numpy(noise), RATE)), abs=0.01)
    for level in (0.02, 0.3):
        played = sound_in(player(level * tone, RATE, "x", seconds=None, rate=RATE, matched=True).data)
        assert loudness_of(played[0][0].T, RATE) == pytest.approx(LUFS, abs=0.3)


def sound_in(markup: str) -> list[tuple[np.ndarray, int]]:
    import soundfile

    found = re.findall(r'src="data:audio/ogg;base64,([A-Za-z0-9+/=]+)"', markup)
    return [soundfile.read(io.BytesIO(base64.b64decode(data)), always_2d=True) for data in found]


@pytest.mark.parametrize("channels, options", [(1, {}), (2, {}), (1, {"kbps": 20})])
def test_the_sound_comes_back(channels, options):
    [(back, rate)] = sound_in(player(torch.from_numpy(tone(channels=channels)), RATE, "a tone", **options).data)
    assert rate == 32000 or options and rate in (24_000, 48_000)
    assert len(back) == pytest.approx(rate, rel=0.05) and back.shape[1] == channels
    spectrum = np.abs(np.fft.rfft(back[:, 0]))
    assert abs(np.argmax(spectrum) * rate / len(back) - 440) < 2
    assert np.sqrt((back**2).mean()) == pytest.approx(0.3 / 2**0.5, rel=0.05)


def test_only_the_first_seconds_are_kept_and_they_are_small():
    music = sum(tone(hz, 12) for hz in (220, 331, 440, 661, 1323)) / 5
    page = player(music, RATE, "twelve seconds").data
    [(back, rate)] = sound_in(page)
    assert len(back) == 6 * rate and len(page) < 75_000
    assert abs(back[-20:]).max() < 0.02  # faded out
    [(mono, rate)] = sound_in(player(music, RATE, "mono", mono=True, seconds=2.0, rate=22_050).data)
    assert rate == 22_050 and mono.shape == (2 * 22_050, 1)


def test_texts_are_escaped_in_captions_and_attributes():
    bad = '"><script>alert(1)</script>&'
    shown = players([tone(), tone()], RATE, [bad, "b"], [bad, ""], title=bad, seconds=0.5)
    assert "<script" not in shown.data and shown.data.count("&lt;script&gt;") >= 4
    assert re.findall(r'aria-label="([^"]*)"', shown.data)[0].startswith("audio: &quot;&gt;&lt;script&gt;")
    assert len(sound_in(shown.data)) == 2
