"""Repertoire: which scores of music21's corpus are used, under what licence, and which are left out."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

LICENCES = {
    "music21": "encoding distributed with music21 by permission of its encoder; the music is in the public domain",
    "Greentree": "encoding by Margaret Greentree, used by permission in music21; the music is in the public domain",
    "Seely": "public domain (encoding released by Oliver Seely, 1998)",
}
#: By corpus folder: composer, era, form, kind (by which the plan balances), file suffixes, and what the files say of
#: their licence.
COLLECTIONS: dict[str, dict] = {}
for _line in """
    bach | J. S. Bach | baroque | chorale | chorale | .mxl .xml | Greentree
    ryansMammoth | traditional | folk | tune | tune | .abc | music21
    oneills1850 | traditional | folk | tune | tune | .abc | music21
    airdsAirs | traditional | folk | tune | tune | .abc | music21
    nottingham-dataset | traditional | folk | tune | tune | .abc | music21
    miscFolk | traditional | folk | tune | tune | .abc | music21
    trecento | anonymous | medieval | trecento polyphony | modal | .mxl .xml | music21
    josquin | Josquin des Prez | renaissance | chanson | modal | .abc | GPL-2.0-or-later (encoding by Laura E. Conrad)
    monteverdi | Claudio Monteverdi | renaissance | madrigal | modal | .mxl | music21
    beethoven | Ludwig van Beethoven | classical | string quartet movement | classical | .mxl | music21
    haydn | Joseph Haydn | classical | string quartet movement | classical | .mxl | music21
    mozart | W. A. Mozart | classical | string quartet movement | classical | .mxl | music21
    handel | G. F. Handel | baroque | oratorio movement | classical | .mxl | music21
    corelli | Arcangelo Corelli | baroque | sonata | classical | .xml | CC BY (music21 corpus, 2014)
    cpebach | C. P. E. Bach | classical | keyboard piece | classical | .mxl | music21
    joplin | Scott Joplin | ragtime | rag | classical | .mxl | music21
    schumann_clara | Clara Schumann | romantic | polonaise | classical | .mxl | CC BY-SA 4.0 (typeset by Cypressdome)
    schumann_robert | Robert Schumann | romantic | string quartet movement | classical | .mxl .xml | music21
    weber | Carl Maria von Weber | romantic | concertino | classical | .mxl | Seely
    verdi | Giuseppe Verdi | romantic | song | classical | .mxl | music21
    liliuokalani | Liliuokalani | romantic | song | classical | .mxl | music21
    beach | Amy Beach | romantic | song | classical | .musicxml | CC BY-SA (engraving by Michael Scott Cuthbert, 2017)
""".strip().splitlines():
    _name, *_cells, _licence = (cell.strip() for cell in _line.split("|"))
    _about = dict(zip(("composer", "era", "form", "kind", "suffix"), _cells))
    COLLECTIONS[_name] = _about | {"licence": LICENCES.get(_licence, _licence)}
#: Works whose form is not their collection's.
OTHER_FORMS = {
    "bach/bwv846": "prelude",
    "mozart/k545": "piano sonata movement",
    "schumann_robert/dichterliebe": "song",
    "schumann_robert/opus48": "song",
}
# Left out: palestrina, bach/*.krn ("Rights to all derivative electronic formats reserved"); essenFolksong (legal status
# unclear, non-commercial distribution only); beethoven/*.krn, chopin (no licence stated); leadSheet, schubert,
# schumann_clara/opus17, 10 files of trecento, 2 of monteverdi (marked with a copyright); schoenberg, webern (atonal,
# and not in the public domain everywhere); demos, theoryExercises (no pieces); ciconia, luca, lusitano, johnson_j_r
# (single pieces with doubled or unusual parts).
#: Dance forms in the order in which a title is searched for them.
FORMS = (
    "slip jig, slipjig, jig, reel, hornpipe, strathspey, waltz, march, polka, minuet, quadrille, schottische, clog,"
    " air, mazurka, quick step, quickstep, gavotte, hop jig, long dance, walk around, highland fling, fling, lament"
).split(", ")
SAME_FORM = {
    **{"slipjig": "slip jig", "hop jig": "slip jig", "fling": "highland fling"},
    **{"quickstep": "march", "quick step": "march"},
}


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
        for path in (root / name).rglob("*"):
            relative = path.relative_to(root).as_posix()
            unwanted = path.name.startswith("._") or re.search("opus17|_old|choraleAnalyses", relative)
            if path.suffix in about["suffix"].split() and not unwanted:
                found.append(relative)
    return sorted(f for f in found if only is None or any(f.startswith(p) for p in only))


def rights_of(path: Path) -> str:
    """A MusicXML file's claim of rights that does not come with a licence, else ""."""
    import zipfile

    if path.suffix == ".mxl":
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(".xml") and "META-INF" not in n]
            text = "".join(archive.read(n).decode("utf-8", "replace") for n in names)
    else:
        text = path.read_text("utf-8", "replace")
    claims = " ".join(re.findall(r"<rights[^>]*>(.*?)</rights>", text, re.S)).strip()
    granted = r"Greentree|CC.?BY|CC-SA-BY|Creative Commons|[Pp]ublic [Dd]omain"
    return claims[:80] if claims and not re.search(granted, claims) else ""


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
