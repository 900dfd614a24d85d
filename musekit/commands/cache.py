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

    For example: the scores of music21, rendered, and what the mini networks learn from; a folder of your own; a
    published dataset; the same by four processes, each on its GPU (slurm/cache.sh: by an array of jobs):

        musekit cache --n 12000 --kinds clips tokens spectra views
        musekit cache --kinds latents embeddings --weights my-weights --remake
        musekit cache --data my-music --out my-cache
        musekit cache --corpus musicbench --data /data/MusicBench --preset paper
        torchrun --nproc-per-node 4 -m musekit cache --corpus musicbench --preset paper --kinds latents embeddings

    A folder's content says which dataset it holds. Audio stays where it is. On SIGUSR1, SIGTERM or Ctrl-C the current
    shard is finished and saved, and the exit code is 75 (Ctrl-C: 130); the same command goes on.
    """

    corpus: Annotated[str | None, optional("NAME", "what --data holds, else scores")] = None
    """scores (music21's, rendered), musicbench, music4all, folder, or a folder's path."""
    data: Annotated[Path | None, optional("FOLDER", "none")] = None
    """The dataset's folder as unpacked, or audio with captions (CSV, JSONL or sidecar .txt)."""
    out: Annotated[Path | None, optional("PATH", "caches/<corpus> under MUSEKIT_HOME")] = None
    """The cache's folder."""
    n: int = 12_000
    """Clips of 12 s to render from the scores."""
    seconds: Annotated[float | None, optional("FLOAT", "the preset's window")] = None
    """Longest clip; longer recordings are cut into several."""
    keep_apart: bool = True
    """Keep clips of AudioSet's evaluation set, which is MusicCaps' test set, out of MusicBench's training split."""
    kinds: tuple[Literal["clips", "tokens", "spectra", "views", "latents", "embeddings", "transposed"], ...] = (
        "clips",
        "tokens",
    )
    """What to compute. Latents and embeddings (transposed: in ten other keys) need trained weights."""
    preset: str = "mini"
    """The preset whose encoders are used."""
    weights: str = "mini"
    """Folder of trained weights, for latents and embeddings."""
    workers: int = 2
    """Processes; with a GPU, threads that read ahead."""
    share: str = "0/1"
    """INDEX/COUNT: this command computes one of COUNT shares of the rows; slurm/cache.sh sets it in an array."""
    seed: int = 0
    """Seed of the plan of clips."""
    remake: bool = False
    """Replace rows of other weights or settings; without this option they are an error."""
    verify: bool = False
    """Hash every finished shard, and replace those that differ from their hash."""

    def folder(self) -> Path:
        """The cache's folder."""
        name = Path(self.corpus or self.data or "scores")
        return self.out or home() / "caches" / name.expanduser().resolve().name  # also of ".", which has none

    def run(self) -> None:
        from musekit.cache.build import build_cache

        build_cache(self)
