"""Sounds: the usable audio of a folder or of a cache, as both embeddings hear it. One side of a comparison.

Bad files are named, counted and left out. Everything slow is kept by the file's hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musekit.config import MuseError
from musekit.corpus.folder import AUDIO
from musekit.corpus.sound import BadAudio
from musekit.corpus.sound import read_audio as read_any
from musekit.evaluate.ceiling import HELD_OUT
from musekit.evaluate.subject import Subject, bar, cut, sound_key

LONGEST = 12.0  # s that are measured of a file, unless asked
MOST = 240  # clips of a cache that make the reference
LARGEST = 4000  # files that are measured of a folder: every distance looks at all pairs
RATE = 44100  # Hz
TOLD = 20  # bad files that are printed


@dataclass
class Sounds:
    """One side of the comparison; row i of everything is the same clip."""

    name: str  # what to call it; no path
    x: np.ndarray  # (n, 512) joint embeddings
    heard: list[dict]  # librosa's features
    keys: list[str]  # of each sound
    names: list[str]  # file names, relative
    files: int  # audio files that there are
    bad: dict[str, str]  # {file: reason}, left out
    shorter: int  # clips that are shorter than what is measured of the others


def audio_files(folder: Path) -> list[Path]:
    """Audio files in the folder and its subfolders, none outside it. Raises MuseError when there are none."""
    if not folder.is_dir():
        raise MuseError(f"no folder of audio at {folder}; give one with --audio DIR or --reference DIR")
    inside = folder.resolve()
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in AUDIO and not p.name.startswith(".")]
    found = [p for p in found if p.resolve().is_relative_to(inside)]
    if not found:
        raise MuseError(f"no audio in {folder} (looked for {', '.join(sorted(AUDIO))})")
    return found


def usual_length(paths: Sequence[Path]) -> float:
    """The median length of files (s), at most 12 s: what is measured of each. Unreadable files are told later."""
    import soundfile

    lengths = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                info = soundfile.info(file)
            lengths.append(info.frames / info.samplerate)
        except (OSError, RuntimeError, ZeroDivisionError):
            continue
    return min(LONGEST, round(float(np.median(lengths)), 2)) if lengths else LONGEST


def read_sounds(subject: Subject, folder: Path, seconds: float, text: str) -> Sounds:
    """Embed and hear the first `seconds` of every file; what was done before is read from disk.

    Raises MuseError when nothing in the folder can be used.
    """
    rows, heard, keys, names, bad, shorter = [], [], [], [], {}, 0
    paths = audio_files(folder)
    files = len(paths)
    if files > LARGEST:
        print(f"{folder.resolve().name!r} holds {files:,} files: {LARGEST:,} of them, picked by a hash, are measured")
        picked = sorted(paths, key=lambda p: hashlib.sha256(p.relative_to(folder).as_posix().encode()).digest())
        paths = sorted(picked[:LARGEST])
    for path in bar(paths, text):
        name, key = path.relative_to(folder).as_posix(), sound_key(path, seconds, 32)
        try:
            audio = read_any(path, RATE)  # also of kept ones: a bad file must be found again
        except BadAudio as error:
            bad[name] = error.reason
            continue
        if audio.shape[1] < round(seconds * RATE) - RATE // 100:
            shorter += 1
        sound = lambda audio=audio: cut(audio, RATE, seconds)  # noqa: E731
        rows.append(subject.embedding_of(key, sound))
        heard.append(subject.heard(key, sound))
        keys.append(key)
        names.append(name)
    for name, reason in list(bad.items())[:TOLD]:
        print(f"left out: {name!r}: {reason}")
    if not rows:
        raise MuseError(f"nothing in {folder} can be used: {'; '.join(f'{k}: {v}' for k, v in list(bad.items())[:3])}")
    return Sounds(folder.resolve().name, subject.unit(rows), heard, keys, names, files, bad, shorter)


def read_cache(subject: Subject, cache: Path, seconds: float) -> tuple[Sounds, np.ndarray]:
    """Up to 240 held-out clips of a cache as the reference, and the embeddings of its training clips (whole)."""
    other = Subject(subject.muse.folder, cache, subject.results, subject.n, subject.quick)
    other.muse = subject.muse  # its networks are loaded already
    clips = (other.split(*HELD_OUT) or other.split("train"))[:MOST]
    whole = all(abs(c["seconds"] - seconds) < 0.01 for c in clips)
    paths = [other.path(c) for c in clips]
    x = other.embeddings(clips) if whole else other.embed_files(paths, seconds)
    heard = other.hear_files(paths, "listening to the reference", None if whole else seconds)
    shorter = sum(c["seconds"] < seconds - 0.01 for c in clips)
    names = [c["id"] for c in clips]
    sounds = Sounds(f"{cache.resolve().name}, held-out clips", x, heard, names, names, len(clips), {}, shorter)
    return sounds, other.embeddings(other.split("train"))


def read_packaged(subject: Subject) -> Sounds:
    """The held-out clips whose embeddings come with the weights: whole clips, and nothing that librosa could hear."""
    from musekit.heldout import read_reference

    kept = read_reference(subject.muse.folder)
    names = [c["id"] for c in kept.clips][:MOST]
    x = subject.unit(kept.embeddings.double().numpy())[:MOST]
    return Sounds("the weights' own reference, held-out clips", x, [], names, names, len(names), {}, 0)


def read_reference(
    subject: Subject, reference: Path | None, cache: Path | None, seconds: float
) -> tuple[Sounds, np.ndarray]:
    """The reference that was asked for: a folder, a cache; without one, `cache` or what comes with the weights.

    Beside it the embeddings of its training clips, (0, 512) where there are none.
    """
    none = subject.unit([])
    chosen = reference if reference is not None else cache
    if chosen is not None and (chosen / "clips.jsonl").exists():
        return read_cache(subject, chosen, seconds)
    if reference is not None:
        return read_sounds(subject, reference, seconds, "hearing the reference"), none
    return read_packaged(subject), none
