"""A folder of audio with captions, read into the same cache layout as the rendered scores.

Captions come from a CSV, TSV or JSON Lines file with one column for the file and one for the caption
(MusicBench's names are known too), or from a text file beside each audio file (song.wav + song.txt).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np

from musekit.corpus.families import split_of, write_atomically
from musekit.corpus.repertoire import slug

AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus", ".oga", ".au", ".caf", ".w64"}
TABLES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file", "path", "file_name", "filename", "audio", "audio_path", "location")
CAPTION_COLUMNS = ("caption", "text", "main_caption", "description", "prompt")
UNKNOWN = (
    "instrumentation",
    "texture",
    "composer",
    "era",
    "form",
    "key",
    "mode",
    "key_confidence",
    "bpm",
    "onset_rate",
    "speed",
    "metre",
    "dynamic",
)
SILENCE = 1e-4  # RMS, -80 dBFS
MIN_SECONDS = 1.0


class BadAudio(ValueError):  # noqa: N818, the name that the package's parts share
    """A file that cannot be used; `reason` says why in a few words."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def _cut_short(path: Path) -> bool:
    """True when a RIFF, FLAC or Ogg file ends before its own headers say it does."""
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            size = path.stat().st_size
            while len(chunk := file.read(8)) == 8:
                length = int.from_bytes(chunk[4:], "little")
                if chunk[:4] == b"data":
                    streamed = length in (0, 0xFFFFFFFF, 0x7FFFFFFF)  # a pipe could not know its length
                    return not streamed and file.tell() + length > size
                file.seek(length + length % 2, 1)
            return True  # no data chunk
        if head[:4] == b"OggS":
            file.seek(max(0, path.stat().st_size - 131072))
            tail = file.read()
            page = tail[max(0, tail.rfind(b"OggS")) :]
            if len(page) < 27 or not page[5] & 4:  # no page that ends the stream
                return True
            return len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])  # header, segment table, segments
    return False


