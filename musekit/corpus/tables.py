"""Tables as data sets publish them: delimited text of any delimiter, with or without a header, and JSON Lines.

What a table says is untrusted text: list literals are parsed as literals, never run.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from musekit.config import TONICS, MuseError

LONGEST = 4000  # characters of a caption that are kept
FLATS = {"DB": "C#", "D#": "Eb", "GB": "F#", "G#": "Ab", "A#": "Bb", "CB": "B", "B#": "C", "E#": "F", "FB": "E"}
SCALE = re.compile(r"\b([A-G])(?:([#b♯♭])|[ -](sharp|flat))?[ -]?(major|minor)\b")
BPM = re.compile(r"\b(\d{2,3}(?:\.\d+)?) ?(?:bpm|beats per minute)|\bbpm (?:of|is|:) ?(\d{2,3}(?:\.\d+)?)", re.I)


def text_of(path: Path) -> str:
    """A file's text, whatever its byte order mark; bytes that are no UTF-8 are replaced. Raises MuseError."""
    try:
        return path.read_text("utf-8-sig", "replace").replace("\0", "")
    except OSError as error:
        raise MuseError(f"{path} cannot be read ({error.strerror or error}); check the file") from error


def delimited(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV or TSV by lower-case column name; the delimiter is the one that the first line holds.

    `columns` names the columns of a copy without a header: its first line begins with none of these names, nor with the
    empty one above pandas' row numbers. Cells beyond the last column are part of it: an unquoted list in a
    comma-separated copy. Raises MuseError with the line.
    """
    text = text_of(path)
    first = text.split("\n", 1)[0]
    delimiter = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    table: list[list[str]] = []
    try:
        table.extend(row for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise MuseError(f"{path}, line {reader.line_num}: {error}; is it the table that was published?") from error
    if not table:
        return []
    names = [cell.strip().lower() for cell in table[0]]
    if columns and names[0] not in ("", *columns):
        names = list(columns)
    else:
        table = table[1:]
    rows = []
    for cells in table:
        cells = [cell.strip() for cell in cells]
        if len(cells) > len(names):
            cells[len(names) - 1 :] = [delimiter.join(cells[len(names) - 1 :])]
        rows.append(dict(zip(names, [*cells, *[""] * (len(names) - len(cells))])))
    return rows


def json_rows(path: Path) -> tuple[list[dict], int]:
    """Objects of JSON Lines (whatever the file is called) or of one JSON list, and how many lines were neither."""
    text = text_of(path)
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MuseError(f"{path} is neither JSON Lines nor a JSON list: {error}") from error
        rows = [row for row in whole if isinstance(row, dict)]
        return rows, len(whole) - len(rows)
    rows, bad = [], 0
    for line in text.split("\n"):  # not splitlines: a caption may hold other line separators
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    return rows, bad


def words(value) -> list[str]:
    """A list of words from a list, a Python list literal or comma-separated text; anything else is no words."""
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
    return list(dict.fromkeys(w for w in (clean(x) for x in value if isinstance(x, str)) if w))


def clean(text) -> str:
    """A caption on one line, without control characters, of at most `LONGEST`; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * LONGEST]).split())[:LONGEST]


def number(value) -> float | None:
    """A finite number, or None."""
    try:
        x = float(value)
    except (TypeError, ValueError):
        return None
    return x if abs(x) < 1e12 else None  # NaN and infinity compare false


def truth(value) -> bool:
    """Whether a cell says yes."""
    return str(value).strip().lower() in ("true", "1", "1.0", "yes", "t")


def tonic(value) -> str | None:
    """A tonic as the records spell it (`TONICS`): from 'A#', 'B flat', or a pitch class 0 to 11."""
    step = number(value)
    if step is not None:
        return TONICS[int(step)] if step in range(12) else None
    text = str(value).strip().replace("♯", "#").replace("♭", "b")
    text = re.sub(r"[ -]?sharp$", "#", re.sub(r"[ -]?flat$", "b", text, flags=re.I), flags=re.I)
    text = FLATS.get(text.upper(), text[:1].upper() + text[1:])
    return text if text in TONICS else None


def mode(value) -> str | None:
    """'major' or 'minor': from the words, or Spotify's 1 and 0."""
    text = str(value).strip().lower()
    return {"major": "major", "minor": "minor", "1": "major", "1.0": "major", "0": "minor", "0.0": "minor"}.get(text)


def asserted(text: str, known: dict) -> dict:
    """What a caption says of key, mode and tempo, where that is what is known of its clip."""
    asks = {}
    if found := SCALE.search(text):
        said = tonic(found[1] + (found[2] or (f" {found[3]}" if found[3] else "")))
        if (said, found[4]) == (known.get("key"), known.get("mode")):
            asks |= {"key": said, "mode": found[4]}
    if (found := BPM.search(text)) and known.get("bpm") and abs(float(found[1] or found[2]) - known["bpm"]) < 1:
        asks["bpm"] = known["bpm"]
    return asks
