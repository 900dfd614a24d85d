"""`musekit train solver`: Stage 2's bespoke solvers (`solve.bespoke`), learned from its own many-step paths.

The teacher is Euler with 100 equal steps at the preset's guidance. Its paths from some noise, for embeddings of
training clips, are kept in the run's folder, and so is every solver that is done: the same command goes on. No network
changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from musekit import flow, solve
from musekit.cache import Shards, read_clips
from musekit.config import MuseError, home
from musekit.files import write_atomic
from musekit.inference.stage2 import Guided2
from musekit.muse import Muse
from musekit.pretrained import read_hashes
from musekit.runs.lock import hold
from musekit.solve import fit, learned
from musekit.stage2 import join

SEED = 700_000  # pair i starts from the noise of seed 700,000 + i


@dataclass(frozen=True)
class Lesson:
    """How much is learned from."""

    budgets: tuple[int, ...] = (4, 6, 8)  # n of each solver
    pairs: int = 64  # paths that are fitted
    held_out: int = 16  # paths that only tell the error
    seconds: float = 6.0  # of each
    steps: int = 100  # of the teacher
    tries: int = 10  # grids tried for each solver
    batch: int = 16  # pairs that the network sees at once


def guided(muse: Muse, embeddings: Tensor, frames: int, interval: tuple[float, float] = (0.0, 1.0)) -> Guided2:
    """The preset's guided velocity for embeddings (B, 512), as sampling makes it."""
    seconds = frames * muse.config.codec.hop / muse.config.codec.sample_rate
    timing = torch.tensor([[0.0, seconds]], device=muse.device).expand(len(embeddings), 2)
    nobody = torch.zeros(len(embeddings), dtype=torch.bool, device=muse.device)
    network, embeddings = muse.stage2, embeddings.to(muse.device)
    both = join(network.condition(embeddings, timing), network.condition(torch.zeros_like(embeddings), timing, nobody))
    return Guided2(muse.prepared2, both, muse.config.sample.guidance_scale, interval)


class Pairs:
    """Noise and the teacher's path for each of n embeddings, in batches that are kept in a folder."""

    def __init__(self, muse: Muse, embeddings: Tensor, lesson: Lesson, folder: Path, start: int = 0, show=print):
        """start: number of the first pair, which names its noise."""
        self.lesson, self.frames = lesson, muse.frames(lesson.seconds)
        self.parts = [slice(k, k + lesson.batch) for k in range(0, len(embeddings), lesson.batch)]
        self.velocities = [guided(muse, embeddings[part], self.frames) for part in self.parts]
        channels, seeds = muse.config.stage2.latent_dim, [SEED + start + i for i in range(len(embeddings))]
        self.x_0 = torch.stack([flow.noise(s, 2, self.frames, channels) for s in seeds]).to(muse.device)
        paths = []
        for part, velocity in zip(self.parts, self.velocities, strict=True):
            name = folder / f"paths-{start + part.start:04d}.safetensors"
            if not name.exists():
                found = solve.solve(velocity, self.x_0[part], steps=lesson.steps, trajectory=True)
                write_atomic(name, save({"path": found.trajectory.half().cpu().contiguous()}))
                show(f"teacher: {start + part.start + len(embeddings[part])} paths")
            paths.append(load(name.read_bytes())["path"])
        self.paths = torch.cat(paths, dim=1)  # (steps + 1, n, C, T) float16

    def path(self, t: float) -> Tensor:
        """Where the teacher is at t, (n, C, T): Euler's path is straight between its steps."""
        at = t * self.lesson.steps
        i = min(int(at), self.lesson.steps - 1)
        one, two = (self.paths[j].float().to(self.x_0.device) for j in (i, i + 1))
        return torch.lerp(one, two, at - i)

    def velocity(self, t: float, x: Tensor) -> Tensor:
        """u (n, C, T) at time t, batch by batch."""
        now = torch.tensor([t], dtype=torch.float64)
        some = zip(self.parts, self.velocities, strict=True)
        return torch.cat([velocity(velocity.at(now)[0], x[part]) for part, velocity in some])

    def error(self, table: solve.Bespoke) -> float:
        """Relative error of a solver at t = 1 over all pairs."""
        some = zip(self.parts, self.velocities, strict=True)
        name = f"bespoke-{table.nfe}"
        x = torch.cat([solve.solve(v, self.x_0[part], solver=name, table=table).x for part, v in some])
        return fit.relative_error(x, self.path(1.0))


