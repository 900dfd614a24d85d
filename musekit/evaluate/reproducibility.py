"""reproducibility: is a recipe's sound the same, to the bit, whatever else is generated, where and when?

Each recipe is generated alone, as the first of 4 pieces, as the last of 16, beside other prompts, and in another
process, on one CPU thread (`musekit.inference` tells of more). The SHA-256 of each sound is compared; none is cached.
The files of `musekit generate` are compared too: of one process, of two ranks, and of a run that was killed.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from musekit.corpus.captions import evaluation_prompts
from musekit.evaluate.study import Study, progress, target
from musekit.files import sha256
from musekit.launch import launch
from musekit.muse import Muse, Settings
from musekit.recipe import Recipe

RECIPES, SEED = 20, 140_000
SETTINGS = Settings(seconds=1.0, steps=4, stage1_steps=8, micro_batch=16)  # short, so that all recipes are affordable


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


def files(folder: Path, prompts: Sequence[str]) -> list[dict]:
    """A row per file of `musekit generate`: do two ranks, and a killed run that is started again, write the same?"""
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as place:
        asked = ({"prompt": text, "seed": SEED + i, "n": 1, "name": f"{i}"} for i, text in enumerate(prompts))
        (Path(place) / "prompts.jsonl").write_text("\n".join(json.dumps(one) for one in asked))
        words = ["generate", "--prompts", f"{place}/prompts.jsonl", "--weights", str(folder), "--threads", "1"]
        words += ["--seconds", "1", "--steps", "4", "--stage1-steps", "8", "--micro-batch", "4", "--out"]
        for case, ranks in (("one process", 1), ("by two ranks", 2), ("after a kill", 1)):
            out = Path(place) / case.replace(" ", "-")
            if case == "after a kill":
                process = subprocess.Popen([sys.executable, "-m", "musekit", *words, out], stdout=subprocess.DEVNULL)
                while process.poll() is None and not list(out.glob("*.wav")):
                    time.sleep(0.05)
                process.kill()
                process.wait()
            launch([*words, out], ranks, on_line=lambda line: None)
            found[case] = {path.name: sha256(path) for path in sorted(out.glob("*.wav"))}
    once = found.pop("one process")
    rows = [{"measure": "file", "name": name, "sha256": digest} for name, digest in once.items()]
    return [row | {case: by.get(row["name"]) == row["sha256"] for case, by in found.items()} for row in rows]


def bars(rows: Sequence[dict], cases: Sequence[str]) -> list[dict]:
    """A bar per case: all rows have the same bits."""
    return [target(f"the same bits {case}", sum(row[case] for row in rows), at_least=len(rows)) for case in cases]


def compared(muse: Muse, prompts: Sequence[str]) -> list[dict]:
    """A row per recipe: its digest alone, and whether each other case gives the same one. Then a bar per case."""
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for i in progress(range(len(prompts)), "recipes"):
        cases = requests(muse, prompts, i)
        found = {case: digests(muse, recipes)[place] for case, (recipes, place) in cases.items()}
        row = {"measure": "recipe", "prompt": prompts[i], "seed": SEED + i, "sha256": found.pop("alone")}
        rows.append(row | {case: digest == row["sha256"] for case, digest in found.items()})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for row, digest in zip(rows, pool.submit(alone, muse.folder, prompts).result(), strict=True):
            row["in another process"] = digest == row["sha256"]
    torch.set_num_threads(threads)
    return rows + bars(rows, [name for name in rows[0] if name not in ("measure", "prompt", "seed", "sha256")])


def measure_reproducibility(study: Study) -> None:
    """Writes results/reproducibility.json."""
    prompts = [p["text"] for p in evaluation_prompts(2 if study.quick else RECIPES)]
    rows = compared(Muse.from_pretrained(study.muse.folder), prompts)
    if not study.quick:  # half a minute of starting processes
        written = files(study.muse.folder, prompts)
        rows += written + bars(written, ("by two ranks", "after a kill"))
    study.write("reproducibility", rows, held_out=False, seed=SEED, generated_with_threads=1)
