"""`musekit bench`: how fast the system is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from musekit.arguments import optional
from musekit.config import MuseError


@dataclass
class Bench:
    """Time the system on this machine; writes results/bench-<what>.json (end-to-end: bench.json) with provenance.

    Give it the machine for itself: whatever else runs is measured too. For example:

        musekit bench
        musekit bench stage1
        musekit bench sizes --quick
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[WHAT]")] = "end-to-end"
    """end-to-end, stage1, stage2, full, train, batch, sizes, memory, ddp or lab."""
    weights: Annotated[str | None, optional("FOLDER", "mini")] = None
    """Folder of weights, or a packaged name, for end-to-end, batch, memory and lab; none: batch and memory without
    their rows of a trained preset."""
    results: Path = Path("results")
    """Where the result file goes."""
    quick: bool = False
    """Tiny networks and single runs, only to see that everything runs."""

    def run(self) -> None:
        from musekit.bench import BENCHES, READ, bench

        if self.weights is not None and self.what in BENCHES and self.what not in READ:
            raise MuseError(
                f"`musekit bench {self.what}` times networks of random weights and reads none: leave --weights out, or"
                f" name one of {', '.join(READ)}"
            )
        bench(self.what, "mini" if self.weights is None else self.weights, self.results, self.quick)
