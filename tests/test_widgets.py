"""The Studio without a browser: set `.value`, press, assert what is shown. Random smoke weights: it sounds as noise."""

import re
import time

import pytest

from musekit.cards import waveform
from musekit.config import MuseError
from musekit.sample import Muse
from musekit.widgets import MOST_CARDS, Job, Studio

PATIENCE = 120  # seconds; a busy machine is slow
QUICK = {"seconds": 0.5, "steps": 2, "stage1_steps": 2, "micro_batch": 2}


@pytest.fixture(scope="module")
def muse(smoke_weights):
    muse = Muse.from_pretrained(smoke_weights)
    muse.generate("warm up", n=1, **QUICK)
    return muse


@pytest.fixture
def studio(smoke_weights, muse):
    studio = Studio(smoke_weights)
    studio.job.muse = muse  # its parts are loaded already
    studio.seconds.value, studio.steps.value, studio.n.value = 0.5, 2, 2
    return studio


def finish(studio, status: str = "done") -> None:
    assert studio.job.wait(PATIENCE) == status, studio.job.message


def shown(studio) -> list[str]:
    return [widget.value for widget in studio.cards.children]


def test_generate_shows_a_card_for_each_piece(studio, muse):
    studio.prompt.value, studio.seed.value, studio.n.value = "a calm organ piece", 7, 3
    studio.generate.click()
    finish(studio)
    cards = shown(studio)
    assert len(cards) == 3 and studio.bar.value == 1.0 and studio.bar.bar_style == "success"
    assert sorted(re.findall(r"seed (\d+) &middot;", "".join(cards))) == ["7", "8", "9"]
    for text in cards:
        assert 'src="data:audio/ogg;base64,' in text and "<svg" in text and "a calm organ piece" in text
        assert re.search(r"similarity [+-][01]\.\d\d", text)
    assert f"0.5 s, 2 steps, guidance {studio.guidance.value:g}" in cards[0]
    assert not studio.generate.disabled and studio.cancel.disabled
    recipe = studio.job.pieces[1].recipe
    assert (recipe.seed, recipe.seconds, recipe.stage2_steps) == (8, 0.5, 2)


def test_the_bar_moves_in_both_stages_and_never_back(muse):
    seen = []
    job = Job(muse)
    job.on_change = lambda: seen.append((job.fraction, job.message))
    job.start("a waltz", n=3, **{**QUICK, "steps": 4, "stage1_steps": 4})
    assert job.wait(PATIENCE) == "done"
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    for stage in ("text to embedding", "embedding to latents", "latents to sound"):
        for batch in (1, 2):
            part = {f for f, message in seen if message.startswith(stage) and f"micro-batch {batch} of 2" in message}
            assert len(part) >= 2 or stage == "latents to sound" and part, (stage, batch, seen)


def test_the_caller_stays_free_and_cancel_stops_at_the_next_step(studio):
    studio.steps.value = 200
    studio.generate.click()  # returns at once
    assert studio.job.running and studio.generate.disabled and not studio.cancel.disabled
    with pytest.raises(MuseError, match="running"):
        studio.job.start("another")
    deadline = time.monotonic() + PATIENCE
    while studio.bar.value < 0.1 and time.monotonic() < deadline:
        time.sleep(0.01)
    studio.cancel.click()
    finish(studio, "cancelled")
    assert 0 < studio.bar.value < 0.9 and studio.bar.bar_style == "warning"
    assert "cancelled; 0 of 2" in studio.label.value and shown(studio) == []
    assert not studio.generate.disabled and studio.cancel.disabled
    studio.steps.value = 2
    studio.generate.click()
    finish(studio)
    assert len(shown(studio)) == 2


def test_what_a_person_types_is_escaped_everywhere(studio):
    studio.prompt.value, studio.n.value = '<img src=x onerror=alert(1)>"&', 1
    studio.generate.click()
    finish(studio)
    [text] = shown(studio)
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;&quot;&amp;" in text
    assert "onerror" not in studio.label.value


@pytest.mark.parametrize(
    "change, told",
    [
        ({"prompt": "  \t "}, "the prompt is empty"),
        ({"prompt": "x", "n": 1, "fail": ValueError("<b>odd</b>")}, "ValueError: &lt;b&gt;odd&lt;/b&gt;"),
    ],
)
def test_errors_stand_in_the_label(studio, monkeypatch, change, told):
    if fail := change.pop("fail", None):

        def broken(*args, **kwargs):
            raise fail

        monkeypatch.setattr(studio.job.muse, "embed_rows", broken)
    for name, value in change.items():
        getattr(studio, name).value = value
    studio.generate.click()
    finish(studio, "failed")
    assert told in studio.label.value and studio.bar.bar_style == "danger" and not studio.generate.disabled


def test_missing_weights_are_told_and_generate_is_off(tmp_path):
    studio = Studio(tmp_path / "nothing")
    assert studio.generate.disabled and "no weights at" in studio.label.value


def test_a_long_prompt_is_cut_with_a_notice(studio):
    studio.prompt.value, studio.n.value = "slow " * 3000, 1
    studio.generate.click()
    finish(studio)
    assert "only the first 2,000" in studio.label.value and "tokens" in studio.label.value


def test_knobs_cannot_leave_what_can_be_sampled(studio):
    studio.seconds.value = 1e9
    studio.n.value = -3
    studio.seed.value = -1
    assert studio.seconds.value <= studio.job.muse.config.window_seconds
    assert (studio.n.value, studio.seed.value) == (1, 0)


def test_new_cards_come_first_and_old_ones_leave(studio):
    studio.n.value = 1
    for seed in (1, 2):
        studio.seed.value = seed
        studio.generate.click()
        finish(studio)
    cards = shown(studio)
    assert "seed 2 " in cards[0] and "seed 1 " in cards[1]
    first = studio.cards.children[-1]
    studio.job.pieces = studio.job.pieces * MOST_CARDS
    studio._shown = 0
    studio._show()
    assert len(shown(studio)) == MOST_CARDS and first not in studio.cards.children


def test_a_waveform_is_the_outline_of_the_sound():
    import numpy as np

    ramp = np.linspace(0, 1, 26_000, dtype=np.float32)
    points = re.search(r'points="([^"]+)"', waveform(np.stack([ramp, ramp]))).group(1).split()
    heights = [float(point.split(",")[1]) for point in points[:260]]
    assert len(points) == 520 and heights == sorted(heights, reverse=True) and min(heights) > 0
    assert "nan" not in waveform(np.zeros((2, 10), np.float32))
