"""The Studio's state and its job: results as they are ready, variations at an exact distance."""

import io
import json
import math
import threading
import time

import numpy as np
import pytest
import soundfile
import torch

from musekit.config import MuseError
from musekit.edit import FADE
from musekit.entry import file_of, read_entry
from musekit.lab.job import Job
from musekit.lab.rendering import angle, render_again
from musekit.lab.studio import Studio
from musekit.library import Library
from musekit.tune import read_tune

PATIENCE = 120  # seconds; a busy machine is slow
SHORT = {"seconds": 0.5, "steps": 2}


@pytest.fixture
def studio(muse, tmp_path):
    return Studio(muse, Library(tmp_path / "library"))


def finish(studio, status: str = "done") -> None:
    assert studio.job.wait(PATIENCE) == status, studio.job.message


def made(studio, prompt, **options) -> list:
    """The results that one call adds."""
    before = len(studio.results)
    studio.generate(prompt, **SHORT | options)
    finish(studio)
    return studio.results[before:]


# -- the job


def test_a_job_runs_one_piece_of_work_and_reports_its_end():
    job = Job()
    job.start(lambda: time.sleep(0.2) or "finished")
    with pytest.raises(MuseError, match="still at work"):
        job.start(lambda: "")
    assert job.wait(5) == "done" and job.message == "finished" and job.fraction == 1.0
    for error, message in ((ValueError("odd"), "ValueError: odd"), (MuseError("said"), "said")):

        def fail(error=error):
            raise error

        job.start(fail)
        assert job.wait(5) == "failed" and message in job.message


def test_the_latest_of_two_replaces_the_other_and_nothing_else():
    job, done, go = Job(), [], threading.Event()

    def work(name):
        go.set()
        assert name != "first" or job.flag.wait(PATIENCE)
        done.append(name)
        return name

    job.start(lambda: work("first"), latest=True)
    go.wait(PATIENCE)
    with pytest.raises(MuseError, match="still at work"):
        job.start(lambda: "a map")
    for name in ("second", "third"):
        job.start(lambda name=name: work(name), latest=True)
    assert job.wait(PATIENCE) == "done" and job.message == "third" and done[0] == "first" and done[-1] == "third"


def test_seconds_left_follow_from_the_pace(monkeypatch):
    job, now = Job(), [100.0]
    monkeypatch.setattr("musekit.lab.job.time.monotonic", lambda: now[0])

    def work() -> str:
        now[0] += 6.0
        job.report("half a quarter", 0.25)
        return f"{job.left}"

    job.start(work)
    assert job.wait(5) == "done" and job.message == "18.0" and job.left is None


def test_progress_of_several_micro_batches_rises_through_all_stages():
    job, seen = Job(), []
    job.on_change = lambda: seen.append(job.fraction)
    follow = job.follow(2, 0.5, 1.0)
    for _ in range(2):
        for stage, n in (("stage1", 2), ("stage2", 4), ("codec", 2)):
            for i in range(n + (stage != "codec")):
                follow(stage, i, n)
    assert seen == sorted(seen) and len(seen) > 12 and seen[0] == 0.5 and 0.9 < seen[-1] <= 1.0


# -- answers


def test_results_come_as_they_are_ready_and_stay(studio):
    seen = []
    studio.job.on_change = lambda: seen.append((studio.job.status, len(studio.results)))
    first = made(studio, "a waltz", n=5, seed=3)
    assert [r.piece.recipe.seed for r in first] == [3, 4, 5, 6, 7] and [r.number for r in first] == [1, 2, 3, 4, 5]
    assert ("running", 1) in seen and studio.job.message == "seeds 3 to 7"  # each was there when it was done
    made(studio, "a jig", n=1)
    assert len(studio.results) == 6 and all(-1 <= r.piece.similarity <= 1 for r in studio.results)


