"""judge: how often the judge is right about held-out originals, and about their codec round trips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.evaluate.judge import ATTRIBUTES, value_of
from musekit.evaluate.subject import Subject, table
from musekit.statistics import accuracy

HELD_OUT = ("valid", "test")  # neither split's works were heard when the judge was fitted
ROUND_TRIPS = 240  # held-out clips that are also heard through the codec, as many as are generated


def verdicts(subject: Subject, records: Sequence[dict], heard: Sequence[dict], source: str) -> list[dict]:
    """One accuracy row an attribute; `records` say what is true, where it is known."""
    said = subject.judge.judge(heard)
    rows = []
    for attribute in ATTRIBUTES:
        truth = [value_of(r, attribute) for r in records]
        right = np.array([s == t for s, t in zip(said[attribute], truth) if t is not None], bool)
        rows.append({"measure": "accuracy", "attribute": attribute, "source": source, **accuracy(right)})
    return rows


def confusion(subject: Subject, records: Sequence[dict], heard: Sequence[dict], source: str) -> list[dict]:
    """A row for each true instrument: {judged instrument: count}."""
    said, rows = subject.judge.judge(heard)["instrument"], {}
    for record, judged in zip(records, said):
        if true := value_of(record, "instrument"):
            rows.setdefault(true, {}).setdefault(str(judged), 0)
            rows[true][str(judged)] += 1
    return [{"measure": "confusion", "source": source, "true": t, "judged": rows[t]} for t in sorted(rows)]


def like_prompts(subject: Subject) -> list[dict]:
    """Held-out clips that are what the prompts ask for: single instruments, major or minor, slow or fast."""
    clips = subject.singles(*HELD_OUT)
    return [c for c in clips if value_of(c, "mode") and value_of(c, "speed")][:ROUND_TRIPS]


def references(subject: Subject) -> list[dict]:
    """Accuracy rows of held-out originals and of their round trips."""
    clips = subject.singles(*HELD_OUT)
    rows = verdicts(subject, clips, subject.hear_clips(clips), "held-out originals")
    if "codec" in subject.hashes:
        some = like_prompts(subject)
        rows += verdicts(subject, some, subject.hear_round_trips(some), "held-out round trips")
    return rows


def rate_of(rows: Sequence[dict], attribute: str, source: str) -> float | None:
    """The accuracy of that attribute and source."""
    found = [r for r in rows if r["measure"] == "accuracy" and (r["attribute"], r["source"]) == (attribute, source)]
    return found[0]["accuracy"] if found else None


def ratio(value: float | None, of: float | None) -> float | None:
    """value / of, None when either is unknown or zero."""
    return value / of if value is not None and of else None


def measure_judge(subject: Subject) -> None:
    """Writes results/judge.json."""
    rows = references(subject)
    clips = subject.singles(*HELD_OUT)
    rows += confusion(subject, clips, subject.hear_clips(clips), "held-out originals")
    table([r for r in rows if r["measure"] == "accuracy"], "attribute", "source", "n", "accuracy", "low", "high")
    subject.write("judge", rows)
