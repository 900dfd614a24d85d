"""Song Describer (Manco et al. 2023, arXiv 2311.10057; captions CC BY-SA 4.0): 706 tracks of 2 minutes, 1,106 captions.

It was published to evaluate with: every clip is in the split 'test'. Its `path` says NN/<id>.mp3 where the audio is
audio/NN/<id>.2min.mp3.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from musekit.corpus.recordings import Item, caption
from musekit.corpus.tables import clean, delimited, truth

TABLE = "song_describer.csv"
LOOKED_FOR = f"{TABLE}, and the audio as audio/NN/<id>.2min.mp3"


def found(folder: Path) -> bool:
    """Whether this looks like Song Describer."""
    return (folder / TABLE).is_file()


def items(folder: Path, lacks: Counter, keep_apart: bool = True) -> list[Item]:
    """The table's rows; those of one track become one item with all its captions."""
    read = []
    for row in delimited(folder / TABLE):
        path = row.get("path", "").removeprefix("audio/").replace(".2min.", ".")
        if not path:
            lacks["a row without a path"] += 1
            continue
        cut = str(PurePosixPath(path).with_suffix(".2min.mp3")) if PurePosixPath(path).name else path
        places = tuple(f"{above}{name}" for above in ("audio/", "", "audio/audio/") for name in (cut, path))
        said = clean(row.get("caption"))
        captions = [caption(said, {}, path) | {"valid": truth(row.get("is_valid_subset"))}] if said else []
        family = row.get("artist_id") or row.get("track_id") or path
        read.append(Item(path, captions, family, "test", places, known={"subset": "test"}))
    return read
