"""MusicBench (Melechovsky et al. 2023, arXiv 2311.08355; CC BY-SA 3.0): MusicCaps clips of 10 s with augmented copies.

Tables are JSON Lines under .json names; audio lies under datashare/, as data/<ytid>.wav and data_aug2/<ytid>_<k>.wav.
A clip and its copies are one family. Test A and test B are the same audio with different captions.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from musekit.corpus.families import split_of
from musekit.corpus.recordings import Item, caption
from musekit.corpus.tables import asserted, clean, json_rows, mode, number, tonic

TABLES = {"MusicBench_train.json": "train", "MusicBench_test_A.json": "test A", "MusicBench_test_B.json": "test B"}
LOOKED_FOR = "MusicBench_train.json, MusicBench_test_A.json and MusicBench_test_B.json, the audio under datashare/"
CONTROLS = ("prompt_ch", "prompt_bt", "prompt_bpm", "prompt_key", "prompt_aug")


def found(folder: Path) -> bool:
    """Whether this looks like MusicBench."""
    return any((folder / name).is_file() for name in TABLES)


def items(folder: Path, lacks: Counter, keep_apart: bool = True) -> list[Item]:
    """One item for each row of the tables. `keep_apart`: clips of AudioSet's evaluation set are the split "eval"."""
    read = []
    for name, subset in TABLES.items():
        if not (folder / name).is_file():
            lacks[f"{name} is not there"] += 1
            continue
        rows, bad = json_rows(folder / name)
        lacks["a row that is not JSON"] += bad
        for row in rows:
            location = str(row.get("location") or "").strip()
            if not location:
                lacks["a row without a location"] += 1
                continue
            read.append(item(row, location, subset, keep_apart))
    return read


def item(row: dict, location: str, subset: str, keep_apart: bool) -> Item:
    """One row. With its control sentences a caption becomes another caption, which claims key and tempo."""
    family = family_of(Path(location).stem)
    known = attributes(row) | {"subset": subset, "audioset_eval": row.get("is_audioset_eval_mcaps") is True}
    main, plain = clean(row.get("main_caption")), clean(row.get("alt_caption"))
    controls = [said for said in (clean(row.get(name)) for name in CONTROLS) if said]
    texts = [main, plain]
    if controls and (plain or main):
        texts.append(" ".join([plain or main, *controls]))
    captions = [caption(text, asserted(text, known), location) for text in dict.fromkeys(texts) if text]
    split = "valid" if split_of(family) == "valid" else "train"  # the test set is the published one
    if subset != "train":
        split = "test"
    elif known["audioset_eval"] and keep_apart:
        split = "eval"
    return Item(location, captions, family, split, (location, f"datashare/{location}"), known=known)


def family_of(stem: str) -> str:
    """The video's id, without the _<k> of augmented copies; an id has 11 characters and may itself end in _<number>."""
    named = re.fullmatch(r"([\w-]{11})(_\d+)?", stem, re.ASCII)
    return named[1] if named else re.sub(r"_\d+$", "", stem)


def attributes(row: dict) -> dict:
    """Key, mode and tempo of a clip; what is null, empty or odd stays unknown."""
    known = {}
    scale = row.get("key")
    scale = scale.split() if isinstance(scale, str) else scale
    if isinstance(scale, list) and len(scale) == 2 and tonic(scale[0]) and mode(scale[1]):
        known |= {"key": tonic(scale[0]), "mode": mode(scale[1])}
        sure = row.get("keyprob")
        sure = number(sure[0] if isinstance(sure, list) and sure else sure)
        known |= {"key_confidence": sure} if sure is not None else {}
    if (bpm := number(row.get("bpm"))) and bpm > 0:
        known["bpm"] = bpm
    return known
