"""Datasets: one function per dataset, from its folder to an `Item` per audio file.

To add a dataset, write such a function and add it to `READERS`. Tables are untrusted text; nothing in them is executed.
"""

import contextlib
import csv
import io
import posixpath
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musekit.config import TONICS, MuseError
from musekit.corpus.families import split_of
from musekit.corpus.listing import Listing
from musekit.corpus.scores import slug
from musekit.corpus.sound import BadAudio
from musekit.files import decode
from musekit.prompts import keys_of, tonic_of

MAX_CAPTION_CHARS = 4000
TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
BPM = re.compile(r"\b(\d{2,3}(?:\.\d+)?) ?(?:bpm|beats per minute)|\bbpm (?:of|is|:) ?(\d{2,3}(?:\.\d+)?)", re.I)
CAPTION_TABLES = ("captions.csv", "captions.tsv", "captions.jsonl", "captions.json", "metadata.csv", "metadata.jsonl")
MUSICBENCH_TABLES = {f"MusicBench_{name.replace(' ', '_')}.json": name for name in ("train", "test A", "test B")}
NAN = re.compile(r":\s*NaN(?=\s*[,}])")  # as Python and pandas write it
NO_TEXT = ("", "nan", "none", "null", "n/a", "na")


@dataclass(frozen=True)
class Item:
    """One audio file of a dataset and what is known of it."""

    name: str  # in the dataset's table; decides the clips' ids
    path: str  # of the file, relative to the dataset's folder
    captions: list[dict]  # {"text", "asks"}; empty asks: the caption claims nothing that can be checked
    family: str  # items that must not be in two splits: a clip and its augmented copies, an artist
    split: str
    known: dict = field(default_factory=dict)  # attributes, under the names that records have


def text_of(path: Path) -> str:
    """A file's text. Raises MuseError, which names the line, where it is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MuseError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV or TSV by lower-case column name; the header decides the delimiter. MuseError names the line."""
    with io.StringIO(text_of(path), newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count), restval="", strict=True)
        rows, line = [], 2  # where the next row begins
        try:
            for row in reader:
                if None in row:
                    raise csv.Error("more cells than the header has; quote cells that contain the delimiter")
                rows.append({name.strip().lower(): cell.strip() for name, cell in row.items()})
                line = reader.reader.line_num + 1
        except csv.Error as error:
            raise MuseError(f"{path}, line {line}: {error}; check its quotation marks") from error
        return rows


def json_rows(path: Path) -> list[dict]:
    """The objects of JSON Lines (whatever the file's suffix) or of one JSON list. MuseError names the line."""
    text = NAN.sub(": null", text_of(path))
    if text.lstrip().startswith("["):
        return decode(text, list[dict], str(path))
    lines = enumerate(text.split("\n"), 1)  # not splitlines: captions may hold other separators
    return [decode(line, dict, f"{path}, line {number},") for number, line in lines if line.strip()]


