"""A tiny cache in the real formats, and tiny weights: what the tests of data, training and sampling share.

Fixtures are imported by `conftest.py`; plain functions are imported where they are used.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

SAMPLE_RATE = 44100
INSTRUMENTS = ("flute", "organ", "violin")


@dataclass(frozen=True)
class Tiny:
    """A cache folder, a folder of random smoke weights, and their config."""

    cache: Path
    weights: Path
    config: object


def sinusoids(frequencies, seconds: float = 2.0, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """A chord with two decaying overtones a note, (2, N) float32, the second channel softer."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = sum(np.sin(2 * np.pi * f * k * t + k) / 2**k for f in frequencies for k in (1, 2, 3))
    wave = 0.4 * wave / np.abs(wave).max() * np.minimum(1, 50 * t)
    return np.stack([wave, 0.5 * wave]).astype(np.float32)


def write_clips(cache: Path, splits: str, seconds=lambda i: 2.0) -> list[dict]:
    """One FLAC and one record a letter of `splits` (r: train, v: valid, e: test), and clips.jsonl; the records."""
    import soundfile

    records = []
    for i, letter in enumerate(splits):
        name, mode = INSTRUMENTS[i % 3], ("major", "minor")[i % 2]
        third = 2 ** ((4 if mode == "major" else 3) / 12)
        root = 220 * 2 ** (i % 12 / 12)
        record = {
            "id": f"tiny-{i:02d}",
            "work": f"tiny/{i}",
            "family": f"tiny-{i}",
            "split": {"r": "train", "v": "valid", "e": "test"}[letter],
            "path": f"clips/ti/tiny-{i:02d}.flac",
            "seconds": seconds(i),
            "sample_rate": SAMPLE_RATE,
            "instrumentation": name,
            "instruments": [name],
            "mode": mode,
            "key": "A",
            "speed": "slow",
            "captions": [
                {"text": f"a {name}", "asks": {"instrument": name}},
                {"text": f"slow {name} in {mode}", "asks": {"instrument": name, "mode": mode, "speed": "slow"}},
                {"text": "a chord on A", "asks": {"key": "A"}},
            ],
        }
        path = cache / record["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sinusoids([root, root * third], seconds(i)).T, SAMPLE_RATE, subtype="PCM_16")
        records.append(record)
    (cache / "clips.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return records


@pytest.fixture(scope="session")
def minilm():
    """The mini preset's real text encoder."""
    from musekit.config import mini
    from musekit.encoders.text import text_encoder

    return text_encoder(mini().text)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    """16 clips of 2 s (one of 1.2 s), cached in every kind with random smoke weights; copy it to change it."""
    from musekit.cache.precompute import KINDS, precompute
    from musekit.config import smoke
    from musekit.pretrained import init_random

    folder, config = tmp_path_factory.mktemp("tiny"), smoke()
    cache, weights = folder / "cache", folder / "weights"
    write_clips(cache, "rrrrrrvrrrrrrevr", lambda i: 1.2 if i == 3 else 2.0)
    init_random(weights, config)
    for kind in KINDS:
        precompute(kind, cache, config, weights, show=False)
    return Tiny(cache, weights, config)
