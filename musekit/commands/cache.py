"""`musekit cache`: clips, captions, and what networks read of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from musekit.arguments import optional
from musekit.config import home


@dataclass
class Cache:
    """Build or complete a cache: clips, captions, and what networks read of them. The same command resumes.

    For example, the scores of music21 as sound, then what each network learns from; a folder of your own; a data set
    as it was published; the same by four processes, each on its GPU, or by a Slurm array:

        musekit cache --n 12000 --kinds clips tokens spectra views
        musekit cache --kinds latents embeddings --weights my-weights --remake
        musekit cache --data my-music --out my-cache
        musekit cache --corpus musicbench --data /data/MusicBench --preset paper
        torchrun --nproc-per-node 4 -m musekit cache --corpus musicbench --preset paper --kinds latents embeddings
        musekit cache --preset paper --estimate

    Data sets: musicbench, music4all, musiccaps, songdescriber; a folder's content says which it holds. Audio stays
    where it is. SIGUSR1, SIGTERM or Ctrl-C: the shard in hand is finished and saved; exit code 75 (Ctrl-C: 130); the
    same command goes on.
    """

    corpus: Annotated[str | None, optional("NAME", "what --data holds, else scores")] = None
    """scores (music21's, rendered), musicbench, music4all, musiccaps, songdescriber, folder, or a folder's path."""
    data: Annotated[Path | None, optional("FOLDER", "none")] = None
    """The data set's folder as unpacked, or audio with captions (CSV, JSONL or sidecar .txt)."""
    out: Annotated[Path | None, optional("PATH", "caches/<corpus> under MUSEKIT_HOME")] = None
    """The cache's folder."""
    n: int = 12_000
    """Clips of 12 s to render from the scores."""
    seconds: Annotated[float | None, optional("FLOAT", "the preset's window")] = None
    """Longest clip; longer recordings are cut into several."""
    keep_apart: bool = True
    """Keep clips of AudioSet's evaluation set, which is MusicCaps' test set, out of MusicBench's training split."""
    kinds: tuple[Literal["plan", "clips", "tokens", "spectra", "views", "latents", "embeddings", "transposed"], ...] = (
        "clips",
        "tokens",
    )
    """What to make: clips first (plan: a file of their notes, which a machine without music21 can render), latents and
    embeddings (transposed: in ten other keys) only with trained weights."""
    preset: str = "mini"
    """Whose front ends and encoders to use."""
    weights: str = "mini"
    """Folder of trained weights, for latents and embeddings."""
    workers: int = 2
    """Processes; beside a GPU, threads that read ahead."""
    seed: int = 0
    """Of the plan of clips."""
    remake: bool = False
    """Make again what other weights or settings have made; without it that is a mistake, told before any work."""
    verify: bool = False
    """Look at every finished shard, and make those again that differ from their hash."""
    estimate: bool = False
    """Make nothing: measure this machine for some minutes, tell hours, GB and files for MusicBench and Music4All."""
    results: Path = Path("results")
    """Where --estimate writes cache-estimate-<preset>.json."""

    def folder(self) -> Path:
        """The cache's folder."""
        name = Path(self.corpus or self.data or "scores")
        return self.out or home() / "caches" / name.expanduser().resolve().name  # also of ".", which has none

    def run(self) -> None:
        if self.estimate:
            from musekit.cache.estimate import estimate

            estimate(self.preset, self.results)
            return
        from musekit.cache.build import build_cache

        build_cache(self)
