"""Small multiples: the right number of panels, notes where they sound, pictures small enough to commit."""

import base64
import io

import numpy as np
import pytest

from musekit.show import panels
from musekit.show.panels import Picture, log_frequency

RATE = 44100


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return np.tile(0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE), (2, 1)).astype(np.float32)


def test_a_note_is_a_line_at_its_place():
    picture = log_frequency(tone(440.0), RATE, low=110.0, octaves=4, rows=16)
    assert picture.shape[0] == 64 and picture.max() == 0 and picture.min() >= -52
    middle = picture[:, picture.shape[1] // 2]
    assert np.argmax(middle) == 32 and middle[5] < -40  # two octaves above 110 Hz


def test_silence_has_a_picture_too():
    assert np.isfinite(log_frequency(np.zeros((2, 5000), np.float32), RATE)).all()


def test_a_strip_has_a_panel_a_clip():
    figure = panels.strip(
        [(f"{i} $x$ \u4e2d", tone(220)) for i in range(5)], RATE, 4, title="t", caption="c", stamp="s"
    )
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 5 and figure.get_suptitle() == "t" and "c" in figure.get_supxlabel()


def test_moments_and_sweeps_draw_what_they_get():
    states = [(f"t = {t}", np.random.default_rng(0).standard_normal((8, 21)), tone(330)) for t in (0, 1)]
    assert len(panels.moments(states, RATE, caption="c").axes) == 4
    runs = {"a": ([1, 2, 4], np.ones((3, 2))), "b": ([1, 2, 4], [3, 2, 1])}
    figure = panels.measures([("one", runs), ("two", {"a": runs["a"]})], xlabel="x", log="xy", levels={"level": 2.0})
    left, right = figure.axes
    assert [line.get_label() for line in left.get_lines() if not line.get_label().startswith("_")] == ["a", "b"]
    assert left.get_xscale() == "log" and right.get_ylabel() == "two" and right.texts[0].get_text() == "level"


def test_a_picture_is_a_small_png():
    noise = np.random.default_rng(0).standard_normal((2, 6 * RATE)).astype(np.float32)
    picture = Picture(panels.strip([("noise", noise)] * 4, RATE, title="four"))
    data = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == picture.png and "four" in data["text/plain"]
    from PIL import Image

    image = Image.open(io.BytesIO(picture.png))
    assert image.format == "PNG" and image.size[0] == pytest.approx(11 * 72, abs=2)
    assert len(picture.png) < 60_000


def test_a_notebooks_figures_print_the_command_that_draws_them_again(monkeypatch):
    figure = panels.measures([("a", {"b": ([0, 1], np.ones((2, 1)))})], xlabel="x", title="T", caption="C")
    monkeypatch.setattr(Picture, "command", "make notebooks NOTEBOOKS=x.ipynb")
    Picture(figure)
    assert figure.get_supxlabel() == "C\nmake notebooks NOTEBOOKS=x.ipynb"
