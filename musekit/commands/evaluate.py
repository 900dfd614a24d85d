"""`musekit eval`: how good the system is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from musekit.arguments import CACHES
from musekit.config import home
from musekit.evaluate import GROUPS

WHAT = f"{', '.join(GROUPS['all'])}; all: these. ablations: {', '.join(GROUPS['ablations'])}."
WHAT += " gallery: the poster's pictures."


@dataclass
class Evaluate:
    """Measure the system on held-out works and wordings; writes results/<what>.json with provenance.

    The same command goes on where it was stopped. For example:

        musekit eval codec
        musekit eval one-to-many
        musekit eval ablation-ema
        musekit eval prompts --n 24 --results quick
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[WHAT]", help=WHAT)] = "all"
    weights: str = "mini"
    """Folder of weights, or a packaged name."""
    cache: Annotated[Path | None, CACHES] = None
    """The cache with the held-out clips."""
    results: Path = Path("results")
    """Where the result files go."""
    n: int = 240
    """Generated clips of the measurements that generate."""
    quick: bool = False
    """Tiny sizes that only test the machinery."""

    def run(self) -> None:
        from musekit.evaluate import evaluate

        cache = self.cache or home() / "caches" / "scores"
        evaluate(self.what, self.weights, cache, self.results, self.n, self.quick)