def read_audio(path: Path | str, sample_rate: int = 44100) -> np.ndarray:
    """A sound file of any rate and channel count as float32 (2, N) at `sample_rate`, mono on both sides.

    The content decides the format, not the name. Of more than two channels the front left and right are
    taken. Raises BadAudio with the reason: missing, empty, not audio, truncated, not finite, silent, short.
    """
    import soundfile
    import soxr

    path = Path(path)
    if not path.is_file():
        raise BadAudio("no such file")
    if path.stat().st_size == 0:
        raise BadAudio("empty file")
    try:
        with open(path, "rb") as handle, soundfile.SoundFile(handle) as file:
            promised, rate = file.frames, file.samplerate
            audio = file.read(dtype="float32", always_2d=True)
    except Exception as error:  # libsndfile's own errors, and its wrapper's
        raise BadAudio(f"not readable as audio ({str(error).strip()[:80]})") from None
    if _cut_short(path) or (0 < promised < 2**40 and len(audio) < promised - rate // 10):
        raise BadAudio("truncated: it ends before its header says it should")
    if len(audio) < MIN_SECONDS * rate:
        raise BadAudio(f"shorter than {MIN_SECONDS:g} s")
    if not np.isfinite(audio).all():
        raise BadAudio("holds NaN or infinite samples")
    if np.sqrt(np.mean(np.square(audio, dtype=np.float64))) < SILENCE:
        raise BadAudio("silent")
    audio = audio[:, :2] if audio.shape[1] > 1 else np.repeat(audio, 2, axis=1)
    if rate != sample_rate:
        audio = soxr.resample(audio, rate, sample_rate, quality="HQ")
    peak = float(np.abs(audio).max())
    return np.ascontiguousarray(audio.T / max(1.0, peak), dtype=np.float32)


def read_table(path: Path) -> list[tuple[str, str]]:
    """(file, caption) rows of a CSV, TSV or JSON Lines file. Raises MuseError when a column is missing."""
    from musekit.config import MuseError

    text = path.read_text("utf-8-sig", "replace")
    if path.suffix in (".jsonl", ".json"):
        try:
            whole = json.loads(text) if text.lstrip().startswith("[") else None
            rows = whole or [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise MuseError(f"{path.name}: not JSON Lines (line {error.lineno}: {error.msg})") from None
    else:
        first = text.split("\n", 1)[0]
        delimiter = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
    if not rows:
        raise MuseError(f"{path.name}: no rows")
    names = {str(k).strip().lower(): k for k in rows[0]}
    column = [next((names[n] for n in wanted if n in names), None) for wanted in (FILE_COLUMNS, CAPTION_COLUMNS)]
    if None in column:
        raise MuseError(f"{path.name}: needs the columns 'file' and 'caption'; it has {', '.join(names)}")
    return [(str(r.get(column[0]) or "").strip(), str(r.get(column[1]) or "").strip()) for r in rows]


def captions_of(folder: Path, table: Path | None = None) -> dict[str, list[str]]:
    """Captions by audio path relative to the folder, from the table or from text files beside the audio."""
    table = table or next((folder / name for name in TABLES if (folder / name).is_file()), None)
    found: dict[str, list[str]] = {}
    if table is not None:
        for name, caption in read_table(table):
            if name:
                found.setdefault(name, [])
                if caption:
                    found[name].append(caption)
        return found
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO and not p.name.startswith(".")):
        beside = path.with_suffix(".txt")
        lines = beside.read_text("utf-8-sig", "replace").splitlines() if beside.is_file() else []
        found[path.relative_to(folder).as_posix()] = [line.strip() for line in lines if line.strip()]
    return found


def locate(folder: Path, name: str) -> Path:
    """The audio file inside the folder. Raises BadAudio when the path, followed through links, leaves it."""
    inside, path = folder.resolve(), folder / name
    if not path.is_file() and (folder / "datashare" / name).is_file():
        path = folder / "datashare" / name  # MusicBench
    if Path(name).is_absolute() or not path.resolve().is_relative_to(inside):
        raise BadAudio("outside the folder")
    return path


def read_folder(
    folder: Path | str,
    out: Path | str,
    table: Path | None = None,
    seconds: float = 12.0,
    progress: bool = True,
) -> list[dict]:
    """Cuts a folder's audio into clips under <out>/clips, writes <out>/clips.jsonl, returns the records.

    Files longer than `seconds` give several clips (a rest shorter than half of it is left off). Unknown
    attributes are None. The same command again converts only new or changed files. What cannot be used goes
    to <out>/set_aside.jsonl. Raises MuseError when the folder is missing or nothing in it can be used.
    """
    from tqdm import tqdm

    from musekit.config import MuseError

    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    if not folder.is_dir():
        raise MuseError(f"no folder of audio at {folder}: give the one that holds the files and captions")
    wanted = captions_of(folder, table)
    records, aside = [], []
    for name, captions in tqdm(sorted(wanted.items()), "folder", disable=not progress, mininterval=2):
        try:
            path = locate(folder, name)
            if not captions:
                raise BadAudio("no caption")
            pieces = _convert(path, name, out, seconds)
        except BadAudio as error:
            aside.append({"file": name, "reason": error.reason})
            continue
        records += [{**r, "captions": [{"text": c, "asks": {}} for c in captions]} for r in pieces]
    write_atomically(out / "set_aside.jsonl", "".join(json.dumps(a) + "\n" for a in aside))
    if not records:
        reasons = "; ".join(f"{a['file']}: {a['reason']}" for a in aside[:3]) or "no audio files found"
        raise MuseError(f"nothing usable in {folder}: {reasons}")
    write_atomically(out / "clips.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    return records


def _convert(path: Path, name: str, out: Path, seconds: float) -> list[dict]:
    """The clips of one file, from the cache when the file has not changed."""
    from musekit.corpus.render import SAMPLE_RATE, write_flac

    if not path.is_file():
        raise BadAudio("no such file")
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, seconds]
    # the name's hash keeps a/x.wav and a-x.mp3 apart
    short = slug(os.path.splitext(name)[0])[-60:].strip("-") or "clip"
    stem = f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    note = out / "records" / stem[:2] / f"{stem}.json"
    if note.is_file():
        known = json.loads(note.read_text("utf-8"))
        if known["stamp"] == stamp and all((out / r["path"]).is_file() for r in known["records"]):
            return known["records"]
    audio = read_audio(path)
    length = round(seconds * SAMPLE_RATE)
    family = slug(re.sub(r"_\d+$", "", path.stem)) or stem  # augmented copies end in _<number>
    records = []
    for k, start in enumerate(range(0, audio.shape[1], length)):
        piece = audio[:, start : start + length]
        if k and piece.shape[1] < length // 2:
            break
        if np.sqrt(np.mean(piece**2)) < SILENCE:
            continue
        identity = f"{stem}-{k:02d}"
        record = {
            "id": identity,
            "work": name,
            "family": family,
            "split": split_of(family),
            "path": f"clips/{identity[:2]}/{identity}.flac",
            "seconds": round(piece.shape[1] / SAMPLE_RATE, 6),
            "sample_rate": SAMPLE_RATE,
            "instruments": [],
            "mood": [],
            "title": path.stem,
            "licence": None,
            "source": "folder",
            **dict.fromkeys(UNKNOWN),
        }
        write_flac(out / record["path"], np.clip(piece, -1, 1))
        records.append(record)
    write_atomically(note, json.dumps({"stamp": stamp, "records": records}))
    return records
