"""Data sets in their published formats, tiny: what the tests of the readers write, odd rows included."""

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
