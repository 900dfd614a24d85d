"""Real clips of real pieces: what the audio holds, and that a killed run goes on where it stopped."""

import json
import shutil
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import soundfile

from musekit.config import MuseError
from musekit.corpus import families, instruments, plan, render
from musekit.corpus.fonts import FONTS, fonts_of
from musekit.corpus.instruments import INSTRUMENTS
from musekit.corpus.sound import BadAudio
from musekit.harmony import key_of

ONLY = ["bach/bwv25", "bach/bwv26", "ryansMammoth/Al", "trecento/Fava"]
SCALE = [[0.4 * i, 0.38, 60 + i, 80, 0] for i in range(10)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(folder, records of twelve clips, the notes of each)."""
    out = tmp_path_factory.mktemp("scores")
    records = plan.build_clips(out, n=12, workers=2, only=ONLY)
    return out, records, [notes for _, notes, _ in planned(out, 0, 12)]


def planned(out, seed: int, n: int) -> list:
    """The first n clips of the plan of a folder whose scores are parsed."""
    return [*islice(plan.clips(families.catalogue(out, only=ONLY), seed), n)]


def dbfs(audio: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))))


def test_render_is_stereo_at_its_level_and_in_tune():
    notes = [[0, 3.9, 69, 90, 0]]
    for dynamic, level in render.LEVELS.items():
        audio = render.render(notes, players=["flute"], pans=[40], seconds=4.0, dynamic=dynamic)
        assert audio.shape == (2, 4 * 44100) and audio.dtype == np.float32
        assert dbfs(audio) == pytest.approx(level, abs=0.3) and np.abs(audio).max() <= render.PEAK
        assert np.corrcoef(audio)[0, 1] < 0.999 and np.sum(audio[0] ** 2) > np.sum(audio[1] ** 2)  # panned left
    spectrum = np.abs(np.fft.rfft(audio.mean(0) * np.hanning(audio.shape[1])))
    assert np.fft.rfftfreq(audio.shape[1], 1 / 44100)[spectrum.argmax()] == pytest.approx(440, rel=0.01)


@pytest.mark.parametrize("notes, reason", [([], "silent"), ([[2.0, 1.0, 60, 90, 0]], "starts with silence")])
def test_silence_is_refused_with_its_reason(notes, reason):
    with pytest.raises(BadAudio, match=reason):
        render.render(notes, ["piano"], [64], 4.0, "medium")


def test_every_note_sounds_as_a_synthesiser_sees_it():
    """Play the events with a synthesiser's rule: a note-off ends all that sounds on its key."""
    rng = np.random.default_rng(0)
    notes = [[rng.uniform(0, 20), rng.uniform(0.01, 2), int(rng.integers(60, 66)), 80, 0] for _ in range(200)]
    rows = render.events(notes)
    begun = sorted((round(onset * render.TICKS), pitch) for onset, _, pitch, _, _ in notes)
    assert sorted((on, pitch) for on, _, pitch, _ in rows) == sorted(set(begun))
    for on, off, pitch, _ in rows:
        assert off > on and not any(p == pitch and on < other <= off for other, _, p, _ in rows)
    assert render.events([[0, 1, 60, 50, 0], [0, 2, 60, 90, 0]]) == [(0, 1919, 60, 90)]  # a unison is one note


def test_a_string_orchestra_loses_no_voice():
    """What several calls play together is the sum of the parts."""
    notes = [[0.5 * i, 0.45, 40 + 5 * part + i, 80, part] for i in range(4) for part in range(8)]
    players, how = ["strings"] * 8, ([64] * 8, 3.0, 40, "timgm")
    shares = render.groups(notes, players, "timgm")
    assert 1 < len(shares) < 8 and sum(len(rows) for group in shares for rows in group.values()) == len(notes)
    apart = [render.synthesise({p: render.events([n for n in notes if n[4] == p])}, players, *how) for p in range(8)]
    together = [render.synthesise(group, players, *how) for group in shares]
    assert np.std(sum(together) - sum(apart)) < 0.003 * np.std(sum(apart))


@pytest.mark.parametrize("font", FONTS)
def test_players_are_equally_loud(font, installed):
    installed(font)
    for name in ("piano", "violin", "acoustic bass", "muted trumpet", "mandolin"):
        key = min(max(60, INSTRUMENTS[name].low), INSTRUMENTS[name].high)
        if font in fonts_of([name]):
            audio = render.synthesise({0: [(0, 576, key, 80)]}, [name], [64], 0.6, 0, font)
            power = np.convolve((audio**2).mean(1), np.ones(16_000) / 16_000, "valid").max()
            assert 10 * np.log10(power) == pytest.approx(render.EVEN, abs=6)


def test_every_clip_is_what_its_record_says(corpus):
    out, records, _ = corpus
    assert len(records) == 12 == len({r["id"] for r in records})
    for r in records:
        audio, rate = soundfile.read(out / r["path"])
        assert rate == 44100 and audio.shape == (round(r["seconds"] * 44100), 2) and 11 <= r["seconds"] <= 47.55
        # a peaky clip may stay below its level, none goes above it
        assert render.LEVELS[r["dynamic"]] - 4 < dbfs(audio) < render.LEVELS[r["dynamic"]] + 0.3
        assert np.abs(audio).max() <= 0.96
        assert np.argmax(np.abs(audio).max(1) > 0.005) < 0.15 * rate
        assert (r["style"] is None) == (r["instrumentation"] in instruments.INSTRUMENTATIONS)
        assert r["style"] or r["speed"] == plan.speed_of(r["onset_rate"])
        assert r["split"] == families.split_of(r["family"]) and r["licence"] and r["source"]
        assert (r["key"] is None) == (r["mode"] is None)
        assert len(r["captions"]) == 6


def test_beat_bars_and_ending_are_those_of_the_notes(corpus):
    for r, rows in zip(*corpus[1:]):
        notes, last = np.array(rows), r["first_beat"] + r["bars"] * r["beats_per_bar"] * 60 / r["bpm"]
        beats = (notes[:, 0] - r["first_beat"]) * r["bpm"] / 60
        if not r["swing"]:
            steps = np.concatenate([beats * 4, beats * 6], 0).reshape(2, -1) / np.array([[4], [6]])
            off = np.abs(steps - np.round(beats * [[4], [6]]) / [[4], [6]]).min(0) * 60 / r["bpm"]
            assert np.mean(off < 0.04) > 0.9, r["id"]
        sounds = (notes[:, 0] + notes[:, 1]).max()
        if r["ends"]:  # the last note is held and dies away
            assert r["seconds"] - 2.5 < sounds < r["seconds"] - 1 and last < r["seconds"]
        else:  # whole bars
            assert last == pytest.approx(r["seconds"], abs=2e-3)
        line = np.array(r["melody"])
        mine = notes[notes[:, 4] == 0]
        near = np.abs(line[:, :1] - mine[:, 0]) < 0.03
        assert (near & (line[:, 2:] == mine[:, 2])).any(1).all()
        assert r["chords"][0][0] == 0 and np.all(np.diff([c[0] for c in r["chords"]]) > 0)


def test_key_in_the_record_is_the_sounding_one(corpus):
    """Find the key again from the notes that are rendered."""
    known = [(r, np.array(notes)) for r, notes in zip(*corpus[1:]) if r["mode"]]
    assert len(known) >= 6
    for r, notes in known:
        drums = r["instruments"].index("drums") if "drums" in r["instruments"] else None
        notes = notes[notes[:, 4] != max(notes[:, 4])] if drums else notes  # drums are the last player
        ends = np.minimum(notes[:, 0] + notes[:, 1], r["seconds"])
        assert key_of(notes[:, 2], ends - notes[:, 0])[:2] == (r["key"], r["mode"])


def test_a_longer_plan_begins_with_the_shorter_one(corpus):
    out, records, _ = corpus
    longer = [record["id"] for record, _, _ in planned(out, 0, 30)]
    assert longer[:12] == [r["id"] for r in records]
    assert [record["id"] for record, _, _ in planned(out, 1, 12)] != longer[:12]


def test_prefixes_of_the_plan_are_balanced():
    for n in (200, 700, 1500):
        cells = list(islice(plan.cells(0), n))
        counts = {name: sum(c[0] == name for c in cells) for name in (*plan.SINGLE, *plan.STYLES)}
        for names in (plan.SINGLE, plan.STYLES):
            assert max(counts[name] for name in names) - min(counts[name] for name in names) <= 1
        assert sum(counts[name] for name in plan.STYLES) / n == pytest.approx(0.55, abs=0.02)
        for k, one, other in ((1, "major", "minor"), (2, "slow", "fast")):
            assert abs(sum((c[k] == one) - (c[k] == other) for c in cells)) < 0.05 * n


def test_a_plan_is_read_again_until_its_arguments_change(corpus, tmp_path):
    out, records, played = corpus
    read = list(plan.read_plan(out, 12, 0, ONLY))
    assert all(record.pop("captions") for record, *_ in read)  # they are written after the plan
    assert read == planned(out, 0, 12) and [how["font"] for *_, how in read] == [r["font"] for r in records]
    assert len(list(plan.read_plan(out, 5, 0, ONLY))) == 5
    assert (
        plan.read_plan(out, 13, 0, ONLY) is plan.read_plan(out, 12, 1, ONLY) is plan.read_plan(out, 12, 0, None) is None
    )
    (tmp_path / "plan.jsonl.xz").write_bytes((out / "plan.jsonl.xz").read_bytes()[:500])
    with pytest.raises(MuseError, match="damaged: delete it"):
        list(plan.read_plan(tmp_path, 12, 0, ONLY))


@pytest.mark.long
def test_a_killed_run_goes_on_where_it_stopped(corpus, tmp_path):
    """SIGKILL after a few clips; the same command gives the uninterrupted run's clips, once each."""
    whole, records, _ = corpus
    code = f"from musekit.corpus.plan import build_clips; build_clips({str(tmp_path)!r}, 12, 1, only={ONLY})"
    shutil.copytree(whole / "scores", tmp_path / "scores")
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 240
        while len(list(tmp_path.glob("records/*/*.json"))) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    finished = {p: p.stat().st_mtime_ns for p in tmp_path.glob("records/*/[!.]*.json")}
    assert 3 <= len(finished) < 12 and not (tmp_path / "clips.jsonl").exists()
    for path in finished:  # what counts as finished is whole
        assert soundfile.info(tmp_path / (record := json.loads(path.read_text()))["path"]).frames == round(
            record["seconds"] * 44100
        )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert all(p.stat().st_mtime_ns == t for p, t in finished.items())  # nothing is done twice
    assert (tmp_path / "clips.jsonl").read_bytes() == (whole / "clips.jsonl").read_bytes()
    for record in records:
        assert (tmp_path / record["path"]).read_bytes() == (whole / record["path"]).read_bytes()