def test_odd_options_and_prompts(studio):
    for prompt, options, message in (("x", {"secnods": 3}, "secnods"), ("  ", {}, "the prompt is empty")):
        studio.generate(prompt, **options)
        finish(studio, "failed")
        assert message in studio.job.message
    made(studio, "slow " * 3000, n=1)
    assert "tokens of the prompt are read" in studio.job.message


def test_cancel_keeps_what_was_finished(studio):
    studio.job.on_change = lambda: studio.results and studio.job.cancel()
    studio.generate("a waltz", n=8, **SHORT)
    finish(studio, "cancelled")
    assert 1 <= len(studio.results) < 8 and "finished pieces stay" in studio.job.message
    studio.job.on_change = lambda: None
    assert len(made(studio, "a jig", n=1)) == 1  # a cancel ends with its job


# -- variations


def test_variations_lie_at_exactly_the_distance(studio):
    [source] = made(studio, "a waltz", n=1)
    degrees = 60.0
    studio.more_like(source, n=3, degrees=degrees)
    finish(studio)
    vary, seed = studio.results[1:], source.piece.recipe.seed
    for result in vary:
        moved = math.degrees(angle(result.piece.embedding, source.piece.embedding))
        assert moved == pytest.approx(degrees, abs=0.01) and "no. 1" in result.note
        assert (result.piece.recipe.seed, result.piece.recipe.prompt) == (seed, "a waltz")
    assert not torch.equal(vary[0].piece.embedding, vary[1].piece.embedding)
    for degrees in (0, 200):
        with pytest.raises(MuseError, match="degrees go from"):
            studio.more_like(source, degrees=degrees)


def test_variations_are_kept_and_rendered_again_bit_for_bit(studio):
    [source] = made(studio, "a waltz", n=1)
    studio.more_like(source, n=2, degrees=20)
    finish(studio)
    result = studio.results[2]
    kept = studio.library.add(result.piece, tags=["odd"])
    assert kept.tags == ("odd",) and studio.library.add(result.piece).id == kept.id
    back = render_again(studio.muse, kept)
    assert torch.equal(back.audio, result.piece.audio) and studio.library.same_sound(kept.id, back)
    assert [e.id for e in studio.library.search("waltz", tags=["odd"])] == [kept.id]


def test_a_download_is_a_flac_file_with_its_recipe(studio, tmp_path):
    [result] = made(studio, "<b>../waltz</b>", n=1)
    name, data = file_of(result.piece)
    assert name.endswith(".flac") and not set(name) & set("<>/\\ ") and ".." not in name
    (tmp_path / name).write_bytes(data)
    assert read_entry(tmp_path / name).recipe == result.piece.recipe
    studio.more_like(result, n=2)
    finish(studio)
    assert len({file_of(each.piece)[0] for each in studio.results}) == 3  # a name for each
    x, rate = soundfile.read(tmp_path / name)
    assert rate == 44100 and x.shape == (22050, 2)


# -- new music in a piece and after it, and pieces that come back


