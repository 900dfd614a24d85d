"""`musekit eval`: how good the system is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from musekit.arguments import CACHES, optional
from musekit.config import home

WHAT = (
    "corpus, judge, codec, embedder, prompts, render-true, diversity, regression, memorisation, distances, "
    "one-to-many, guidance or path; all: these, one after the other; summary, their bars. Beside them: folder; "
    "ablations, or one of them: ablation-guidance, -solver, -ema, -cache, -noise, -data; few-step, solvers of few "
    "steps; gallery, the poster's pictures."
)


@dataclass
class Evaluate:
    """Measure the system on held-out works and wordings; writes results/<what>.json with provenance.

    Or measure any folder of audio against another one, or against held-out clips. The same command goes on where it
    was stopped. For example:

        musekit eval codec
        musekit eval one-to-many
        musekit eval folder --audio my-music --reference their-music
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
    audio: Annotated[Path | None, optional("DIR", "none")] = None
    """The folder of audio that `folder` measures."""
    reference: Annotated[Path | None, optional("DIR", "the cache's held-out clips")] = None
    """What `folder` compares it with: a folder of audio, or a cache."""
    seconds: Annotated[float | None, optional("FLOAT", "the folder's median, at most 12")] = None
    """How much of each file `folder` measures."""
    quick: bool = False
    """Tiny sizes that only test the machinery."""

    def run(self) -> None:
        from musekit.evaluate import evaluate

        cache, of_folder = self.cache or home() / "caches" / "scores", (self.audio, self.reference, self.seconds)
        evaluate(self.what, self.weights, cache, self.results, self.n, *of_folder, self.quick)
