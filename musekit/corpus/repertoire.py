"""Repertoire: which scores of music21's corpus are used, under what licence, and which are left out."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

MUSIC21 = "encoding distributed with music21 by permission of its encoder; the music is in the public domain"
GREENTREE = "encoding by Margaret Greentree, used by permission in music21; the music is in the public domain"
XML, MXL, ABC = (".xml",), (".mxl",), (".abc",)


def _about(composer: str, era: str, form: str, kind: str, suffix: tuple[str, ...], licence: str = MUSIC21) -> dict:
    return dict(composer=composer, era=era, form=form, kind=kind, suffix=suffix, licence=licence)


FOLK = _about("traditional", "folk", "tune", "tune", ABC)
#: By corpus folder. `kind` tells the plan how to balance, `licence` is what the files say.
COLLECTIONS: dict[str, dict] = {
    "bach": _about("J. S. Bach", "baroque", "chorale", "chorale", MXL + XML, GREENTREE),
    "ryansMammoth": FOLK,
    "oneills1850": FOLK,
    "airdsAirs": FOLK,
    "nottingham-dataset": FOLK,
    "miscFolk": FOLK,
    "trecento": _about("anonymous", "medieval", "trecento polyphony", "modal", MXL + XML),
    "josquin": _about(
        "Josquin des Prez",
        "renaissance",
        "chanson",
        "modal",
        ABC,
        "GPL-2.0-or-later (encoding by Laura E. Conrad)",
    ),
    "monteverdi": _about("Claudio Monteverdi", "renaissance", "madrigal", "modal", MXL),
    "beethoven": _about("Ludwig van Beethoven", "classical", "string quartet movement", "classical", MXL),
    "haydn": _about("Joseph Haydn", "classical", "string quartet movement", "classical", MXL),
    "mozart": _about("W. A. Mozart", "classical", "string quartet movement", "classical", MXL),
    "handel": _about("G. F. Handel", "baroque", "oratorio movement", "classical", MXL),
    "corelli": _about("Arcangelo Corelli", "baroque", "sonata", "classical", XML, "CC BY (music21 corpus, 2014)"),
    "cpebach": _about("C. P. E. Bach", "classical", "keyboard piece", "classical", MXL),
    "joplin": _about("Scott Joplin", "ragtime", "rag", "classical", MXL),
    "schumann_clara": _about(
        "Clara Schumann", "romantic", "polonaise", "classical", MXL, "CC BY-SA 4.0 (typeset by Cypressdome)"
    ),
    "schumann_robert": _about("Robert Schumann", "romantic", "string quartet movement", "classical", MXL + XML),
    "weber": _about(
        "Carl Maria von Weber",
        "romantic",
        "concertino",
        "classical",
        MXL,
        "public domain (encoding released by Oliver Seely, 1998)",
    ),
    "verdi": _about("Giuseppe Verdi", "romantic", "song", "classical", MXL),
    "liliuokalani": _about("Liliuokalani", "romantic", "song", "classical", MXL),
    "beach": _about(
        "Amy Beach",
        "romantic",
        "song",
        "classical",
        (".musicxml",),
        "CC BY-SA (engraving by Michael Scott Cuthbert, 2017)",
    ),
}
#: Works whose form is not their collection's.
OTHER_FORMS = {
    "bach/bwv846": "prelude",
    "mozart/k545": "piano sonata movement",
    "schumann_robert/dichterliebe": "song",
    "schumann_robert/opus48": "song",
}
#: Left out, with the reason.
LEFT_OUT = {
    "palestrina": "its files say 'Rights to all derivative electronic formats reserved'",
    "bach/*.krn": "its files say 'Rights to all derivative electronic formats reserved'",
    "essenFolksong": "its notice: legal status unclear, non-commercial distribution only",
    "beethoven/*.krn, chopin": "the encoder states no licence",
    "leadSheet": "marked 'All Rights Reserved'",
    "schubert, schumann_clara/opus17": "marked 'Copyright ©'",
    "trecento (10 files), monteverdi (2 files)": "marked with an unnamed or a publisher's copyright",
    "schoenberg, webern": "atonal, and not in the public domain everywhere",
    "demos, theoryExercises": "tests and exercises, not pieces",
    "ciconia, luca, lusitano, johnson_j_r": "single pieces with doubled or unusual parts",
}
FORMS = (
    "slip jig",
    "slipjig",
    "jig",
    "reel",
    "hornpipe",
    "strathspey",
    "waltz",
    "march",
    "polka",
    "minuet",
    "quadrille",
    "schottische",
    "clog",
    "air",
    "mazurka",
    "quick step",
    "quickstep",
    "gavotte",
    "hop jig",
    "long dance",
    "walk around",
    "highland fling",
    "fling",
    "lament",
)
SAME_FORM = {
    "slipjig": "slip jig",
    "hop jig": "slip jig",
    "quickstep": "march",
    "quick step": "march",
    "fling": "highland fling",
}


def slug(text: str) -> str:
    """ASCII, lower case, words joined by single hyphens."""
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def corpus_folder() -> Path:
    """Where music21 keeps its corpus."""
    from music21.common import getCorpusFilePath

    return Path(getCorpusFilePath())


def sources(only: list[str] | None = None) -> list[str]:
    """Corpus files in use, as 'collection/path' in sorted order. `only`: prefixes to keep."""
    root, found = corpus_folder(), []
    for name, about in COLLECTIONS.items():
        for path in (root / name).rglob("*"):
            relative = path.relative_to(root).as_posix()
            unwanted = path.name.startswith("._") or re.search("opus17|_old|choraleAnalyses", relative)
            if path.suffix in about["suffix"] and not unwanted:
                found.append(relative)
    return sorted(f for f in found if only is None or any(f.startswith(p) for p in only))


def rights_of(path: Path) -> str:
    """A MusicXML file's claim of rights that does not come with a licence, else ''."""
    import zipfile

    if path.suffix == ".mxl":
        with zipfile.ZipFile(path) as archive:
            text = "".join(
                archive.read(n).decode("utf-8", "replace")
                for n in archive.namelist()
                if n.endswith(".xml") and "META-INF" not in n
            )
    else:
        text = path.read_text("utf-8", "replace")
    claims = " ".join(re.findall(r"<rights[^>]*>(.*?)</rights>", text, re.S)).strip()
    granted = r"Greentree|CC.?BY|CC-SA-BY|Creative Commons|[Pp]ublic [Dd]omain"
    return claims[:80] if claims and not re.search(granted, claims) else ""


def rhythms_of(path: Path) -> dict[str, str]:
    """The R: field of each tune of an ABC file by its X: number (music21 does not keep it)."""
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
