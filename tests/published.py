"""Data sets in their published formats, tiny: what the tests of the readers write, odd rows included."""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 22050
YTIDS = ("-0SdAVK79lg", "_1a2B3c4D-5", "abcdefgh_12", "ZZZZZZZZZZZ", "0123456789a", "Abcdefgh_12")


def sound(path: Path, seconds: float = 2.0, hz: float = 330.0) -> Path:
    """A sine as the path's suffix says (wav, flac, mp3)."""
    t = np.arange(round(seconds * RATE)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32), RATE)
    return path


def lines(rows: list[dict]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def musicbench_row(location: str, **other) -> dict:
    """All 16 keys."""
    return {
        "dataset": "MusicBench", "location": location, "main_caption": f"main of {location}",
        "alt_caption": f"plain of {location}", "prompt_aug": "", "prompt_ch": "The chord sequence is Gm, Eb.",
        "prompt_bt": "The beat counts to 4.", "prompt_bpm": "The bpm is 120.5.", "prompt_key": "The key is A# minor.",
        "beats": [[0.5, 1.0, 1.5], [1.0, 2.0, 4.0]], "bpm": 120.5, "chords": ["Gm", "Eb"], "chords_time": [0.4, 1.1],
        "key": ["A#", "minor"], "keyprob": [0.8], "is_audioset_eval_mcaps": False, **other,
    }  # fmt: skip


def musicbench(folder: Path) -> Path:
    """Five clips: one with two augmented copies, one of AudioSet's evaluation set, one of the tests; and odd rows."""
    a, b, c, d, e, _ = YTIDS
    share = folder / "datashare"
    for location in (f"data/{a}.wav", f"data_aug2/{a}_1.wav", f"data_aug2/{a}_2.wav", f"data/{b}.wav", f"data/{c}.wav"):
        sound(share / location)
    sound(share / f"data_aug2/{c}_3.wav")
    sound(share / f"data/{d}.wav")
    sound(folder.parent / "secret.wav")
    silent = {name: "" for name in ("prompt_ch", "prompt_bt", "prompt_bpm", "prompt_key")}
    train = [
        musicbench_row(f"data/{a}.wav"),
        musicbench_row(f"data_aug2/{a}_1.wav", bpm=None, key=["H", "minor"], keyprob=[None], beats=[[], []]),
        musicbench_row(f"data_aug2/{a}_2.wav", **silent, alt_caption="", key=None, bpm="fast"),
        musicbench_row(f"data/{b}.wav", is_audioset_eval_mcaps=True),
        musicbench_row(f"data_aug2/{c}_3.wav"),  # a copy of a test clip
        musicbench_row(f"data/{d}.wav", **silent, main_caption="", alt_caption=" \n"),  # nothing is said of it
        musicbench_row(f"data/{e}.wav"),  # no such file
        musicbench_row("../../secret.wav"),
    ]
    (folder / "MusicBench_train.json").write_text(lines(train))
    plain = musicbench_row(f"data/{c}.wav", **silent, alt_caption="", main_caption="plain words")
    (folder / "MusicBench_test_A.json").write_text(lines([plain]))
    full = musicbench_row(f"data/{c}.wav", main_caption="plain words and controls", alt_caption="plain words")
    (folder / "MusicBench_test_B.json").write_text(json.dumps([full]))  # a copy that was saved as one list
    return folder


MUSIC4ALL = {
    "id_information": [
        ("id", "artist", "song", "album_name"),
        ("AAAAAAAAAAAAAAA1", "Somebody", "A song, of sorts", "First"),
        ("AAAAAAAAAAAAAAA2", "somebody", "Another", "Second"),
        ("BBBBBBBBBBBBBBB3", "Nobody", "Third", "Third"),
        ("CCCCCCCCCCCCCCC4", "", "Fourth", ""),
        ("DDDDDDDDDDDDDDD5", "Else", "Fifth", ""),
    ],
    "id_metadata": [
        tuple("id spotify_id popularity release danceability energy key mode valence tempo duration_ms".split()),
        ("AAAAAAAAAAAAAAA1", "s1", "50.0", "2010", "0.9", "0.95", "10.0", "0.0", "0.1", "150.02", "200000"),
        ("AAAAAAAAAAAAAAA2", "s2", "10.0", "2011", "0.5", "0.1", "0", "1", "0.9", "75.0", "200000"),
        ("BBBBBBBBBBBBBBB3", "s3", "", "", "", "", "-1", "", "", "0.0", ""),
        ("DDDDDDDDDDDDDDD5", "s5", "1", "2000", "nan", "2.0", "3", "1", "0.5", "100", "1"),
    ],
    "id_tags": [("id", "tags"), ("AAAAAAAAAAAAAAA1", "rock,loud guitars,rock"), ("BBBBBBBBBBBBBBB3", "calm")],
    "id_genres": [("id", "genres"), ("AAAAAAAAAAAAAAA1", "rock,indie rock"), ("AAAAAAAAAAAAAAA2", "folk")],
    "id_lang": [("id", "lang"), ("AAAAAAAAAAAAAAA1", "en"), ("BBBBBBBBBBBBBBB3", "INTRUMENTAL")],
}  # fmt: skip


def music4all(folder: Path) -> Path:
    """Five tracks; the audio of the last is missing, nothing but a title is known of the fourth."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in MUSIC4ALL.items():
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
    for row in MUSIC4ALL["id_information"][1:5]:
        sound(folder / "audios" / f"{row[0]}.mp3", 3.0)
    return folder
