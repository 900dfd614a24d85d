"""Scores: which pieces of music21's corpus are used, as plain arrays of notes, with what is known about them.

A `Score` holds, for each part, rows (start, duration, pitch) in quarter notes and MIDI numbers, ties joined.
The key comes from `harmony.key_of`.
"""

import re
import tomllib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musekit.config import TONICS
from musekit.harmony import key_of

_TABLES = tomllib.loads(Path(__file__).with_name("collections.toml").read_text(encoding="utf-8"))
#: By corpus folder: composer, era, form, kind, file suffixes, licence.
COLLECTIONS: dict[str, dict] = {
    name: about | {"licence": _TABLES["licences"].get(about["licence"], about["licence"])}
    for name, about in _TABLES["collections"].items()
}
#: Forms that a title may name, other names of them, and the forms of single works.
FORMS, SAME_FORM, OTHER_FORMS = (_TABLES[name] for name in ("forms", "same_form", "other_forms"))

#: A piece's key is trusted above this correlation, and this far ahead of the second-best key.
MIN_CORRELATION, MIN_GAP = 0.70, 0.04


def slug(text: str) -> str:
    """ASCII, lower case, words joined by single hyphens."""
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def corpus_folder() -> Path:
    """The folder of music21's corpus."""
    from music21.common import getCorpusFilePath

    return Path(getCorpusFilePath())


def sources(only: list[str] | None = None) -> list[str]:
    """Corpus files in use, as 'collection/path' in sorted order. `only`: prefixes to keep."""
    root, found = corpus_folder(), []
    for name, about in COLLECTIONS.items():
        files = (p for p in (root / name).rglob("*") if p.suffix in about["suffix"] and p.name[:2] != "._")
        found += [path.relative_to(root).as_posix() for path in files]
    return sorted(f for f in found if f not in _TABLES["excluded"] and (only is None or f.startswith(tuple(only))))


def rhythms_of(path: Path) -> dict[str, str]:
    """The R: field (rhythm) of each tune of an ABC file by its X: number; music21 drops it."""
    found = {}
    for tune in re.split(r"(?m)^X:", path.read_text("utf-8", "replace"))[1:]:
        number, rhythm = re.match(r"\s*(\d+)", tune), re.search(r"(?m)^R:\s*([A-Za-z ]+)", tune)
        if number and rhythm:
            found[number.group(1).lstrip("0")] = rhythm.group(1).strip().lower()
    return found


def form_of(work: str, title: str, rhythm: str) -> str:
    """The dance form that a tune's R: field or title names, else the form of the work or its collection."""
    about = COLLECTIONS[work.split("/")[0]]
    if about["kind"] == "tune":
        for text in (rhythm, title.lower()):
            for form in FORMS:
                if re.search(rf"\b{form}\b", text):
                    return SAME_FORM.get(form, form)
    return next((form for prefix, form in OTHER_FORMS.items() if work.startswith(prefix)), about["form"])


def title_of(work: str, given: str) -> str:
    """A work's title: 'Chorale BWV 253', 'Madrigal 3.1', what the file says, or its name in the corpus."""
    name = work.split("/", 1)[1]
    if work.startswith("bach/bwv"):
        return ("" if name == "bwv846" else "Chorale ") + "BWV " + name[3:]
    if work.startswith("monteverdi/"):
        return name.replace("madrigal.", "Madrigal ")
    if not given.strip() or given.endswith((".mxl", ".xml", ".musicxml")):
        return name.replace("/", " ").replace("_", " ")
    return given.strip()


@dataclass(frozen=True)
class Score:
    """One work. `parts[i]` has rows [start, duration, MIDI pitch], times and `bars` (bar starts) are in quarter notes.

    `mode` is None unless the key analysis is confident; `key` is then only its best guess.
    """

    work: str
    title: str
    composer: str
    era: str
    form: str
    kind: str
    family: str
    source: str
    licence: str
    metre: str
    key: str
    mode: str | None
    key_confidence: float
    key_gap: float
    length: float
    bars: list[float] = field(repr=False, default_factory=list)
    parts: list[list[list[float]]] = field(repr=False, default_factory=list)


def third_is_clear(pitches: np.ndarray, durations: np.ndarray, key: str, mode: str, ratio: float = 3) -> bool:
    """Whether the mode's own third above the tonic sounds, and at least `ratio` times as long as the other third."""
    histogram = np.bincount(np.asarray(pitches, int) % 12, weights=durations, minlength=12)
    tonic = TONICS.index(key)
    minor, major = histogram[(tonic + 3) % 12], histogram[(tonic + 4) % 12]
    own, other = (minor, major) if mode == "minor" else (major, minor)
    return bool(own > 0 and own >= ratio * other)


