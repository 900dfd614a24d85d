"""What was found, in sentences for the README: numbers come from results, and a sentence they deny is refused."""

from __future__ import annotations

from collections.abc import Callable

TEXT = """\
- **One prompt has many right answers, and MUSE gives them in their variety.** Samples of a vague prompt lie {vague}
  apart on average in the joint embedding, the held-out clips that fit it {vague_real}; of a specific prompt {specific}
  and {specific_real}. (Unrelated unit vectors: 1.41.)
- **Regression has no right answer to give.** Its one embedding for a vague prompt lies {regression} from the nearest
  training clip, samples of the flow {samples}, held-out clips that fit {real}.
- **A batch pays where a weight meets few rows.** Four samples of Stage 1 together are {gain1} times as fast as one by
  one (sixteen: {gain16}), four of Stage 2 {gain2} times: its samples have a hundred tokens each, Stage 1's have one.
  [Notebook 4](notebooks/04_parallel_benchmarks.ipynb) tells why.
- **It reproduces, and is quick.** The same recipe gives the same bits, alone or in any company; music comes {pace}
  times faster than it plays, on two CPU cores.
"""


def row(rows: list[dict], **wanted) -> dict:
    """The first row that has all of these values."""
    return next(r for r in rows if wanted.items() <= r.items())


def claim(holds: bool, sentence: str) -> None:
    """Raises ValueError for a sentence that the results no longer support: write it anew."""
    if not holds:
        raise ValueError(f"the results do not say: {sentence}; change that sentence where it is written, in scripts/")


def text(result: Callable[[str], list[dict]]) -> str:
    """The paragraph; `result(name)` gives the rows of a result file. Raises ValueError where a claim does not hold."""
    vague, specific = (row(result("diversity"), measure="mean", level=level) for level in ("vague", "specific"))
    means = {"measure": "mean", "level": "vague"}
    gaps = {k: row(result("regression"), **means, name=f"{k}_to_nearest") for k in ("regression", "samples", "real")}
    value = {r["what"]: r["value"] for r in result("bench")}
    gain1, gain16 = (value["Stage 1, micro-batch 1"] / value[f"Stage 1, micro-batch {n}"] for n in (4, 16))
    gain2 = 4 * value["1 x 12 s, warm: embedding to latents"] / value["4 x 12 s, warm: embedding to latents"]
    pace = value["4 x 12 s, warm: sound a second of work"]
    alone = row(result("path"), name="interpolation: paths whose ends sound as the ends alone, to the bit")
    right_width = all(0.8 <= level["spread"] / level["real"] <= 1.2 for level in (vague, specific))
    claim(right_width and vague["spread"] > specific["spread"], "samples vary as right answers do")
    claim(gaps["regression"]["low"] > gaps["samples"]["high"], "regression lies farther from music than samples do")
    claim(gain1 > 1.2 * gain2, "a batch pays more in Stage 1 than in Stage 2")
    claim(alone["met"] and pace > 1, "the same recipe gives the same bits, faster than it plays")
    numbers = {"vague": vague["spread"], "vague_real": vague["real"]}
    numbers |= {"specific": specific["spread"], "specific_real": specific["real"]}
    told = {name: f"{number:.2f}" for name, number in (numbers | {k: g["mean"] for k, g in gaps.items()}).items()}
    gains = {"gain1": f"{gain1:.1f}", "gain16": f"{gain16:.1f}", "gain2": f"{gain2:.1f}"}
    return TEXT.format(**told, **gains, pace=f"{pace:.0f}")
