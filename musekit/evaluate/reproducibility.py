"""reproducibility: is a recipe's sound the same, to the bit, whatever else is generated, where and when?

Each recipe is generated alone, as the first of 4 pieces, as the last of 16, beside other prompts, and in another
process, on one CPU thread (`musekit.inference` tells of more). The SHA-256 of each sound is compared; none is cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from musekit.corpus.captions import evaluation_prompts
from musekit.evaluate.study import Study, progress, target
from musekit.muse import Muse, Settings
from musekit.recipe import Recipe

RECIPES, SEED = 20, 140_000
SETTINGS = Settings(seconds=2.0, steps=8, stage1_steps=16, micro_batch=16)  # short: bits do not depend on the length
PROCESS = "in another process"


def digests(muse: Muse, recipes: Sequence[Recipe]) -> list[str]:
    """The SHA-256 of each piece's samples, all generated in one request."""
    return [hashlib.sha256(piece.audio.numpy().tobytes()).hexdigest() for piece in muse.stream(recipes)]


def requests(muse: Muse, prompts: Sequence[str], i: int) -> dict[str, tuple[list[Recipe], int]]:
    """{case: (the recipes of a request, the place of recipe i among them)}."""
    own, other = prompts[i], [prompts[(i + k) % len(prompts)] for k in (1, 2, 3)]
    recipe = muse.recipe(own, SEED + i, SETTINGS)
    beside = [muse.recipe(own, SEED + 1000 + k, SETTINGS) for k in range(15)]
    return {
        "alone": ([recipe], 0),
        "first of 4": ([recipe, *beside[:3]], 0),
        "last of 16": ([*beside, recipe], 15),
        "beside other prompts": ([*(muse.recipe(text, SEED + i, SETTINGS) for text in other), recipe], 3),
    }


def alone(folder: Path, prompts: Sequence[str]) -> list[str]:
    """The digests of all recipes, each generated alone, by a system that has generated nothing before."""
    torch.set_num_threads(1)
    muse = Muse.from_pretrained(folder)
    return [digests(muse, requests(muse, prompts, i)["alone"][0])[0] for i in range(len(prompts))]


def compared(muse: Muse, prompts: Sequence[str], process: bool = True) -> list[dict]:
    """A row per recipe: its digest alone, and whether each other case gives the same one. Then a bar per case.

    process: also generate in another process.
    """
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for i in progress(range(len(prompts)), "recipes"):
        cases = requests(muse, prompts, i)
        found = {case: digests(muse, recipes)[place] for case, (recipes, place) in cases.items()}
        row = {"measure": "recipe", "prompt": prompts[i], "seed": SEED + i, "sha256": found.pop("alone")}
        rows.append(row | {case: digest == row["sha256"] for case, digest in found.items()})
    if process:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            for row, digest in zip(rows, pool.submit(alone, muse.folder, prompts).result(), strict=True):
                row[PROCESS] = digest == row["sha256"]
    torch.set_num_threads(threads)
    cases = [name for name in rows[0] if name not in ("measure", "prompt", "seed", "sha256")]
    same = {case: sum(row[case] for row in rows) for case in cases}
    return rows + [target(f"the same bits {case}", n, at_least=len(rows), n=len(rows)) for case, n in same.items()]


def measure_reproducibility(study: Study) -> None:
    """Writes results/reproducibility.json."""
    prompts = [p["text"] for p in evaluation_prompts(2 if study.quick else RECIPES)]
    rows = compared(Muse.from_pretrained(study.muse.folder), prompts)
    study.write("reproducibility", rows, held_out=False, seed=SEED, generated_with_threads=1)
