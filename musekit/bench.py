"""`musekit bench`: how fast this machine makes music, and how near that is to what its matrix units can do.

One row a measurement: the median of its runs, the least and the most, its bar where the design sets one, and how it
was taken. Nothing else should run meanwhile; the load at the start is written down.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from musekit.config import MuseError, Stage2Config
from musekit.runs import write_result
from musekit.sample import Muse, Settings

PROMPT, RUNS, BATCHES = "a sad piano melody", 3, (1, 4, 16, 64)
STAGES = ("text to embedding", "embedding to latents", "latents to sound", "similarity")
Row = dict[str, object]


def bench(weights: str, results: Path, seconds: float | None = None) -> list[Row]:
    """Measure, print and write results/bench.json; returns its rows. Raises MuseError on bad weights or folder."""
    load = os.getloadavg()[0]
    muse = Muse.from_pretrained(weights)
    seconds = seconds or muse.config.sample.seconds
    rows: list[Row] = []
    parts = (
        lambda: cold(weights, seconds),
        lambda: warm(muse, 4, seconds, None),
        lambda: warm(muse, 1, seconds, 1),
        lambda: stage1(muse),
        lambda: stage2_floor(muse, seconds),
    )
    for part in parts:
        for result in part():
            rows.append(result)
            print(f"{result['what']:58s} {result['value']:10.3g} {result['unit']}", flush=True)
    more = {"preset": muse.config.name, "weights": muse.weights, "load": load, "seconds": seconds}
    more |= {"dtype": str(muse.autocast_dtype).removeprefix("torch."), "device": str(muse.device)}
    if muse.config.name == "smoke":
        more["note"] = "smoke preset: random weights of a tiny network; these are not MUSE's speeds"
    print(f"written: {write_result('bench', rows, results, **more)}")
    return rows


def row(what: str, values: Sequence[float], unit: str, how: str, bar: tuple[str, float] | None = None) -> Row:
    """One measurement: the median of `values` and their range; bar = (">" or "<", limit)."""
    middle = sorted(values)[len(values) // 2]
    met = None if bar is None else (middle > bar[1] if bar[0] == ">" else middle < bar[1])
    shown = None if bar is None else f"{bar[0]} {bar[1]:g}"
    span = {"least": min(values), "most": max(values), "runs": len(values)}
    return {"what": what, "value": middle, "unit": unit, **span, "bar": shown, "met": met, "how": how}


def cold(weights: str, seconds: float) -> list[Row]:
    """A fresh process each time, as `make demo` starts one: seconds until the first WAV lies on the disk."""
    first, end = [], []
    weights = str(Path(weights).resolve()) if Path(weights).exists() else weights
    for _ in range(RUNS):
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


def warm(muse: Muse, n: int, seconds: float, micro_batch: int | None) -> list[Row]:
    """n pieces from a loaded system: seconds of sound a second of work, and where the time goes."""
    settings = Settings(seconds=seconds, micro_batch=micro_batch)
    walls, stages = [], []
    for i in range(RUNS + 1):
        recipes = [muse.recipe(PROMPT, 100 * i + k, settings) for k in range(n)]
        seen, muse.timings = {}, {}

        def on_step(stage: str, step: int, _: int, seen=seen) -> None:
            seen.setdefault((stage, step), now(muse))

        began = now(muse)
        for _ in muse.stream(recipes, on_step):
            pass
        wall = now(muse) - began
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
        times = timed(lambda recipes=recipes: muse.embed_rows(recipes), muse)
        how = f"{recipes[0].stage1_solver}, {recipes[0].stage1_steps} steps"
        rows.append(row(f"Stage 1, micro-batch {size}", [1000 * t / size for t in times], "ms a sample", how))
    return rows


def stage2_flops(config: Stage2Config, rows: int, frames: int) -> int:
    """Floating-point operations of one evaluation of the velocity, counted by hand: 2 a multiply-add of every matrix.

    With T = frames / patch + 1 tokens of width D and inner width I, a row costs 2 T (4 D^2 + 3 D I) + 4 T^2 D a
    layer; 2 (T - 1) 2 D C to enter and leave; 2 (2 + 6) D^2 for the time and its modulation. Norms, gates and
    rotations are not counted.
    """
    D, inner = config.width, int(config.ff_mult * config.width)  # noqa: N806
    T = -(-frames // config.patch) + 1  # noqa: N806
    layer = 2 * T * (4 * D * D + 3 * D * inner) + 4 * T * T * D
    ends = 2 * (T - 1) * 2 * D * config.latent_dim * config.patch
    time_token = 2 * D * D * (2 + (6 if config.modulation else 0))
    return rows * (config.depth * layer + ends + time_token)


def stage2_floor(muse: Muse, seconds: float) -> list[Row]:
    """One guided evaluation of four pieces beside the time that its matrix products alone would take."""
    config, frames, device = muse.config.stage2, muse.frames(seconds), muse.device
    rows = 2 * muse.config.sample.micro_batch
    flops = stage2_flops(config, rows, frames)
    precision = torch.autocast(device.type, muse.autocast_dtype, muse.autocast_dtype != torch.float32)
    with torch.inference_mode(), precision:
        held = torch.zeros(rows, config.embedding_dim, device=device)
        condition = muse.stage2.condition(held, torch.tensor([[0.0, seconds]], device=device).expand(rows, 2))
        x, t = torch.randn(rows, config.latent_dim, frames, device=device), torch.full((rows,), 0.5, device=device)
        measured = timed(lambda: muse.stage2(x, t, condition), muse, 7)
        tokens, inner = rows * (-(-frames // config.patch) + 1), int(config.ff_mult * config.width)
        own = matrix_rate(muse, tokens, config.width, 2 * inner)
        square = matrix_rate(muse, 2048, 2048, 2048)
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


def matrix_rate(muse: Muse, m: int, k: int, n: int) -> list[float]:
    """Operations a second of (m, k) @ (k, n) in the precision of Stage 2."""
    a, b = torch.randn(m, k, device=muse.device), torch.randn(n, k, device=muse.device)
    a, b = a.to(muse.autocast_dtype), b.to(muse.autocast_dtype)
    repeats = max(1, int(4e9 / (2 * m * k * n)))  # tens of milliseconds, so that the clock does not count

    def multiply() -> None:
        for _ in itertools.repeat(None, repeats):
            torch.nn.functional.linear(a, b)

    return [2 * m * k * n * repeats / t for t in timed(multiply, muse, 7)]


def timed(call: Callable[[], object], muse: Muse, runs: int = RUNS) -> list[float]:
    """Seconds of each of `runs` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(runs):
        began = now(muse)
        call()
        times.append(now(muse) - began)
    return times


def now(muse: Muse) -> float:
    """The clock, after all that was queued on a GPU is done."""
    if muse.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