def test_what_is_made_of_a_result_keeps_its_bits_and_comes_back_from_text(studio, muse, tmp_path):
    [source] = made(studio, "a waltz at 100 BPM, no drums", n=1, seconds=1.0, key="Dm", melody=[(0.0, 0.5, 60)])
    for edit in (
        lambda last: studio.more_like(last, n=1), lambda last: studio.repaint(last, 0.3, 0.6, seed=3, chords="Am F"),
        lambda last: studio.go_on(last, 0.5, prompt="a jig"), lambda last: studio.more_like(last, n=1),
    ):  # fmt: skip
        edit(studio.results[-1])
        finish(studio)
    _, varied, painted, longer, other = (result.piece for result in studio.results)
    for part in (slice(0, int(0.2 * 44100)), slice(int(0.7 * 44100), None)):
        assert torch.equal(painted.audio[:, part], varied.audio[:, part])
    kept = 44100 - 2 * muse.config.codec.hop - FADE
    assert longer.audio.shape == (2, 66150) and torch.equal(longer.audio[:, :kept], painted.audio[:, :kept])
    assert painted.recipe.controls.chords == "Am F" and painted.recipe.controls.bpm == 100
    assert [r.note for r in studio.results[2:4]] == ["0.3 to 0.6 s of no. 2 repainted", "no. 3 and 0.5 s more"]
    assert other.recipe.edit is None and longer.recipe.prompt == "a jig"
    name, data = file_of(longer)
    (tmp_path / name).write_bytes(data)
    assert read_entry(tmp_path / name).recipe == longer.recipe
    with pytest.raises(MuseError, match="cannot be made again without the piece before it"):
        render_again(muse, studio.library.add(longer))

    texts, later = [result.text for result in studio.results], Studio(muse, Library(tmp_path / "later"))
    later.bring_back([*texts[1:], texts[0]])  # sources come from the texts of what was made of them
    finish(later)
    assert later.job.message == "5 of 5 pieces are back" and later.results[0].note.startswith("from before")
    for result, before in zip(later.results, [*studio.results[1:], source]):
        assert result.piece.recipe == before.piece.recipe and torch.equal(result.piece.audio, before.piece.audio)
        assert result.text == before.text
    last, first = json.loads(texts[3]), json.loads(texts[0])
    foreign = {"entry": first["entry"] | {"recipe": first["entry"]["recipe"] | {"weights": "others"}}}
    later.bring_back([json.dumps(one) for one in (last | {"source": None}, last | {"source": first}, foreign, first)])
    finish(later)
    whys = [f"one is not: this piece was {why}" for why in ("repainted", "made from other", "made by")]
    assert "1 of 4 pieces are back" in later.job.message and all(why in later.job.message for why in whys)
    wild = texts[0].replace("[[0.0,0.5,60]]", '"/etc/passwd"')
    hostile = ("", "[]", "<script>", texts[0].replace('"seed":0', '"seed":-1'), "[" * 9999, wild)
    later.bring_back(hostile)
    finish(later)
    assert "0 of 6 pieces are back" in later.job.message and len(later.results) == 6
    assert later.job.message.count("what the page remembers cannot be read") == 5  # each once


# -- a melody


def wav(x) -> bytes:
    """Mono sound (N,) at 44.1 kHz as a file."""
    data = io.BytesIO()
    soundfile.write(data, x, 44100, format="WAV")
    return data.getvalue()


def hummed(pitches, off: float = 0.0) -> bytes:
    """A voice that glides into each note, with a vibrato, in a noisy room, `off` semitones too high."""
    t, parts = np.arange(17640) / 44100, []
    for pitch in pitches:
        turns = np.cumsum(440 * 2 ** ((pitch + off - np.exp(-t / 0.03) + 0.15 * np.sin(35 * t) - 69) / 12)) / 44100
        voice = sum(np.sin(2 * np.pi * k * turns) / k for k in range(1, 6))
        parts += [voice * np.minimum(1, np.minimum(t, t[::-1]) / 0.04), np.zeros(2205)]
    noise = np.random.default_rng(0).standard_normal(len(parts) // 2 * (17640 + 2205))
    return wav(0.2 * np.concatenate(parts) + 0.005 * noise)


def test_what_is_hummed_becomes_notes_and_other_sounds_do_not():
    pitches = [60, 62, 64, 65, 67, 67, 64, 60]
    for off in (0.0, 0.3, -0.45):
        notes, tempo = read_tune(hummed(pitches, off), "hum")
        assert [pitch for *_, pitch in notes] == pitches and tempo is None
        assert np.allclose([onset for onset, *_ in notes], 0.45 * np.arange(8), atol=0.08)
        assert all(0.25 < length < 0.45 for _, length, _ in notes)
    noises = [0.1 * np.random.default_rng(seed).standard_normal(132300) for seed in range(4)]
    nothing = [(wav(x), "no notes") for x in (np.zeros(44100), *noises)]
    for data, why in ((b"MThd", "as a MIDI file"), (b"odd", "as sound"), *nothing):
        with pytest.raises(MuseError, match=why):
            read_tune(data, "x")
