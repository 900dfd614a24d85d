"""`musekit bench end-to-end`: how fast this machine makes music, and how near that is to what its matrix units can do.

One row a measurement: the median of its runs, the least and the most, its bar where the design sets one, and how it
was taken.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from musekit.bench.measure import RUNS, Row, now, row, timed
from musekit.bench.roofline import matrix_rate, stage2_flops
from musekit.config import MuseError
from musekit.muse import Muse, Settings
from musekit.stage2 import GuidedStage2

PROMPT, BATCHES = "a sad piano melody", (1, 4, 16, 64)
STAGES = ("text to embedding", "embedding to latents", "latents to sound", "similarity")


def end_to_end(
    weights: str, muse: Muse, seconds: float, tell: Callable[[Row], object] = print, quick: bool = False
) -> list[Row]:
    """All rows; each is told as soon as it is measured. quick: single runs."""
    rows: list[Row] = []
    runs = 1 if quick else RUNS
    parts = (
        lambda: cold(weights, seconds, runs),
        lambda: warm(muse, 4, seconds, None, runs),
        lambda: warm(muse, 1, seconds, 1, runs),
        lambda: stage1(muse),
        lambda: stage2_floor(muse, seconds),
    )
    for part in parts:
        for result in part():
            rows.append(result)
            tell(result)
    return rows


def cold(weights: str, seconds: float, runs: int = RUNS) -> list[Row]:
    """A fresh process each time, as `make demo` starts one: seconds until the first WAV lies on the disk."""
    first, end = [], []
    weights = str(Path(weights).resolve()) if Path(weights).exists() else weights
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "musekit", "generate", PROMPT, "--weights", weights]
            command += ["--seconds", str(seconds), "--out", folder]
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            with process:
                for line in process.stdout:
                    if line.startswith("first sound"):
                        first.append(time.perf_counter() - began)
            end.append(time.perf_counter() - began)
            if process.returncode or len(first) != len(end):
                raise MuseError(
                    f"`musekit generate` failed with exit code {process.returncode}; run it by hand to see why"
                )
    name = f"4 x {seconds:g} s, cold process"
    how = "from the start of `musekit generate` in a fresh process, files in the disk cache"
    return [
        row(f"{name}: first sound", first, "s", how, ("<", 30)),
        row(f"{name}: all files and the contact sheet", end, "s", how),
    ]


def warm(muse: Muse, n: int, seconds: float, micro_batch: int | None, runs: int = RUNS) -> list[Row]:
    """n pieces from a loaded system: seconds of sound a second of work, and where the time goes."""
    settings = Settings(seconds=seconds, micro_batch=micro_batch)
    walls, stages = [], []
    for i in range(runs + 1):
        recipes = [muse.recipe(PROMPT, 100 * i + k, settings) for k in range(n)]
        seen, muse.timings = {}, {}

        def on_step(stage: str, step: int, _: int, seen=seen) -> None:
            seen.setdefault((stage, step), now(muse.device))

        began = now(muse.device)
        for _ in muse.stream(recipes, on_step):
            pass
        wall = now(muse.device) - began
        latents = seen["codec", 0] - began - muse.timings["stage1"]
        sound = muse.timings["stage2 and codec"] - latents
        if i:  # the first run loads and warms up
            walls.append(wall)
            stages.append((muse.timings["stage1"], latents, sound, muse.timings["similarity"]))
    name, at = f"{n} x {seconds:g} s, warm", recipes[0]
    how = f"{at.stage1_solver} {at.stage1_steps} + {at.stage2_solver} {at.stage2_steps} steps, guidance "
    how += f"{at.guidance_scale:g}, micro-batch {at.micro_batch}"
    rate = row(f"{name}: sound a second of work", [n * seconds / w for w in walls], "x real time", how, (">", 1))
    if n == 1:
        rate |= {"bar": None, "met": None}
    rows = [rate, row(f"{name}: wall time", walls, "s", how)]
    return rows + [row(f"{name}: {stage}", times, "s", how) for stage, times in zip(STAGES, zip(*stages), strict=True)]


def stage1(muse: Muse) -> list[Row]:
    """Stage 1's milliseconds a sample at growing micro-batches, the text encoder's one run included."""
    rows = []
    for size in BATCHES:
        recipes = [muse.recipe(PROMPT, seed, Settings(micro_batch=size)) for seed in range(size)]
        times = timed(lambda recipes=recipes: muse.embed_rows(recipes), muse.device)
        how = f"{recipes[0].stage1_solver}, {recipes[0].stage1_steps} steps"
        rows.append(row(f"Stage 1, micro-batch {size}", [1000 * t / size for t in times], "ms a sample", how))
    return rows


def stage2_floor(muse: Muse, seconds: float) -> list[Row]:
    """One guided evaluation of four pieces beside the time that its matrix products alone would take."""
    config, frames, device = muse.config.stage2, muse.frames(seconds), muse.device
    rows = 2 * muse.config.sample.micro_batch
    flops = stage2_flops(config, rows, frames)
    with torch.inference_mode():
        held = torch.zeros(rows, config.embedding_dim, device=device)
        condition = muse.stage2.condition(held, torch.tensor([[0.0, seconds]], device=device).expand(rows, 2))
        x = torch.randn(rows, config.latent_dim, frames, device=device)
        velocity = GuidedStage2(muse.inference2, condition, 1.0)
        moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
        measured = timed(lambda: velocity(moment, x), device, 7)
        tokens, inner = rows * (-(-frames // config.patch) + 1), int(config.ff_mult * config.width)
        own = matrix_rates(muse, tokens, config.width, 2 * inner)
        square = matrix_rates(muse, 2048, 2048, 2048)
    name, how = f"Stage 2, one evaluation of {rows} rows", f"{frames} frames, {str(muse.autocast_dtype)[6:]}"
    floor = [flops / rate for rate in own]
    return [
        row(f"{name}: work, counted by hand", [flops / 1e9], "GFLOP", how),
        row("matrix rate, the feed-forward's shape", [r / 1e9 for r in own], "GFLOP/s", how),
        row("matrix rate, 2048 x 2048 x 2048", [r / 1e9 for r in square], "GFLOP/s", how),
        row(f"{name}: floor, work / rate of that shape", [1000 * f for f in floor], "ms", how),
        row(f"{name}: measured", [1000 * m for m in measured], "ms", how),
        row(f"{name}: floor / measured", [sorted(floor)[3] / m for m in measured], "of the floor's speed", how),
    ]


def matrix_rates(muse: Muse, m: int, k: int, n: int) -> list[float]:
    """Operations a second of (m, k) @ (k, n) in the precision of Stage 2, seven times."""
    return [matrix_rate(muse.device, muse.autocast_dtype, m, k, n, runs=1) for _ in range(7)]