def notes_of(part) -> list[list[float]]:
    """Rows of one music21 part with ties joined, without grace notes, chord symbols and percussion."""
    from music21 import chord, harmony, note

    rows: list[list[float]] = []
    open_ties: dict[int, list[float]] = {}
    for element in part.flatten().notes:
        if isinstance(element, harmony.Harmony) or element.duration.isGrace or element.quarterLength <= 0:
            continue
        members = element.notes if isinstance(element, chord.Chord) else [element]
        for n in members:
            if not isinstance(n, note.Note):
                continue  # unpitched percussion
            pitch, start, length = n.pitch.midi, float(element.offset), float(element.quarterLength)
            tie = n.tie or element.tie
            held = open_ties.get(pitch)
            if tie and tie.type in ("stop", "continue") and held and abs(held[0] + held[1] - start) < 1e-3:
                held[1] += length
            else:
                held = [start, length, pitch]
                rows.append(held)
            if tie and tie.type in ("start", "continue"):
                open_ties[pitch] = held
            else:
                open_ties.pop(pitch, None)
    return [[round(s, 4), round(d, 4), int(p)] for s, d, p in sorted(rows)]


def _trusted(every: np.ndarray, tonic: str, mode: str, r: float, gap: float, declared) -> bool:
    """Whether a piece may be called major or minor. `declared`: the music21 key that the file states, or None."""
    found = (mode, TONICS.index(tonic))
    disagrees = declared is not None and (declared.mode, declared.tonic.pitchClass) != found
    if disagrees and declared.mode in ("major", "minor") and gap >= 0.07:
        # files often give the signature alone (G for E minor) or an old one (A minor's for D minor): see the last note
        ends = every[:, 0] + every[:, 1]
        disagrees = int(every[np.isclose(ends, ends.max()), 2].min()) % 12 != TONICS.index(tonic)
    clear = third_is_clear(every[:, 2], every[:, 1], tonic, mode, 1.5)
    return r >= MIN_CORRELATION and gap >= MIN_GAP and not disagrees and clear


def score_of(stream, work: str, source: str, rhythm: str = "") -> Score:
    """A music21 score as a `Score`. Raises ValueError with the reason when it is not usable."""
    from music21 import key as keys
    from music21 import meter

    about = COLLECTIONS[work.split("/")[0]]
    parts = [notes_of(p) for p in (stream.parts or [stream])]
    parts = [p for p in parts if len(p) >= 4]
    if not parts or sum(map(len, parts)) < 16:
        raise ValueError("fewer than 16 notes")
    if len(parts) > 10:
        raise ValueError(f"{len(parts)} parts: orchestral score")
    every = np.array([row for part in parts for row in part])
    tonic, mode, r, gap = key_of(every[:, 2], every[:, 1])
    declared = next(iter(stream.recurse().getElementsByClass(keys.Key)), None)
    confident = _trusted(every, tonic, mode, r, gap, declared)
    metre = next(iter(stream.recurse().getElementsByClass(meter.TimeSignature)), None)
    first = stream.parts[0] if stream.parts else stream
    bars = sorted({round(float(m.offset), 4) for m in first.getElementsByClass("Measure")})
    meta = stream.metadata
    title = title_of(work, str((meta and (meta.title or meta.movementName)) or ""))
    composer = about["composer"]
    if composer == "anonymous" and meta and meta.composer and 3 < len(meta.composer) < 40:
        composer = str(meta.composer)
    return Score(
        work, title, composer, about["era"], form_of(work, title, rhythm), about["kind"], work, source,
        about["licence"], metre.ratioString if metre else "", tonic, mode if confident else None, round(r, 4),
        round(gap, 4), float((every[:, 0] + every[:, 1]).max()), bars, parts,
    )  # fmt: skip


def parse(source: str) -> tuple[list[Score], dict[str, str]]:
    """The usable works of one corpus file "collection/path", and by their names why others are not."""
    import warnings

    from music21 import converter, stream

    path, stem = corpus_folder() / source, source.rsplit(".", 1)[0]
    scores, aside = [], {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            whole = converter.parse(path, forceSource=True)
        except Exception as error:  # noqa: BLE001 - whatever music21 raises
            return [], {source: f"music21 cannot read the score ({type(error).__name__}: {error})"}
        many = list(whole.scores) if isinstance(whole, stream.Opus) else [whole]
        rhythms = rhythms_of(path) if path.suffix == ".abc" else {}
        for i, one in enumerate(many):
            number = str(one.metadata.number or "").lstrip("0") if one.metadata else ""
            work = stem if len(many) == 1 else f"{stem}#{number or i}"
            try:
                if COLLECTIONS[source.split("/")[0]]["kind"] == "classical":
                    one.toSoundingPitch(inPlace=True)
                scores.append(score_of(one, work, f"music21 corpus: {source}", rhythms.get(number, "")))
            except ValueError as error:
                aside[work] = str(error)
            except Exception as error:  # noqa: BLE001 - broken in a way of its own
                aside[work] = f"music21 cannot play the score ({type(error).__name__}: {error})"
    return scores, aside
