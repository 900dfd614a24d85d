"""What benches have recorded, for the notebook: rows and a stamp, or one line on what is missing and how to make it."""

from __future__ import annotations

import json
from pathlib import Path

from musekit.bench.measure import Row

ORIGINAL = {  # of the system that MUSE rebuilds, on A800 GPUs, as its report gives them
    "Stage 1, ms a sample": {1: 1667, 4: 442, 8: 239, 16: 111, 32: 50},
    "Stage 2, ms a sample": {1: 9940, 4: 7190, 16: 6670},
    "Stage 1, peak GB": {1: 4.58, 4: 4.58, 8: 4.58, 16: 4.58, 32: 4.58},
    "Stage 2, peak GB": {1: 18.75, 4: 22.22, 16: 36.09},
    "16 samples end to end, s": {1: 185, 16: 108},
}
"""{what: {batch size: value}}; the length of its clips is not told."""


class Recorded:
    """One result file: `rows`, empty where there is none, `stamp` for figures, and `notice` for the reader."""

    def __init__(self, what: str, folder: Path | str = "results", gpu: bool = False):
        name = file_name(what, gpu)
        self.command = f"`musekit bench {what}`" + (" on a machine with a GPU" if gpu else "")
        try:
            content = json.loads((Path(folder) / f"{name}.json").read_text())
            self.rows, about = content["rows"], content["provenance"]
        except (OSError, ValueError, KeyError):
            self.rows, self.stamp, self.ceilings = [], "", {}
            self.notice = f"NOT MEASURED: {self.command} writes results/{name}.json, which is not here."
            return
        on = about["hardware"]
        machine = on["gpus"][0] if gpu else f"{on['cpu']}, {on['threads']} threads"
        self.ceilings = about.get("ceilings", {})
        self.stamp = (
            f"recorded {about['time'][:10]} on {machine}, commit {about.get('commit', 'unknown')[:7]}: {name}.json"
        )
        self.notice = (
            f"RECORDED by {self.command} ({about['time'][:10]}, {machine}, load {about['load']:.1f} at the start)."
        )
        if note := about.get("note"):
            self.stamp, self.notice = f"{self.stamp} ({note})", f"{self.notice} NOTE: {note}."

    def __bool__(self) -> bool:
        return bool(self.rows)

    def where(self, **wanted) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())]


def frame(rows: list[dict], digits: int = 2):
    """Rows as a table to be shown; None, which shows nothing, where there are none."""
    import pandas as pd

    return pd.DataFrame(rows).round(digits).fillna("") if rows else None


def file_name(what: str, gpu: bool) -> str:
    """Name of a bench's result, without .json: a GPU's never replaces a CPU's."""
    return ("bench" if what == "end-to-end" else f"bench-{what}") + ("-gpu" if gpu else "")
