"""Evaluation: each measurement is a file, writes results/<what>.json with provenance, and prints its tables.

corpus       what the clips are, their splits and licences
judge        the judge's own ceiling on held-out originals and their codec round trips
codec        chroma and mel fidelity of round trips; do they keep what the judge hears?
embedder     zero-shot attributes and text-to-audio retrieval in held-out wordings
prompts      generated clips: is what was asked for heard? Are they notes, or texture?
render-true  the same of Stage 2 alone, from true embeddings
diversity    spread of Stage 1's samples against the spread of right answers
regression   what the mean of many right answers is worth
memorisation distance to the nearest training clip, generated against held-out
all          every one of these, in this order, then results/summary.json
"""

from __future__ import annotations

from pathlib import Path

from musekit.config import MuseError, suggest

WHAT = ("corpus", "judge", "codec", "embedder", "prompts", "render-true", "diversity", "regression", "memorisation")
#: Parts of the system without which a measurement cannot be made.
NEEDS = {
    "corpus": (),
    "judge": (),
    "codec": ("codec",),
    "embedder": ("embedder",),
    "prompts": ("codec", "embedder", "stage1", "stage2"),
    "render-true": ("codec", "embedder", "stage2"),
    "diversity": ("embedder", "stage1"),
    "regression": ("embedder", "stage1", "regression"),
    "memorisation": ("codec", "embedder", "stage1", "stage2"),
}


def evaluate(what: str, weights: str | Path, cache: Path, results: Path = Path("results"), n: int = 240) -> None:
    """Make one measurement, or "all" of them. The same command goes on where it was stopped.

    n: clips of the measurements that generate. Raises MuseError for an unknown measurement, a missing cache or
    missing weights.
    """
    from musekit.evaluate import ceiling, codec, corpus, diversity, embedder, memorisation, obeyed, regression, summary
    from musekit.evaluate.subject import Subject

    if what not in (*WHAT, "all"):
        raise suggest(what, (*WHAT, "all"), "measurement")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise MuseError(f"n, the number of generated clips, must be 1 or more, not {n!r}")
    measures = {
        "corpus": corpus.measure_corpus,
        "judge": ceiling.measure_judge,
        "codec": codec.measure_codec,
        "embedder": embedder.measure_embedder,
        "prompts": obeyed.measure_prompts,
        "render-true": obeyed.measure_render_true,
        "diversity": diversity.measure_diversity,
        "regression": regression.measure_regression,
        "memorisation": memorisation.measure_memorisation,
    }
    subject = Subject(weights, cache, results, n)
    for name in WHAT if what == "all" else (what,):
        missing = [part for part in NEEDS[name] if part not in subject.hashes]
        if missing:
            raise MuseError(
                f"{subject.muse.folder} has no {missing[0]}, which `musekit eval {name}` measures; "
                f"train it: musekit train {missing[0]}"
            )
        print(f"== {name}")
        measures[name](subject)
    if what == "all":
        summary.summarise(subject)
