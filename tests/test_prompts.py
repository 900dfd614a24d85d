"""What a prompt says in numbers and names is read, and nothing else."""

import time

import numpy as np
import pytest
from test_corpus_captions import records

from musekit.claims import members
from musekit.config import MuseError
from musekit.corpus.captions import write_captions
from musekit.prompts import read_prompt

READ = [  # prompt, what is read, what is left of the prompt where that is less
    ("120 BPM, D minor, 3/4, without piano", "120 D minor 3/4 -piano", "120 BPM, D minor, 3/4"),
    ("at 96 bpm with a tempo of 96", "96"), ("jazz,120bpm, 8 bars", "120"), ("bpm=72.5.", "72.5"), ("♩ = 100", "100"),
    ("120-130 BPM house, tempo 3/4", "125 3/4"), ("F sharp minor in 6/8", "F# minor 6/8"), ("E♭ maj", "Eb major"),
    ("Bb major six-eight", "Bb major 6/8"), ("in a minor, 90 bpm", "90 A minor"), ("a song in Dm", "D minor"),
    ("slow A minor waltz time", "A minor 3/4"), ("minor ballad, key of A", "A minor"), ("key: cb", "B major"),
    ("trio, no drums, loud", "-drums", "trio, loud"), ("bass but no vocals", "-vocals", "bass"),
    ("without piano, bass or drums", "-piano -bass -drums", "music"), ("harp instead of piano", "-piano", "harp"),
    ("calm (no drums). No pianos", "-drums -piano", "calm."), ("drum-free jazz", "-drums", "jazz"),
    ("no drums, piano and cello", "-drums", "piano and cello"), ("not a piano but a harp", "-piano", "a harp"),
    ("a band w/o piano", "-piano", "a band"), ("strings, free of drums", "-drums", "strings"),
    ("all but avoid bass and organ", "-bass -organ", "all"), ("no more drums", "-drums", "music"),
]  # fmt: skip
UNREAD = """
    in 1920s style | 24-bit audio | opus 27 no 2 | No. 5 symphony | a minor disaster | A minor disaster | in a major way
    in a minor key | A minor piano piece | C major to A minor | 3/4 of the time | on 2020/3/4 | 3/4 and 4/4 | no. piano
    songs without words | without any hurry | not without drums | no guitar solo | tempo giusto | Am I blue | 90's tempo
    keys of the city | 44.1 kHz | 7/11 | 12-bar blues | minor league | a d minor-ish mood | three-four minutes
"""


def test_prompts_are_read():
    for text, says, *left in READ:
        found = read_prompt(text)
        bpm = [f"{found['bpm']:g}"] if "bpm" in found else []
        names = [*bpm, *(found[k] for k in ("key", "mode", "metre") if k in found)]
        names += [f"-{name}" for name in found.get("without", ())]
        assert (" ".join(names), found["text"]) == (says, *(left or [text])), text


def test_nothing_is_read_where_nothing_is_said():
    texts = [text.strip() for line in UNREAD.strip().splitlines() for text in line.split("|")]
    assert [read_prompt(text) for text in texts] == [{"text": text} for text in texts]


@pytest.mark.parametrize("text", ["tempo 0", "1000 bpm", "-20 bpm", "80 bpm, then 120 bpm", "from 60 to 120 bpm"])
def test_impossible_and_contradictory_tempi_are_refused_in_one_line(text):
    with pytest.raises(MuseError, match=r"^[^\n]*(30 to 300|more than one)[^\n]*$"):
        read_prompt(text)


def test_captions_are_read_as_they_were_written():
    for i, record in enumerate(records(200, seed=12)):
        for caption in write_captions(record, np.random.default_rng(i)):
            asks, found = caption["asks"], read_prompt(caption["text"])
            read = ("bpm", "metre", "key", *["mode"] * ("key" in asks))
            said = {name: asks[name] for name in read if name in asks}
            absent = {n for word in found.pop("without", ()) for n in members(word)}
            assert absent <= {n for word in asks.get("without", ()) for n in members(word)}
            assert bool(absent) == ("without" in asks) and found == {**said, "text": found["text"]}, caption


def test_reading_takes_linear_time():
    for unit in ("no ", "no drums, ", "12 ", "a minor ", "tempo ", ", ", " ", "1,", "without bass, "):
        start = time.process_time()
        read_prompt(unit * (50_000 // len(unit)))
        assert time.process_time() - start < 1, unit