def clean(text) -> str:
    """A caption on one line without control characters, at most MAX_CAPTION_CHARS long; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    printable = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_CAPTION_CHARS]


def number(value) -> float | None:
    """A finite number, or None."""
    try:
        return float(value) if np.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


def tonic(value) -> str | None:
    """A tonic in the spelling of `config.TONICS`, from "A#", "B flat" or a pitch class 0 to 11; else None."""
    if (step := number(value)) is not None:
        return TONICS[int(step)] if step in range(12) else None
    text = str(value).replace("-", " ").replace(" flat", "b").replace(" sharp", "#")
    found = re.fullmatch(r"([A-G])([#b]?)", text.strip())
    return tonic_of(found[1], found[2]) if found else None


def claimed(text: str, known: dict) -> dict:
    """The claims of a caption about key, mode and tempo that agree with what is known of its clip."""
    asks, bpm = {}, BPM.search(text)
    if (known.get("key"), known.get("mode")) in keys_of(text):
        asks |= {"key": known["key"], "mode": known["mode"]}
    if bpm and known.get("bpm") and abs(float(bpm[1] or bpm[2]) - known["bpm"]) < 1:
        asks["bpm"] = known["bpm"]
    return asks


def texts_of(value) -> list[str]:
    """The captions of a cell: a text, or a list of texts. Null, NaN and "N/A" are none."""
    texts = map(clean, value if isinstance(value, list) else [value])
    return [text for text in texts if text.lower() not in NO_TEXT]


def captions_of(listing: Listing) -> dict[str, list[str]]:
    """Captions by audio path: from the folder's table, else from the text file beside each sound, one a line.

    Raises MuseError for a table without rows or without columns for file and caption.
    """
    table = next((name for name in CAPTION_TABLES if listing.is_file(name)), None)
    named: dict[str, list[str]] = {path: [] for path in listing.audio}
    if table is None:
        for path, found in named.items():
            name = f"{posixpath.splitext(path)[0]}.txt"
            lines = text_of(listing.folder / name).splitlines() if listing.is_file(name) else []
            found += [text for line in lines for text in texts_of(line)]
        return named
    rows = (json_rows if ".json" in table else csv_rows)(listing.folder / table)
    if not rows:
        raise MuseError(f"{table}: no rows")
    known = dict.fromkeys(name for row in rows for name in row)
    columns = {what: next((n for n in names if n in known), None) for what, names in TABLES["columns"].items()}
    if not columns["file"] or not columns["caption"]:
        raise MuseError(f"{table}: needs the columns 'file' and 'caption'; it has {', '.join(known):.150}")
    for n, row in enumerate(rows, 1):
        path = str(row.get(columns["file"]) or f"row {n} of {table}")
        with contextlib.suppress(BadAudio):
            path = listing.find(path)
        named.setdefault(path, []).extend(texts_of(row.get(columns["caption"])))
    return named


def read_folder(listing: Listing) -> Iterator[Item]:
    """The folder's audio, and what its table names. A file and its copies <name>_<number> are one family.

    In a series without such an original (take_001, take_002, ...) every file is a family of its own.
    """
    named = captions_of(listing)
    stems = {path: posixpath.splitext(path)[0] for path in named}
    for path, texts in named.items():
        original = re.sub(r"_\d+$", "", stems[path])
        family = slug(original if original in stems.values() else stems[path]) or path
        captions = [{"text": text, "asks": {}} for text in dict.fromkeys(texts)]
        yield Item(path, path, captions, family, split_of(family))


def read_musicbench(listing: Listing) -> Iterator[Item]:
    """MusicBench (Melechovsky et al. 2023, arXiv 2311.08355; CC BY-SA 3.0): 10 s clips with augmented copies.

    Tables are JSON Lines; audio is datashare/data/<ytid>.wav and datashare/data_aug2/<ytid>_<k>.wav. A clip and its
    copies are one family. Test A and test B are the same audio with different captions, of which one each includes
    control sentences about key and tempo. Clips of AudioSet's evaluation set (that of MusicCaps) are the split "eval".
    """
    for table, subset in MUSICBENCH_TABLES.items():
        for row in json_rows(listing.folder / table) if table in listing.files else ():
            location = str(row.get("location"))
            family = Path(location).stem[:11]  # the video's id; an augmented copy is <ytid>_<k>
            known = {"subset": subset, "audioset_eval": row.get("is_audioset_eval_mcaps") is True}
            key, mode = row.get("key") or (None, None)
            if tonic(key) and mode in ("major", "minor"):
                known |= {"key": tonic(key), "mode": mode, "key_confidence": (row.get("keyprob") or [None])[0]}
            if bpm := number(row.get("bpm")):
                known["bpm"] = bpm
            main, plain = (clean(row.get(name)) for name in TABLES["musicbench"]["captions"])
            controls = [clean(row.get(name)) for name in TABLES["musicbench"]["controls"]]
            texts = [main, plain]
            if any(controls) and (plain or main):
                texts.append(" ".join([plain or main, *filter(None, controls)]))
            captions = [{"text": text, "asks": claimed(text, known)} for text in dict.fromkeys(texts) if text]
            split = "valid" if split_of(family) == "valid" else "train"  # the test set is the published one
            if subset != "train":
                split = "test"
            elif known["audioset_eval"]:
                split = "eval"
            yield Item(location, f"datashare/{location}", captions, family, split, known)


#: By dataset: its reader, tables of which any identifies it, and where its audio is, for error messages.
READERS: dict[str, tuple[Callable[[Listing], Iterator[Item]], Collection[str], str]] = {
    "musicbench": (read_musicbench, MUSICBENCH_TABLES, "the audio under datashare/"),
    "folder": (read_folder, CAPTION_TABLES, "or audio files with a .txt of captions beside each"),
}
