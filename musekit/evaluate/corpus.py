"""corpus: what the clips are, how they are split, and under which licences their scores came."""

from __future__ import annotations

from collections import Counter

from musekit.evaluate.subject import Subject, table

SPLITS = ("train", "valid", "test")


def measure_corpus(subject: Subject) -> None:
    """Writes results/corpus.json."""
    clips = subject.clips

    def count(of) -> dict[str, int]:
        """Distinct values of `of(clip)` in each split and in all."""
        row = {split: len({v for c in clips if c["split"] == split for v in of(c)}) for split in SPLITS}
        return row | {"all": len({v for c in clips for v in of(c)})}

    rows = [
        {"measure": "size", "what": "clips", **count(lambda c: [c["id"]])},
        {"measure": "size", "what": "works", **count(lambda c: [c["work"]])},
        {"measure": "size", "what": "works or tune families", **count(lambda c: [c["family"]])},
        {"measure": "size", "what": "instrumentations", **count(lambda c: [c["instrumentation"]])},
        {"measure": "size", "what": "distinct captions", **count(lambda c: [k["text"] for k in c["captions"]])},
    ]
    for field in ("instrumentation", "mode", "speed", "texture", "dynamic", "era", "licence"):
        for value, n in Counter(str(c.get(field)) for c in clips).most_common():
            rows.append({"measure": "count", "field": field, "value": value, "clips": n})
    table(rows[:5], "what", *SPLITS, "all")
    subject.write("corpus", rows)
