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
distances    kernel and Frechet distance, precision, recall, coverage of generated clips against held-out ones
one-to-many  right answers, samples and regression's answer for prompts from vague to specific; how they sound
guidance     guidance scale and steps against quality and diversity, of both stages
path         is the way between two embeddings heard as a way?
all          every one of these, in this order, then the summary
summary      the bars of those that were made, from their results: which are met?

few-step     bespoke and plain solvers of few evaluations, guidance on an interval: what they save, what they cost
folder       the distances of any folder of audio against another one, or against held-out clips
ablation-*   what each design decision is worth, on a small model: see `ablations`; "ablations" is all of them

`gallery` is no measure: it draws one prompt's answers for the poster, and needs no cache.
"""

from __future__ import annotations

from pathlib import Path

from musekit.config import MuseError, suggest

WHAT = (
    "corpus", "judge", "codec", "embedder", "prompts", "render-true", "diversity", "regression", "memorisation",
    "distances", "one-to-many", "guidance", "path",
)  # fmt: skip
QUICK = 4  # generated clips of a measurement made with quick=True
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
    "distances": ("codec", "embedder", "stage1", "stage2"),
    "one-to-many": ("codec", "embedder", "stage1", "regression", "stage2"),
    "guidance": ("codec", "embedder", "stage1", "stage2"),
    "path": ("codec", "embedder", "stage1", "stage2"),
    "few-step": ("codec", "embedder", "stage1", "stage2"),
    "folder": ("embedder",),
    "ablation-guidance": ("embedder",),
    "ablation-solver": ("embedder", "stage1", "stage2"),
    "ablation-ema": ("embedder",),
    "ablation-cache": ("embedder",),
    "ablation-noise": ("embedder",),
    "ablation-data": ("embedder",),
}


def evaluate(
    what: str,
    weights: str | Path,
    cache: Path,
    results: Path = Path("results"),
    n: int = 240,
    audio: Path | None = None,
    reference: Path | None = None,
    seconds: float | None = None,
    quick: bool = False,
) -> None:
    """Make one measurement, or "all" of them, or "ablations". The same command goes on where it was stopped.

    n: clips of the measurements that generate. audio, reference, seconds: what "folder" compares. quick: tiny sizes,
    for tests. Raises MuseError for an unknown measurement, a missing cache or missing weights.
    """
    from musekit.evaluate.ablations import ABLATIONS
    from musekit.evaluate.subject import Subject

    known = (*WHAT, "all", "summary", "few-step", "folder", *ABLATIONS, "ablations", "gallery")
    if what not in known:
        raise suggest(what, known, "measurement")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise MuseError(f"n, the number of generated clips, must be 1 or more, not {n!r}")
    if what == "folder" and audio is None:
        raise MuseError("say which folder: musekit eval folder --audio DIR")
    if what != "folder" and any(option is not None for option in (audio, reference, seconds)):
        raise MuseError(f"--audio, --reference and --seconds belong to `musekit eval folder`, not to {what}")
    if what == "gallery":
        from musekit.evaluate.gallery import gallery

        print(f"written: {gallery(weights, results)}")
        return
    there = cache if what != "folder" or (cache / "clips.jsonl").exists() else None
    subject = Subject(weights, there, results, min(n, QUICK) if quick else n, quick)
    for name in {"all": WHAT, "summary": (), "ablations": ABLATIONS}.get(what, (what,)):
        missing = [part for part in NEEDS[name] if part not in subject.hashes]
        if missing:
            raise MuseError(
                f"{subject.muse.folder} has no {missing[0]}, which `musekit eval {name}` measures; "
                f"train it: musekit train {missing[0]}"
            )
        print(f"== {name}")
        measure(subject, name, audio, reference, seconds)
    if what in ("all", "summary"):
        from musekit.evaluate.summary import summarise

        summarise(subject)


def measure(subject, name: str, audio: Path | None, reference: Path | None, seconds: float | None) -> None:
    """Make the one measurement of that name."""
    from musekit.evaluate import (
        ceiling,
        codec,
        corpus,
        distances,
        diversity,
        embedder,
        few_step,
        folder,
        guidance,
        memorisation,
        obeyed,
        one_to_many,
        path,
        regression,
    )
    from musekit.evaluate.ablations import ABLATIONS, ablate

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
        "distances": distances.measure_distances,
        "one-to-many": one_to_many.measure_one_to_many,
        "guidance": guidance.measure_guidance,
        "path": path.measure_path,
        "few-step": few_step.measure_few_step,
    }
    if name == "folder":
        folder.measure_folder(subject, audio, reference, subject.cache, seconds)
    elif name in ABLATIONS:
        ablate(subject, name)
    elif subject.quick and name in ("diversity", "regression"):
        measures[name](subject, first=2, n=4)
    else:
        measures[name](subject)
