"""Tables as datasets publish them: delimited text with or without a header, JSON Lines, and what their cells mean.

The content of a table is untrusted text: list literals are parsed as literals, never run.
"""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from musekit.config import TONICS, MuseError
from musekit.files import decode

MAX_CAPTION_CHARS = 4000
FLATS = {"DB": "C#", "D#": "Eb", "GB": "F#", "G#": "Ab", "A#": "Bb", "CB": "B", "B#": "C", "E#": "F", "FB": "E"}
SCALE = re.compile(r"\b([A-G])(?:([#b♯♭])|[ -](sharp|flat))?[ -]?(major|minor)\b")
BPM = re.compile(r"\b(\d{2,3}(?:\.\d+)?) ?(?:bpm|beats per minute)|\bbpm (?:of|is|:) ?(\d{2,3}(?:\.\d+)?)", re.I)


def text_of(path: Path) -> str:
    """A file's text without a byte order mark; bytes that are no UTF-8 are replaced. Raises MuseError."""
    try:
        return path.read_text("utf-8-sig", "replace").replace("\0", "")
    except OSError as error:
        raise MuseError(f"{path} cannot be read ({error.strerror or error}); check the file") from error


def delimited(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV or TSV by lower-case column name; the first line decides which delimiter it has.

    `columns` names the columns of a copy without a header, whose first cell is none of these names (nor empty, as above
    pandas' row numbers). Cells beyond the last column belong to it: an unquoted list in a comma-separated copy. Raises
    MuseError with the line.
    """
    text = text_of(path)
    first = text.split("\n", 1)[0]
    delimiter = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)  # pandas drops cells beyond the last column
    try:
        table = [[cell.strip() for cell in row] for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise MuseError(f"{path}, line {reader.line_num}: {error}; is it the table that was published?") from error
    names = [cell.lower() for cell in table[0]] if table else []
    if columns and names and names[0] not in ("", *columns):
        names = list(columns)
    else:
        table = table[1:]
    last = len(names) - 1
    rows = ([*cells[:last], delimiter.join(cells[last:])] for cells in table)
    return [dict(zip_longest(names, row, fillvalue="")) for row in rows]


def json_rows(path: Path) -> tuple[list[dict], int]:
    """The objects of JSON Lines (whatever the file's suffix) or of one JSON list, and how many entries were none."""
    text = text_of(path)
    if text.lstrip().startswith("["):
        entries = decode(text, list, str(path))
    else:
        entries = [_object(line) for line in text.split("\n") if line.strip()]  # captions may hold other separators
    rows = [row for row in entries if isinstance(row, dict)]
    return rows, len(entries) - len(rows)


def _object(line: str) -> dict | None:
    try:
        return decode(line, dict, "a row")
    except MuseError:
        return None


def words(value) -> list[str]:
    """A list of words from a list, a Python list literal or comma-separated text; [] for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = ast.literal_eval(text[:20_000])
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return []
        else:
            value = text.split(",")
    if not isinstance(value, list | tuple):
        return []
    return list(dict.fromkeys(w for w in (clean(x) for x in value) if w))


def clean(text) -> str:
    """A caption on one line without control characters, at most MAX_CAPTION_CHARS long; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    printable = "".join(c if c.isprintable() else " " for c in text[: 2 * MAX_CAPTION_CHARS])
    return " ".join(printable.split())[:MAX_CAPTION_CHARS]


def number(value) -> float | None:
    """A finite number, or None."""
    try:
        x = float(value)
    except (TypeError, ValueError):
        return None
    return x if abs(x) < 1e12 else None  # False for NaN and infinity


def tonic(value) -> str | None:
    """A tonic in the spelling of `config.TONICS`, from "A#", "B flat", or a pitch class 0 to 11; else None."""
    step = number(value)
    if step is not None:
        return TONICS[int(step)] if step in range(12) else None
    text = str(value).strip().replace("♯", "#").replace("♭", "b")
    text = re.sub(r"[ -]?sharp$", "#", re.sub(r"[ -]?flat$", "b", text, flags=re.I), flags=re.I)
    text = FLATS.get(text.upper(), text[:1].upper() + text[1:])
    return text if text in TONICS else None


def mode(value) -> str | None:
    """Mode: "major" or "minor", from the words or from Spotify's 1 and 0; else None."""
    text = str(value).strip().lower()
    return {"major": "major", "minor": "minor", "1": "major", "1.0": "major", "0": "minor", "0.0": "minor"}.get(text)


def asserted(text: str, known: dict) -> dict:
    """The claims of a caption about key, mode and tempo that agree with what is known of its clip."""
    asks = {}
    if found := SCALE.search(text):
        said = tonic(found[1] + (found[2] or (f" {found[3]}" if found[3] else "")))
        if (said, found[4]) == (known.get("key"), known.get("mode")):
            asks |= {"key": said, "mode": found[4]}
    if (found := BPM.search(text)) and known.get("bpm") and abs(float(found[1] or found[2]) - known["bpm"]) < 1:
        asks["bpm"] = known["bpm"]
    return asks
