"""summary: each bar of the measurements, its value, and whether it is met."""

from __future__ import annotations

from musekit.evaluate.subject import Subject, table
from musekit.results import read_result


def summarise(subject: Subject) -> None:
    """Writes results/summary.json from the result files.

    Raises MuseError where one is missing, or was measured on other weights of a part that it depends on.
    """
    from musekit.config import MuseError
    from musekit.evaluate import NEEDS, WHAT

    rows = []
    for name in WHAT:
        result = read_result(name, subject.results)
        of = result["provenance"]["weights"]
        if any(of.get(part) != subject.hashes.get(part) for part in NEEDS[name]):
            path = subject.results / f"{name}.json"
            raise MuseError(f"{path} was measured on other weights; run `musekit eval {name}` again")
        rows += [{**row, "result": name} for row in result["rows"] if row["measure"] == "bar"]
    table(rows, "result", "name", "value", "bar", "met")
    print(f"{sum(r['met'] for r in rows)} of {len(rows)} bars are met")
    subject.write("summary", rows)