def conditions(muse: Muse, cache: Path, n: int) -> Tensor:
    """Embeddings (n, 512) of training clips, in the order of a hash of their ids: any part of them is a fair sample.

    Raises MuseError where the cache has too few.
    """
    if not (cache / "embeddings" / "manifest.json").exists():
        raise MuseError(f"{cache} holds no embeddings, which solvers learn from; run: musekit cache --kinds embeddings")
    shards = Shards(cache / "embeddings")
    clips = [c["id"] for c in read_clips(cache) if c["split"] == "train" and c["id"] in shards]
    if len(clips) < n:
        raise MuseError(f"{cache} holds embeddings of {len(clips)} training clips; solvers learn from {n}")
    clips.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    rows = shards.all(clips[:n])[:, 0].float()
    if rows.shape[1] != muse.config.stage2.embedding_dim:
        raise MuseError(f"{shards.folder} is of another embedder than the {muse.config.name} preset's")
    return torch.nn.functional.normalize(rows, dim=1)


@torch.inference_mode()
def learn(muse: Muse, cache: Path, folder: Path, lesson: Lesson, show: Callable[[str], None] = print) -> dict:
    """The content of solver.json for these weights; what is done already is read from `folder`."""
    from musekit.results import provenance

    weights = read_hashes(muse.folder)["stage2"]
    x = conditions(muse, cache, lesson.pairs + lesson.held_out)
    paths = {k: v for k, v in asdict(lesson).items() if k not in ("budgets", "tries")}
    asked = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    claim = [weights, asked, paths, muse.config.sample.guidance_scale, str(muse.autocast_dtype)]
    folder = folder / hashlib.sha256(json.dumps(claim).encode()).hexdigest()[:16]
    seen, unseen = x[: lesson.pairs], x[lesson.pairs :]
    pairs = Pairs(muse, seen, lesson, folder, show=show)
    others = Pairs(muse, unseen, lesson, folder, start=lesson.pairs, show=show)
    solvers = {}
    for n in lesson.budgets:
        kept = folder / f"bespoke-{n}-of-{lesson.tries}.json"
        if not kept.exists():
            told = lambda i, error, n=n: show(f"bespoke-{n}: grid {i} of {lesson.tries}, error {error:.4f}")  # noqa: E731
            found = fit.search(pairs.velocity, pairs.x_0, pairs.path, n, lesson.tries, told)
            row = {"times": found.table.times, "weights": found.table.weights, "powers": found.powers}
            row |= {"error": found.error, "held_out_error": others.error(found.table)}
            write_atomic(kept, json.dumps(row))
        solvers[str(n)] = json.loads(kept.read_text())
        show(f"bespoke-{n}: relative error {solvers[str(n)]['held_out_error']:.4f} on paths it has not seen")
    about = {"format": 1, "stage2": weights, "guidance_scale": muse.config.sample.guidance_scale}
    about |= {"teacher": f"euler, {lesson.steps} steps", "lesson": asdict(lesson), "solvers": solvers}
    return about | {"provenance": provenance(seed=SEED)}


def train_solver(options, lesson: Lesson | None = None) -> Path:
    """`musekit train solver` with the command's options; returns the file."""
    muse = Muse.from_pretrained(options.init or options.preset)
    folder = Path(options.run_folder or home() / "runs" / f"{options.preset}-{options.part}")
    cache, out = options.cache or home() / "caches" / "scores", options.out or folder / "weights"
    found = read_hashes(out).get("stage2") if (out / "weights.json").exists() else None
    if found not in (None, read_hashes(muse.folder).get("stage2")):
        raise MuseError(f"{out} holds another Stage 2 than {muse.folder}, whose solvers these would be")
    with hold(folder) or contextlib.nullcontext():
        content = learn(muse, cache, folder, lesson or Lesson(), lambda text: print(text, file=sys.stderr))
    path = learned.write(out, content)
    print(f"solver: {path}")
    return path
