"""`musekit eval`: each measurement is a function that writes results/<name>.json with provenance and prints its rows.

The measurements are in the table `MEASUREMENTS`. `gallery` makes pictures for the poster; `summary` lists all result
files, and which of them are stale.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from musekit.config import MuseError, suggest

SYSTEM = "codec embedder stage1 stage2"
MEASUREMENTS = {  # name: (module.function, the parts of the system that it needs, minutes on two cores, its question)
    "corpus": ("study.measure_corpus", "", 1, "the clips and their splits"),
    "codec": ("codec.measure_codec", "codec", 30, "how much of a sound survives the codec, Opus and MP3?"),
    "embedder": ("judge.measure_embedder", "codec embedder", 15, "zero-shot attributes"),
    "prompts": ("judge.measure_prompts", SYSTEM, 25, "do generated clips sound as their prompts ask?"),
    "one-to-many": ("conditional.measure_one_to_many", "embedder stage1 regression", 25, "samples among right answers"),
    "music": ("music.measure_music", SYSTEM, 40, "a beat, the asked tempo, key and chords, a tune"),
    "memorisation": ("memorisation.measure_memorisation", SYSTEM, 30, "distance to the nearest training clip"),
    "distances": ("distances.measure_distances", SYSTEM, 15, "kernel distance, precision and recall"),
    "controls": ("controls.measure_controls", SYSTEM + " regression", 30, "does each planted fault fail its bar?"),
    "reproducibility": ("reproducibility.measure_reproducibility", SYSTEM, 8, "is a recipe's sound always the same?"),
    "guidance": ("guidance.measure_guidance", SYSTEM, 60, "obedience against coverage; on the valid split"),
}
ON_VALID = ("controls", "guidance")  # measurements by which choices are made: never on the test split
QUICK = 4  # generated clips with quick=True


def evaluate(
    what: str, weights: str | Path, cache: Path, results: Path = Path("results"), n: int = 240, quick: bool = False,
    split: str = "valid", codecs: Sequence[str] = (),
) -> None:  # fmt: skip
    """Make one measurement, or `all` of them. The same command goes on where it was stopped.

    n: clips of the measurements that generate. quick: tiny sizes, for tests. split: the held-out clips to measure on;
    every opening of "test" is counted in the result file. codecs: folders of weights whose codecs are compared with
    that of `weights`. Raises MuseError for an unknown measurement, a missing cache or weights, and a choice on test.
    """
    known = (*MEASUREMENTS, "all", "gallery", "summary")
    if what not in known:
        raise suggest(what, known, "measurement")
    if n < 2:
        raise MuseError(f"n, the number of generated clips, must be 2 or more, not {n!r}")
    if split == "test" and what in ON_VALID:
        raise MuseError(f"`musekit eval {what}` serves choices, so it runs on the valid split only: leave --split out")
    if what == "summary":
        import pandas as pd

        from musekit.pretrained import find, read_hashes
        from musekit.results import summary

        print(pd.DataFrame(summary(results, read_hashes(find(weights)))).to_string(index=False))
        return
    if what == "gallery":
        from musekit.evaluate.gallery import gallery

        print(f"written: {gallery(weights, results)}")
        return
    from musekit.evaluate.study import Study

    study = Study(weights, cache, results, min(n, QUICK) if quick else n, quick)
    study.codecs = codecs
    for name in MEASUREMENTS if what == "all" else (what,):
        place, needs, minutes, question = MEASUREMENTS[name]
        missing = [part for part in needs.split() if part not in study.hashes]
        if missing:
            raise MuseError(
                f"{study.muse.folder} has no {missing[0]}, which `musekit eval {name}` measures; "
                f"train it: musekit train {missing[0]}"
            )
        study.on = "valid" if name in ON_VALID else split
        print(f"== {name}: {question} (about {minutes} minutes on two cores; a stopped command goes on)", flush=True)
        module, function = place.split(".")
        study.module, study.parts = f"musekit.evaluate.{module}", needs.split()
        getattr(importlib.import_module(study.module), function)(study)
