"""folder: the measures of any folder of audio against a reference: another folder, or a cache's held-out clips.

    musekit eval folder --audio my-music --reference their-music

Of every file the first `seconds` are measured. A prompt is known where the file has its recipe beside it (as
`musekit generate` writes it), a row in captions.csv, or a .txt. Bad files are named, counted and left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from musekit import prompts as words
from musekit.config import MuseError
from musekit.corpus.captions import evaluation_prompts
from musekit.corpus.captions import prompts as fixed_prompts
from musekit.corpus.folder import captions_of
from musekit.evaluate.ceiling import verdicts
from musekit.evaluate.distances import COLUMNS, LIBROSA, compare, halves, standardised
from musekit.evaluate.obeyed import as_record
from musekit.evaluate.sounds import Sounds, audio_files, read_reference, read_sounds, usual_length
from musekit.evaluate.subject import Subject, table
from musekit.statistics import mean_interval, neighbours, percentile_difference, spread, unit_distances

SHOWN = 20  # rows of long tables that are printed


def prompts_of(folder: Path, names: Sequence[str]) -> list[dict | None]:
    """{"text", "asks"} of each file where its prompt is known; asks is None where only the words are known."""
    known = {p["text"]: p["asks"] for p in [*evaluation_prompts(), *fixed_prompts("vague"), *fixed_prompts("specific")]}
    captions, found = captions_of(folder), []
    for name in names:
        text, asks = next(iter(captions.get(name, [])), None), None
        try:
            beside = json.loads((folder / name).with_suffix(".json").read_text("utf-8"))
            text, asks = str(beside["recipe"]["prompt"]), beside.get("asks")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # no recipe: the caption stands, if there is one
        if not text:
            found.append(None)
            continue
        asks = asks if isinstance(asks, dict) else known.get(text)
        try:
            found.append({"text": words.clean(text), "asks": asks})
        except MuseError:  # nothing in it that the text encoder could read
            found.append(None)
    return found


def told(subject: Subject, sounds: Sounds, prompts: Sequence[dict | None]) -> list[dict]:
    """Similarity of prompts and sounds beside that of prompts and other prompts' sounds, and a table by prompt."""
    index = [i for i, p in enumerate(prompts) if p]
    if not index:
        return []
    texts = [prompts[i]["text"] for i in index]
    distinct, x = list(dict.fromkeys(texts)), sounds.x[index]
    cosine = subject.muse.embedder.embed_text(distinct).double().numpy() @ x.T  # (prompts, sounds)
    own = np.array([[text == t for t in texts] for text in distinct])
    rows = [{"measure": "similarity", "source": "prompt and its sounds", "n": len(index), **mean_interval(cosine[own])}]
    if len(distinct) > 1:
        others = mean_interval(np.where(own, 0, cosine).sum(0) / (len(distinct) - 1))
        rows.append({"measure": "similarity", "source": "other prompts and these sounds", "n": len(index), **others})
    for text, mine, values in zip(distinct, own, cosine):
        here = unit_distances(x[mine])
        row = {"measure": "prompt", "prompt": text, "n": int(mine.sum()), "similarity": float(values[mine].mean())}
        rows.append(row | {"spread": spread(here) if len(here) > 1 else None})
    return rows


def obeyed(subject: Subject, sounds: Sounds, prompts: Sequence[dict | None]) -> list[dict]:
    """What an independent judge hears of what was asked, where it is known and there are clips to fit the judge on."""
    index = [i for i, p in enumerate(prompts) if p and p["asks"]]
    if not index or not subject.singles("train"):
        return []
    records = [as_record(prompts[i]["asks"]) for i in index]
    rows = verdicts(subject, records, [sounds.heard[i] for i in index], "audio")
    return [row for row in rows if row["n"]]


def copies(sounds: Sounds, reference: Sounds, library: np.ndarray) -> list[dict]:
    """Distance to the nearest training clip, of the folder and of the reference: is the folder nearer?"""
    if not len(library):
        return []
    found = {s: neighbours.nearest(side.x, library)[0] for s, side in (("audio", sounds), ("reference", reference))}
    rows = [
        {"measure": "nearest training clip", "source": s, "n": len(d)}
        | {f"p{p}": float(np.percentile(d, p)) for p in (5, 50, 95)}
        for s, d in found.items()
    ]
    gap = percentile_difference(found["audio"], found["reference"], 5, seed=0)
    return [*rows, {"measure": "difference of 5th percentiles", "source": "audio - reference", **gap}]


def measure_folder(
    subject: Subject,
    audio: Path,
    reference: Path | None = None,
    cache: Path | None = None,
    seconds: float | None = None,
) -> None:
    """Writes results/folder-<name>.json. Raises MuseError for a folder without usable audio or unusable seconds."""
    paths = audio_files(audio)
    if seconds is not None and not 1 <= seconds <= 600:
        raise MuseError(f"--seconds must be from 1 to 600, not {seconds:g}")
    seconds = usual_length(paths) if seconds is None else float(seconds)
    sounds = read_sounds(subject, audio, seconds, "hearing the folder")
    other, library = read_reference(subject, reference, cache, seconds)
    rows = [
        {"measure": "set", "source": source, "name": s.name, "n": len(s.x), "files": s.files, "left_out": len(s.bad)}
        | {"bad": s.bad, "seconds": seconds, "shorter": s.shorter}
        for source, s in (("audio", sounds), ("reference", other))
    ]
    about = {"seconds": seconds, "reference": other.name}
    measured = compare(sounds.x, other.x, **about, embedding=subject.embedding_name, source="audio")
    measured += halves(other.x, **about, embedding=subject.embedding_name)
    if other.heard:
        y = standardised(other.heard, other.heard)
        measured += compare(standardised(sounds.heard, other.heard), y, **about, embedding=LIBROSA, source="audio")
        measured += halves(y, **about, embedding=LIBROSA)
    prompts = prompts_of(audio, sounds.names)
    said, near = told(subject, sounds, prompts), copies(sounds, other, library)
    heard = obeyed(subject, sounds, prompts)
    table(rows, "source", "name", "files", "n", "left_out", "seconds", "shorter")
    table(measured, *COLUMNS)
    table([r for r in said if r["measure"] == "similarity"], "source", "n", "mean", "low", "high")
    table([r for r in said if r["measure"] == "prompt"][:SHOWN], "n", "similarity", "spread", "prompt")
    table(heard, "attribute", "n", "accuracy", "low", "high")
    table(near, "source", "n", "p5", "p50", "p95", "difference", "low", "high")
    files = hashlib.sha256("\n".join(sorted(sounds.keys)).encode()).hexdigest()[:16]
    subject.write(f"folder-{words.file_stem(sounds.name)}", rows + measured + said + heard + near, files=files)
