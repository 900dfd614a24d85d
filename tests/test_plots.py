"""The figures: drawn without a screen or global state, readable, and true to the arrays they were given."""

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from musekit.show import pictures, plots, style

RATE = 44100


def tone(frequency: float, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return level * np.stack([np.sin(2 * np.pi * frequency * t)] * 2).astype(np.float32)


NOISE = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
FIGURES = {
    "contact sheet": lambda **k: plots.contact_sheet([("seed 0", tone(440)), ("seed 1", NOISE)], RATE, **k),
    "spectrogram": lambda **k: plots.spectrogram(NOISE, RATE, **k),
    "latents": lambda **k: plots.latents(np.random.default_rng(0).normal(size=(64, 259)), 12.0, **k),
    "loss curves": lambda **k: plots.loss_curves(
        {"training": ([1, 2000], [2.0, 1.1]), "validation": ([1, 2000], [2.1, 1.2])}, {"floor": 1.0}, **k
    ),
    "bars": lambda **k: plots.bars(
        ["instrument", "mode"],
        {
            "originals": ([0.9, 0.8], [0.85, 0.7], [0.95, 0.9]),
            "generated": ([0.8, np.nan], [0.7, np.nan], [0.9, np.nan]),
        },
        levels={"bar": 0.9},
        **k,
    ),
    "trajectories": lambda **k: plots.trajectories(
        np.random.default_rng(0).normal(size=(5, 9, 2)), np.zeros((3, 2)), (np.zeros((2, 2)), np.ones((2, 2))), **k
    ),
    "sweep": lambda **k: plots.sweep({"euler": ([1, 10, 100], [3.0, 2.0, 1.0])}, {"bar": 2.0}, logx=True, **k),
    "pairs": lambda **k: plots.pairs([("vague $", 0.2, 0.4), ("specific", 0.3, 0.1)], ("a", "b"), **k),
    "panels": lambda **k: plots.panels({"one": np.eye(9), "two": np.ones((9, 9))}, **k),
    "written and heard": lambda **k: plots.written_and_heard([[0.1, 0.5, 69, 80, 0]], tone(440), RATE, **k),
    "scatter": lambda **k: plots.scatter(
        {"a": np.zeros((4, 2)), "b": np.ones((3, 2))}, np.ones((9, 2)), {"regression": np.zeros(2)}, **k
    ),
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
    for axes in figure.axes:
        assert all(text.get_fontsize() >= 10 for text in (*axes.texts, *axes.get_xticklabels(), axes.xaxis.label))


def test_figures_leave_no_global_state():
    import matplotlib

    before = dict(matplotlib.rcParams)
    matplotlib.rcParams["font.size"] = 3  # someone else's setting neither shows in the figure nor is lost
    try:
        figure = FIGURES["latents"]()
        assert figure.axes[0].xaxis.label.get_fontsize() == style.STYLE["axes.labelsize"]
        assert matplotlib.rcParams["font.size"] == 3
    finally:
        matplotlib.rcParams.update(before)
    code = "import sys; from musekit.show import plots; assert not {'matplotlib', 'torch'} & set(sys.modules); "
    code += "plots.latents([[0, 1], [1, 0]], 1.0); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(style.__file__).parents[1])


def test_the_same_arrays_give_the_same_picture():
    assert png(FIGURES["contact sheet"]()) == png(FIGURES["contact sheet"]())


@pytest.mark.parametrize("n, columns", [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (16, 4)])
def test_the_contact_sheet_has_two_pictures_a_piece_in_few_columns(n, columns):
    figure = plots.contact_sheet([(f"seed {i}", NOISE[:, :8192]) for i in range(n)], RATE)
    assert len(figure.axes) == 2 * n
    assert len({axes.get_subplotspec().colspan.start for axes in figure.axes}) == columns
    assert [axes.get_title(loc="left") for axes in figure.axes[::2]] == [f"seed {i}" for i in range(n)]


@pytest.mark.parametrize("audio", [np.zeros((2, 100)), np.zeros((2, 44100)), tone(440)[:, :5000], tone(440)[:1]])
def test_odd_sounds_can_be_shown(audio):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png(plots.contact_sheet([("silence", audio)], RATE))
        png(plots.spectrogram(audio, RATE))


def test_magnitudes_are_amplitudes_and_decibels_have_a_floor():
    m = pictures.magnitudes(tone(RATE / 4096 * 100, level=0.5), 4096, 1024)
    assert m.shape == (2049, 44) and m[100, 20] == pytest.approx(0.5, rel=1e-3)
    assert pictures.decibels(np.array([1.0, 0.1, 0.0])) == pytest.approx([0, -20, -80])


def test_mel_filters_cover_every_frequency_between_their_ends():
    filters = pictures.mel_filters(96, 4096, RATE)
    hz = np.arange(2049) * RATE / 4096
    assert filters.shape == (96, 2049) and filters.max() <= 1
    assert (filters.max(1) > 0.3).all()  # no empty band
    assert (filters[:, (hz > 60) & (hz < 11500)].max(0) > 0.3).all()


def test_a_note_is_drawn_at_its_own_height():
    figure = plots.spectrogram(tone(880.0), RATE)
    picture = figure.axes[0].images[0].get_array()
    assert picture[:, picture.shape[1] // 2].argmax() == 48 * 4  # 880 Hz is four octaves above 55 Hz
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["55", "110", "220"]


def test_bars_show_their_intervals():
    axes = FIGURES["bars"]().axes[0]
    assert [p.get_height() for p in axes.patches][:2] == [0.9, 0.8]
    ends = axes.containers[1].lines[2][0].get_segments()
    assert np.allclose(ends[0][:, 1], [0.85, 0.95])
    assert sum(text.get_text() == "0.80" for text in axes.texts) == 2  # a gap has no number


def test_paths_end_where_the_samples_are():
    paths = np.random.default_rng(1).normal(size=(6, 5, 2))
    axes = plots.trajectories(paths).axes[0]
    start, end = (np.asarray(c.get_offsets()) for c in axes.collections)
    assert np.allclose(start, paths[:, 0]) and np.allclose(end, paths[:, -1])


@pytest.mark.parametrize("text", ["$x$ costs $5", r"\frac{$", "_^{", "%s %d", "$\\undefined{$"])
def test_a_persons_text_is_shown_as_it_is(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.contact_sheet([("x", NOISE)], RATE, title=plots.plain(text))
        png(figure)


def test_letters_without_a_glyph_become_squares_and_long_text_is_cut():
    assert plots.plain("sad \U0001f3b9 悲") == "sad \u25a1 \u25a1"
    assert len(plots.plain("x" * 500, 60)) == 60


def test_the_palette_is_tellable_apart_in_grey():
    from matplotlib.colors import to_rgb

    grey = sorted(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in style.PALETTE[:3])
    assert len(set(style.PALETTE)) == 8 and min(np.diff(grey)) > 0.05


def test_caption_and_stamp_stay_within_the_figure():
    """As wide as text gets: the benches' stamps, which name processors, and many wide letters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stamp = "recorded 2026-11-23 on Intel(R) Xeon(R) Processor @ 2.50GHz, 2 threads, commit 4ae4222: bench-sizes.json"
    for text in (stamp, "what each weight meets, measured, " * 8):
        for width in (6.0, 8.0, 10.0):
            figure = style.finish(style.new_figure(width), caption=text, stamp=text)
            FigureCanvasAgg(figure).draw()
            assert figure._supxlabel.get_window_extent().x1 <= figure.bbox.x1
