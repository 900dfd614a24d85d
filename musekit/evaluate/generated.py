"""Generated clips, kept as FLAC with their recipe: made once for a folder of weights, then only read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from musekit.config import MuseError
from musekit.evaluate.subject import Subject, bar, write_flac
from musekit.files import write_atomic
from musekit.muse import Settings, micro_batches
from musekit.recipe import Recipe

PROMPT_SEED = 20_000  # piece i of the prompts has the seed 20,000 + i
RENDER_SEED = 40_000


def finished(path: Path, recipe: Recipe) -> bool:
    """Whether the kept piece was made by this recipe. Threads and versions may differ: they change last bits only."""
    if not (path.exists() and path.with_suffix(".json").exists()):
        return False
    try:
        kept = Recipe.from_json(json.dumps(facts(path)["recipe"]))
    except (MuseError, ValueError, KeyError):  # of another version of the program
        return False
    return replace(kept, threads=0, versions="") == replace(recipe, threads=0, versions="")


def keep(path: Path, audio, sample_rate: int, recipe: Recipe, **more) -> None:
    """The sound, then its recipe: a piece exists once both do."""
    write_flac(path, np.asarray(audio), sample_rate)
    write_atomic(path.with_suffix(".json"), json.dumps({"recipe": json.loads(recipe.to_json()), **more}))


def facts(path: Path) -> dict:
    """What `keep` wrote beside the sound."""
    return json.loads(path.with_suffix(".json").read_text())


def from_prompts(subject: Subject, prompts: Sequence[dict]) -> list[Path]:
    """One piece a prompt with the preset's defaults, through `Muse.stream`; returns their files, in order."""
    muse, folder = subject.muse, subject.folder / "prompts"
    recipes = [muse.recipe(p["text"], PROMPT_SEED + i, Settings()) for i, p in enumerate(prompts)]
    paths = [folder / f"{i:04d}.flac" for i in range(len(prompts))]
    missing = [i for i in range(len(prompts)) if not finished(paths[i], recipes[i])]
    pieces = muse.stream([recipes[i] for i in missing]) if missing else iter(())
    for i in bar(missing, "generating from prompts"):
        piece = next(pieces)
        more = {"asks": prompts[i]["asks"], "similarity": piece.similarity, "embedding": piece.embedding.tolist()}
        keep(paths[i], piece.audio, piece.sample_rate, piece.recipe, **more)
    return paths


def from_embeddings(subject: Subject, clips: Sequence[dict]) -> list[Path]:
    """One piece a clip, by Stage 2 from the clip's own audio embedding; returns their files, in order."""
    muse, embeddings = subject.muse, subject.embeddings(clips)
    recipes = [muse.recipe(f"the embedding of {c['id']}", RENDER_SEED + i, Settings()) for i, c in enumerate(clips)]
    paths = [subject.folder / "render-true" / f"{c['id']}.flac" for c in clips]
    return rendered(subject, embeddings, recipes, paths, "rendering true embeddings")


def rendered(
    subject: Subject, embeddings: np.ndarray, recipes: Sequence[Recipe], paths: list[Path], text: str
) -> list[Path]:
    """One piece a row of embeddings (n, 512), by Stage 2 with the row's recipe, into the row's path; the paths."""
    import torch

    muse, x = subject.muse, torch.from_numpy(np.asarray(embeddings)).float()
    missing = [i for i in range(len(recipes)) if not finished(paths[i], recipes[i])]
    done = 0
    for rows in bar(list(micro_batches([recipes[i] for i in missing])), text):
        index = missing[done : done + len(rows)]
        done += len(rows)
        audio, _ = muse.render_rows(x[index], rows)
        for i, sound in zip(index, audio):
            keep(paths[i], sound, muse.config.codec.sample_rate, recipes[i])
    return paths
