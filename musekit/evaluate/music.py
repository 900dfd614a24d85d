"""music: has a sound a beat, the tempo, key, chords and melody that were asked for, and a tune that comes back?

All of it is measured on notes of a transcriber that is not ours (`transcribe`). Held-out clips and their codec round
trips give the ceiling; the planted failures are as many onsets at random times, and a chord line in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.config import TONICS
from musekit.evaluate import beat, harmony
from musekit.evaluate.prompts import evaluation_pieces
from musekit.evaluate.study import Sound, Study
from musekit.evaluate.transcribe import notes_of
from musekit.muse import Settings
from musekit.statistics import accuracy, mean_interval

CLIPS = 120  # held-out clips
SEED = 50_000  # of the pieces that are asked for a tempo and a key
INSTRUMENTS = ("piano", "guitar", "strings", "organ")
LOUD = 0.7  # of the median amplitude: softer notes are left out of the upper line


def music_rows(study: Study, records: Sequence[dict], sounds: Sequence[Sound], source: str) -> list[dict]:
    """Rows of one source; records say what each sound is, or what it was asked to be: "bpm", "key" and "mode",
    "chords", "melody" (`corpus.plan` tells what they hold), each where it is known."""
    notes = notes_of(study, sounds)
    lengths = [x.shape[1] / rate for x, rate in map(study.read, sounds)]
    return rows_of(records, notes, lengths, source)


def rows_of(records: Sequence[dict], notes: Sequence[np.ndarray], lengths: Sequence[float], source: str) -> list[dict]:
    """`music_rows` of notes (n, 4) and lengths in seconds."""
    onsets = [beat.onsets_of(n) for n in notes]
    lines = [harmony.loud(n, LOUD) for n in notes]
    random = [beat.at_random(times, s, i) for i, ((times, _), s) in enumerate(zip(onsets, lengths))]
    means = {
        "pulse": [beat.pulse_in(times, s) for (times, _), s in zip(onsets, lengths)],
        "pulse of as many onsets at random": [beat.pulse_in(times, s) for times, s in zip(random, lengths)],
        "onsets per second": [len(times) / s for (times, _), s in zip(onsets, lengths)],
        "figures of the tune that return": [f for n in lines if np.isfinite(f := harmony.figures_return(n))],
        "distinct chords in 12 s": [12 / s * harmony.distinct_chords(n, s) for n, s in zip(notes, lengths)],
    }
    shares = {
        "same tempo in both halves": [beat.steady(times, s) for (times, _), s in zip(onsets, lengths)],
        "same tempo in both halves, onsets at random": [beat.steady(times, s) for times, s in zip(random, lengths)],
    }
    asked = [(r["bpm"], beat.tempo(n)) for r, n in zip(records, notes) if r.get("bpm")]
    shares["tempo within 4 %"] = [beat.met(found, bpm) for bpm, found in asked]
    shares["tempo within 4 %, or an octave of it"] = [beat.met(found, bpm, beat.OCTAVES) for bpm, found in asked]
    shares["key, of 24"] = [harmony.same_key(n, r) for r, n in zip(records, notes) if r.get("key") and r.get("mode")]
    chords = [(n, r["chords"], s) for r, n, s in zip(records, notes, lengths) if r.get("chords")]
    shares["chords: root and third"] = [hit for n, line, s in chords for hit in harmony.chords_met(n, line, s)]
    shuffled = [(n, harmony.shuffled(line, i), s) for i, (n, line, s) in enumerate(chords)]
    shares["chords: of the line in another order"] = [hit for c in shuffled for hit in harmony.chords_met(*c)]
    tunes = [(n, r["melody"], s) for r, n, s in zip(records, lines, lengths) if r.get("melody")]
    means["melody: F1 within a semitone"] = [harmony.melody_f1(*tune) for tune in tunes]
    rows = [{"measure": "music", "source": source, "name": k, "n": len(x), **mean_interval(x)}
            for k, x in means.items() if len(x)]  # fmt: skip
    for name, hits in shares.items():
        if len(hits):
            found = accuracy(np.array(hits, bool))
            ends = {"mean": found["accuracy"], "low": found["low"], "high": found["high"]}
            rows.append({"measure": "music", "source": source, "name": name, "n": found["n"], **ends})
    return rows


def requests(n: int) -> list[dict]:
    """n prompts with a tempo and a key, and what they ask."""
    rng, found = np.random.default_rng(SEED), []
    for i in range(n):
        about = {"bpm": int(rng.integers(60, 161)), "key": TONICS[int(rng.integers(12))]}
        about |= {"mode": ("major", "minor")[i % 2], "instrument": INSTRUMENTS[i // 2 % len(INSTRUMENTS)]}
        found.append(about | {"text": "{instrument} music in {key} {mode} at {bpm} BPM".format(**about)})
    return found


def measure_music(study: Study) -> None:
    """Writes results/music.json: held-out clips, their round trips, and pieces without and with asked numbers."""
    clips = study.split(study.on)[: study.n if study.quick else CLIPS]
    trips = study.round_trips(clips)
    rows = music_rows(study, clips, clips, "held-out clips") + music_rows(study, clips, trips, "codec round trips")
    prompts, pieces, _ = evaluation_pieces(study)
    rows += music_rows(study, [p["asks"] for p in prompts], pieces, "generated")
    asked = requests(study.n)
    recipes = study.recipes([a["text"] for a in asked], SEED, Settings())
    pieces = study.render(study.sample(recipes)[0], recipes)
    rows += music_rows(study, asked, pieces, "generated, tempo and key in the prompt")
    study.write("music", rows, seed=SEED)
