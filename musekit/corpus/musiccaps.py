"""MusicCaps (Agostinelli et al. 2023, arXiv 2301.11325; CC BY-SA 4.0): 10 s of 5,521 videos, captioned by musicians.

Only the table is published. Audio that one has is found by the video's id, at the start of the file's name, anywhere in
the folder; of a file that is longer than the clip the clip's stretch is taken.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from musekit.corpus.recordings import Item, caption, development_split
from musekit.corpus.sound import BadAudio, header
from musekit.corpus.tables import clean, delimited, number, truth, words

TABLE = "musiccaps-public.csv"
LOOKED_FOR = f"{TABLE}, and audio files whose names start with the video's id (<ytid>.wav, <ytid>_30_40.mp3)"
IDENTITY = re.compile(r"[A-Za-z0-9_-]{11}")


def found(folder: Path) -> bool:
    """Whether this looks like MusicCaps."""
    return (folder / TABLE).is_file()


def items(folder: Path, lacks: Counter, keep_apart: bool = True) -> list[Item]:
    """The table's rows; clips of AudioSet's evaluation set are the test set."""
    here, read = files_by_identity(folder), []
    for row in delimited(folder / TABLE):
        identity = row.get("ytid", "")
        if not IDENTITY.fullmatch(identity):
            lacks["a row without a video id"] += 1
            continue
        start, stop = number(row.get("start_s")) or 0.0, number(row.get("end_s"))
        length = stop - start if stop is not None and stop > start else 10.0
        place = here.get(identity, "")
        split = "test" if truth(row.get("is_audioset_eval")) else development_split(identity)
        listed = row.get("aspect_list", "")
        aspects = words(listed) if listed.startswith("[") else []
        texts = dict.fromkeys(text for text in (clean(row.get("caption")), clean(", ".join(aspects))) if text)
        read.append(
            Item(
                identity,
                [caption(text, {}, identity) for text in texts],
                identity,
                split,
                (place,) if place else (),
                start=stretch(folder, place, start, length),
                seconds=length,
                known={"aspects": aspects, "audioset_eval": truth(row.get("is_audioset_eval"))},
            )
        )
    return read


def files_by_identity(folder: Path) -> dict[str, str]:
    """{video id: place} of the audio files; ids may start with a dash, and some downloaders put them in brackets."""
    from musekit.corpus.folder import AUDIO

    here: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO and (known := IDENTITY.match(path.stem.lstrip("["))):
            here.setdefault(known[0], path.relative_to(folder).as_posix())
    return here


def stretch(folder: Path, place: str, start: float, length: float) -> float:
    """Where the clip starts in its file: at 0 if that was cut to the clip, at `start` if it is the whole video's."""
    if not place or not start:
        return 0.0
    try:
        frames, rate = header(folder / place)
    except BadAudio:
        return 0.0  # told later, with the others that cannot be read
    return start if frames / rate > max(start, length) + 1 else 0.0
