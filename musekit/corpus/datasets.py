"""Datasets: one function per dataset, from its folder to an `Item` per audio file.

To add a dataset, write such a function and add it to `READERS`. Tables are untrusted text; nothing in them is executed.
"""

import ast
import contextlib
import csv
import io
import posixpath
import re
import tomllib
from collections import defaultdict
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
MUSIC4ALL_TABLES = ("id_information.csv", "id_metadata.csv", "id_tags.csv", "id_genres.csv", "id_lang.csv")
BESIDE = ("_prompt.txt", ".caption.txt", ".json", ".txt")  # after an audio file's name; the first two are ACE-Step's
SWALLOWED = re.compile(r"[\r\n][^,;\t\r\n]*\.(?:wav|flac|mp3|ogg|opus|aiff?)\"?[,;\t]", re.I)  # a row in a cell
LYRICS = re.compile(r"^\s*\[(?:verse|chorus|bridge|intro|outro|hook|pre-chorus|inst|instrumental)\b", re.I | re.M)
NAN = re.compile(r":\s*NaN(?=\s*[,}])")  # as Python and pandas write it
NO_TEXT = ("", "nan", "none", "null", "n/a", "na")
MOODS = TABLES["moods"]


@dataclass(frozen=True)
class Item:
    """One audio file of a dataset and what is known of it."""

    name: str  # in the dataset's table; decides the clips' ids
    path: str  # of the file, relative to the dataset's folder
    captions: list[dict]  # {"text", "asks"}; empty asks: the caption claims nothing that can be checked
    family: str  # items that must not be in two splits: a clip and its augmented copies, an artist
    split: str
    known: dict = field(default_factory=dict)  # attributes, under the names that records have
    start: float | None = None  # s, of the stretch that the captions describe; None: the whole file
    end: float | None = None


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
                if any(SWALLOWED.search(cell) for cell in row.values()):
                    raise csv.Error("a quotation mark is opened and not closed")
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
    """The captions of a cell: a text, or a list of texts, also a written one. Null, NaN and "N/A" are none."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(value)
    texts = map(clean, value if isinstance(value, list) else [value])
    return [text for text in texts if text.lower() not in NO_TEXT]


def beside(listing: Listing, path: str) -> list[str]:
    """The captions in the first of the files `BESIDE` an audio file that has any. Lyrics are none."""
    for ending in BESIDE:
        name, values = posixpath.splitext(path)[0] + ending, []
        text = text_of(listing.folder / name) if listing.is_file(name) else ""
        if ending != ".json":
            values = text.splitlines() if not LYRICS.search(text) else []
        elif text:
            with contextlib.suppress(MuseError):  # it says other things
                about = decode(NAN.sub(": null", text), dict, name)
                values = [about.get(column) for column in TABLES["columns"]["caption"]]
        if found := [text for value in values for text in texts_of(value)]:
            return found
    return []


def captions_of(listing: Listing) -> dict[tuple, list[str]]:
    """Captions by (audio path, start, end): from the folder's table, else from those of its sub-folders, else from the
    files beside the audio. start, end: of the stretch in s that they describe; None, None: the whole file.

    Raises MuseError for a table without rows or without columns for file and caption.
    """
    tables = [path for path in listing.files if posixpath.basename(path) in CAPTION_TABLES and listing.is_file(path)]
    tables.sort(key=lambda path: -CAPTION_TABLES.index(posixpath.basename(path)))
    first = {posixpath.dirname(path): path for path in tables}
    tables = [first[""]] if "" in first else sorted(first.values())
    named = {(path, None, None): [] if tables else beside(listing, path) for path in listing.audio}
    for table in tables:
        rows = (json_rows if ".json" in table else csv_rows)(listing.folder / table)
        if not rows:
            raise MuseError(f"{table}: no rows")
        known = dict.fromkeys(name for row in rows for name in row)
        columns = {what: next((n for n in names if n in known), None) for what, names in TABLES["columns"].items()}
        if not columns["file"] or not columns["caption"]:
            raise MuseError(f"{table}: needs the columns 'file' and 'caption'; it has {', '.join(known):.150}")
        for n, row in enumerate(rows, 1):
            path = posixpath.join(posixpath.dirname(table), str(row.get(columns["file"]) or f"row {n} of {table}"))
            with contextlib.suppress(BadAudio):
                path = listing.find(path)
            times = [row.get(columns[what]) for what in ("start", "end")]
            start, end = map(number, times)
            if any(given not in (None, "") and number(given) is None for given in times):
                raise MuseError(f"{table}, row {n}: a stretch has a start and an end in seconds, not {times!s:.60}")
            named.setdefault((path, start, end), []).extend(texts_of(row.get(columns["caption"])))
            if (start, end) != (None, None) and not named.get((path, None, None), True):
                del named[path, None, None]
    return named


def read_folder(listing: Listing) -> Iterator[Item]:
    """The folder's audio, and what its tables name. A file and its copies <name>_<number> are one family.

    In a series without such an original (take_001, take_002, ...) every file is a family of its own. Where most names
    come again in other folders (mixture.wav in a folder for each song), a folder is a family.
    """
    named = captions_of(listing)
    places = {path: (posixpath.dirname(path), posixpath.splitext(posixpath.basename(path))[0]) for path, *_ in named}
    folders = defaultdict(set)
    for place, stem in places.values():
        folders[stem].add(place)
    again = [(place, stem) for place, stem in places.values() if len(folders[stem]) > 1]
    by_folder = 2 * len(again) >= len(places) and len({p for p, _ in again}) > len({stem for _, stem in again})
    for (path, start, end), texts in named.items():
        place, stem = places[path]
        original = re.sub(r"_\d+$", "", stem)
        family = slug(place if by_folder else original if original in folders else stem) or path
        captions = [{"text": text, "asks": {}} for text in dict.fromkeys(texts)]
        name = path if start is end is None else f"{path} {start or 0:g}-{'end' if end is None else f'{end:g}'} s"
        yield Item(name, path, captions, family, split_of(family), start=start, end=end)


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


def read_music4all(listing: Listing) -> Iterator[Item]:
    """Music4All (Santana et al. 2020): 109,269 clips of 30 s with tags, genres and Spotify's features.

    Captions are written from these, without titles and names. Tables are tab-separated under .csv names; audio is
    audios/<id>.mp3. An artist is a family, because albums sound alike.
    """
    tracks: dict[str, dict] = {}
    for table in MUSIC4ALL_TABLES:
        for row in csv_rows(listing.folder / table) if table in listing.files else ():
            tracks.setdefault(row.get("id", ""), {}).update(row)
    for identity, row in sorted(tracks.items()):
        family, known = clean(row.get("artist")).lower() or identity, music4all_attributes(row)
        captions = music4all_captions(identity, known)
        yield Item(identity, f"audios/{identity}.mp3", captions, family, split_of(family), known)


def music4all_attributes(row: dict[str, str]) -> dict:
    """The attributes that captions may claim; a tag is the attribute "tag:<tag>" with the value True."""
    tags, genres = ([*filter(None, dict.fromkeys(map(clean, row.get(c, "").split(","))))] for c in ("tags", "genres"))
    known: dict = {"tags": tags, "genres": genres}
    known |= {f"tag:{tag}": True for tag in tags} | {f"genre:{genre}": True for genre in genres}
    if tonic(row.get("key")) and number(row.get("mode")) in (0, 1):
        known |= {"key": tonic(row["key"]), "mode": "major" if number(row["mode"]) else "minor"}
    if bpm := number(row.get("tempo")):
        known |= {"bpm": bpm, "tempo": "slow" if bpm < 80 else "medium" if bpm < 130 else "fast"}
    for name in MOODS:
        if (x := number(row.get(name))) is not None and 0 <= x <= 1:
            known[name] = "low" if x < 0.33 else "high" if x > 0.67 else "medium"
    if language := clean(row.get("lang")):
        known["language"] = language
    return known


def music4all_captions(identity: str, known: dict) -> list[dict]:
    """Up to three captions {"text", "asks"}, from vague to specific; none where nothing is known."""
    rng = np.random.default_rng([4, *identity.encode()])
    genres = [(genre, {f"genre:{genre}": True}) for genre in rng.permutation(known["genres"]).tolist()]
    tags = [(tag, {f"tag:{tag}": True}) for tag in rng.permutation(known["tags"]).tolist()]
    tags = [tag for tag in tags if tag[0] not in known["genres"]]
    moods = [(word, {m: known[m]}) for m, words in MOODS.items() if (word := words.get(known.get(m)))]
    tempo = [(TABLES["tempo"][known["tempo"]], {"tempo": known["tempo"]})] if "tempo" in known else []
    exact = [(f"{known['bpm']:.0f} bpm", {"bpm": known["bpm"]})] if "bpm" in known else []
    if "key" in known:
        exact.append((f"in {known['key']} {known['mode']}", {"key": known["key"], "mode": known["mode"]}))
    noun = genres[:1] or [("", {})]
    captions = [
        sentence(moods[:1] + noun) if moods or genres else sentence(tags[:1] + noun),
        sentence(moods + tempo + noun, tags[:3]),
        sentence(tempo + moods[:1] + noun, [*genres[1:2], *tags[:5], *exact]),
    ]
    return list({c["text"]: c for c in captions if c["asks"]}.values())


def sentence(front: list[tuple[str, dict]], behind: list[tuple[str, dict]] = ()) -> dict:
    """A caption of words before "music" and words after it, with all their claims."""
    text = " ".join([*(word for word, _ in front if word), "music"])
    asks = {k: v for _, claims in [*front, *behind] for k, v in claims.items()}
    return {"text": ", ".join([text, *(word for word, _ in behind)]), "asks": asks}


#: By dataset: its reader, tables of which any identifies it, and where its audio is, for error messages.
READERS: dict[str, tuple[Callable[[Listing], Iterator[Item]], Collection[str], str]] = {
    "musicbench": (read_musicbench, MUSICBENCH_TABLES, "the audio under datashare/"),
    "music4all": (read_music4all, MUSIC4ALL_TABLES, "the audio audios/<id>.mp3"),
    "folder": (read_folder, CAPTION_TABLES, "or audio files with a .txt of captions beside each"),
}
