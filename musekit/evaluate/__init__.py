"""`musekit eval`: each measurement is a function that writes results/<name>.json with provenance and prints its rows.

The measurements are in the table `MEASUREMENTS`; `gallery` measures nothing, it makes pictures for the poster.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from musekit.config import MuseError, suggest

SYSTEM = "codec embedder stage1 stage2"
MEASUREMENTS = {  # name: (module.function, the parts of the system that it needs, what it answers)
    "corpus": ("study.measure_corpus", "", "the clips and their splits"),
    "codec": ("codec.measure_codec", "codec", "how much of a clip survives the codec?"),
    "embedder": ("prompts.measure_embedder", "codec embedder", "zero-shot attributes"),
    "prompts": ("prompts.measure_prompts", SYSTEM, "do generated clips sound as their prompts ask?"),
    "memorisation": ("distances.measure_memorisation", SYSTEM, "distance to the nearest training clip"),
    "distances": ("distances.measure_distances", SYSTEM, "kernel distance, precision and recall"),
    "one-to-many": ("conditional.measure_one_to_many", "embedder stage1 regression", "samples among right answers"),
    "guidance": ("guidance.measure_guidance", SYSTEM, "guidance and steps against quality and diversity"),
}
QUICK = 4  # generated clips with quick=True


def evaluate(
    what: str, weights: str | Path, cache: Path, results: Path = Path("results"), n: int = 240, quick: bool = False
) -> None:
    """Make one measurement, or `all` of them. The same command goes on where it was stopped.

    n: clips of the measurements that generate. quick: tiny sizes, for tests. Raises MuseError for an unknown
    measurement, a missing cache or missing weights.
    """
    known = (*MEASUREMENTS, "all", "gallery")
    if what not in known:
        raise suggest(what, known, "measurement")
    if n < 2:
        raise MuseError(f"n, the number of generated clips, must be 2 or more, not {n!r}")
    if what == "gallery":
        from musekit.evaluate.gallery import gallery

        print(f"written: {gallery(weights, results)}")
        return
    from musekit.evaluate.study import Study

    study = Study(weights, cache, results, min(n, QUICK) if quick else n, quick)
    for name in MEASUREMENTS if what == "all" else (what,):
        place, needs, question = MEASUREMENTS[name]
        missing = [part for part in needs.split() if part not in study.hashes]
        if missing:
            raise MuseError(
                f"{study.muse.folder} has no {missing[0]}, which `musekit eval {name}` measures; "
                f"train it: musekit train {missing[0]}"
            )
        print(f"== {name}: {question}")
        module, function = place.split(".")
        getattr(importlib.import_module(f"musekit.evaluate.{module}"), function)(study)
