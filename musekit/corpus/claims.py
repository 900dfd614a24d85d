"""Claims: the record of a clip, and whether what a caption claims is true of it.

This module imports nothing of musekit's: the embedder's loss and the evaluation both rest on `fits`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Caption:
    """A sentence about a clip and what it claims, for example {"instrument": "cello", "mode": "minor"}."""

    text: str
    asks: dict


@dataclass(frozen=True)
class Clip:
    """The fields that every line of a cache's clips.jsonl has. The line may have more: what is known of the clip.

    Known attributes (instrumentation, key, mode, bpm in beats per minute, onset_rate in onsets per second, ...) have no
    fixed list, because every dataset brings its own; the readers of clips.jsonl therefore give plain dicts.
    """

    id: str
    work: str  # the piece, or the recording's name in its dataset
    family: str  # works that must not be in two splits: variants of a tune, augmented copies, an artist
    split: str  # "train", "valid", "test", or "eval" (AudioSet's evaluation clips)
    path: str  # of the audio file, relative to the cache's folder
    seconds: float  # length of the clip
    sample_rate: int  # Hz, at which the clip is read
    captions: list[Caption] = field(default_factory=list)
    start: float | None = None  # seconds from the beginning of the file; None: the clip is the whole file


def fits(asks: dict, record: dict) -> bool:
    """Whether every claim is true of the clip. An attribute that is unknown (None) satisfies no claim.

    `instrument` is compared with the record's `instrumentation`, every other claim with the field of its name.
    """
    for name, wanted in asks.items():
        if wanted is None or record.get("instrumentation" if name == "instrument" else name) != wanted:
            return False
    return True
