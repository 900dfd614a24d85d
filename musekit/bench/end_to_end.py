"""`musekit bench end-to-end` and `full`: from text to sound, by the trained preset and at full size.

end-to-end: a fresh process, a loaded system, Stage 1 at growing micro-batches, and one evaluation of Stage 2 beside
what the matrix units could do.

full: flan-t5-base's encoder, Stage 1, Stage 2 and Oobleck in the published shapes with random weights, from token ids
to sound in the host's memory. The original reports 185 s for 16 samples one by one and 108 s batched on an A800, but
not the length of its clips; so both the mini preset's length and the full window are timed.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from musekit.bench import networks, stage1
from musekit.bench.measure import RUNS, Row, median, now, peak_bytes, row, timed
from musekit.bench.roofline import matrix_rate, stage2_flops
from musekit.config import MuseError
from musekit.inference import finish
from musekit.muse import Muse, Settings
from musekit.solve import solve
from musekit.stage1 import GuidedStage1, Stage1Inference
from musekit.stage2 import GuidedStage2, Stage2Inference

PROMPT, BATCHES = "a sad piano melody", (1, 4, 16, 64)
STAGES = ("text to embedding", "embedding to latents", "latents to sound", "similarity")
STEPS, SECONDS = 100, (11.9, 47.55)  # of `full`
BARS = {(16, 11.9): 5.0, (16, 47.55): 22.0, (1, 47.55): 2.0}  # {(pieces, seconds each): seconds on one H100}
PARTS = ("text", "stage 1", "stage 2", "decoder")


def end_to_end(setup) -> Iterator[Row]:
    """All rows of the loaded preset."""
    muse, runs = setup.muse, 1 if setup.quick else RUNS
    seconds = 0.5 if setup.quick else muse.config.sample.seconds
    yield from cold(setup.weights, seconds, runs)
    yield from warm(muse, 4, seconds, None, runs)
    yield from warm(muse, 1, seconds, 1, runs)
    yield from stage1_rates(muse, BATCHES[:2] if setup.quick else BATCHES)
    yield from stage2_floor(muse, seconds)


def cold(weights: str, seconds: float, runs: int) -> list[Row]:
    """A fresh process each time, as `make demo` starts one: seconds until the first WAV is on the disk."""
    first, end = [], []
    weights = str(Path(weights).resolve()) if Path(weights).exists() else weights
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "musekit", "generate", PROMPT, "--weights", weights]
            command += ["--seconds", str(seconds), "--out", folder]
            began = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
                for line in process.stdout:
                    if line.startswith("first sound"):
                        first.append(time.perf_counter() - began)
            end.append(time.perf_counter() - began)
        if process.returncode or len(first) != len(end):
            code = process.returncode
            raise MuseError(f"`musekit generate` failed with exit code {code}; run it by hand to see why")
    name = f"4 x {seconds:g} s, cold process"
    how = "from the start of `musekit generate` in a fresh process, files in the disk cache"
    return [
        row(f"{name}: first sound", first, "s", how, ("<", 30)),
        row(f"{name}: all files and the contact sheet", end, "s", how),
    ]


def warm(muse: Muse, n: int, seconds: float, micro_batch: int | None, runs: int) -> list[Row]:
    """n pieces from a loaded system: seconds of sound per second of work, and where the time goes."""
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
    bar = (">", 1) if n > 1 else None
    rows = [row(f"{name}: sound a second of work", [n * seconds / w for w in walls], "x real time", how, bar)]
    rows += [row(f"{name}: wall time", walls, "s", how)]
    return rows + [row(f"{name}: {stage}", times, "s", how) for stage, times in zip(STAGES, zip(*stages), strict=True)]


def stage1_rates(muse: Muse, batches: tuple[int, ...]) -> Iterator[Row]:
    """Stage 1's milliseconds per sample at growing micro-batches, the text encoder's one run included."""
    for size in batches:
        recipes = [muse.recipe(PROMPT, seed, Settings(micro_batch=size)) for seed in range(size)]
        times = timed(lambda recipes=recipes: muse.embed_batch(recipes), muse.device)
        how = f"{recipes[0].stage1_solver}, {recipes[0].stage1_steps} steps"
        yield row(f"Stage 1, micro-batch {size}", [1000 * t / size for t in times], "ms a sample", how)


def stage2_floor(muse: Muse, seconds: float) -> list[Row]:
    """One guided evaluation of a micro-batch beside the time that its matrix products would take."""
    config, frames, device, dtype = muse.config.stage2, muse.frames(seconds), muse.device, muse.autocast_dtype
    rows = 2 * muse.config.sample.micro_batch
    with torch.inference_mode():
        x = torch.randn(rows, config.latent_dim, frames, device=device)
        embedding = torch.zeros(rows, config.embedding_dim, device=device)
        timing = torch.tensor([[0.0, seconds]], device=device).expand(rows, 2)
        velocity = GuidedStage2(muse.inference2, muse.stage2.condition(embedding, timing), 1.0)
        moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
        measured = timed(lambda: velocity(moment, x), device, 7)
        tokens, inner = rows * (-(-frames // config.patch) + 1), int(config.ff_mult * config.width)
        own = [matrix_rate(device, dtype, tokens, config.width, 2 * inner, runs=1) for _ in range(7)]
        square = [matrix_rate(device, dtype, 2048, 2048, 2048, runs=1) for _ in range(7)]
    flops, name = stage2_flops(config, rows, frames), f"Stage 2, one evaluation of {rows} rows"
    how, floor = f"{frames} frames, {str(dtype)[6:]}", [flops / rate for rate in own]
    return [
        row(f"{name}: work, counted by hand", [flops / 1e9], "GFLOP", how),
        row("matrix rate, the feed-forward's shape", [r / 1e9 for r in own], "GFLOP/s", how),
        row("matrix rate, 2048 x 2048 x 2048", [r / 1e9 for r in square], "GFLOP/s", how),
        row(f"{name}: floor, work / rate of that shape", [1000 * f for f in floor], "ms", how),
        row(f"{name}: measured", [1000 * m for m in measured], "ms", how),
        row(f"{name}: floor / measured", [median(floor) / m for m in measured], "of the floor's speed", how),
    ]


@torch.inference_mode()
def full(setup) -> Iterator[Row]:
    """A row per length and number of pieces: seconds of the whole ("value") and of each part, x real time, memory."""
    system, steps, runs = FullSize(setup.device, setup.quick), 2 if setup.quick else STEPS, 1 if setup.quick else 2
    cases = [(2, 1.0)] if setup.quick else [(n, seconds) for seconds in SECONDS for n in (1, 16)]
    for n, seconds in cases:
        system.make(n, seconds, 2)  # kernels are chosen and recorded
        parts = [system.make(n, seconds, steps) for _ in range(runs)]
        walls = [sum(run.values()) for run in parts]
        result = row(f"{n} x {seconds:g} s, text to sound", walls, "s", f"random weights, {steps} Euler steps")
        middle = parts[walls.index(result["value"])]
        result |= {f"{part}_seconds": middle[part] for part in PARTS}
        result |= {"batch": n, "seconds_each": seconds, "real_time": n * seconds / result["value"]}
        result |= {"steps": steps, "dtype": "bfloat16"}
        if (bar := BARS.get((n, seconds))) and setup.device.type == "cuda":
            result |= {"bar": f"<= {bar:g} s", "met": result["value"] <= bar}
        yield result | peak_bytes(lambda n=n, seconds=seconds: system.make(n, seconds, 2), setup.device)
        gc.collect()


class FullSize:
    """All parts of the paper preset with random weights, sampled as a GPU samples them."""

    def __init__(self, device: torch.device, quick: bool):
        from transformers import T5Config, T5EncoderModel

        small = {"d_model": 768, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
        shape = small if quick else {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
        self.device, self.rate = device, 44100
        self.t5 = T5EncoderModel(T5Config(**shape, feed_forward_proj="gated-gelu")).to(device).eval()
        self.network1 = networks.stage1(networks.stage1_config("271M", quick), device)
        self.network2 = networks.stage2(networks.stage2_config("1.05B", quick), device)
        self.fast1, self.fast2 = (
            Stage1Inference(self.network1, torch.bfloat16),
            Stage2Inference(self.network2, torch.bfloat16),
        )
        self.decoder = networks.Decoder(device, quick, self.network2.config.latent_dim)

    def make(self, n: int, seconds: float, steps: int) -> dict[str, float]:
        """Seconds of each part for n pieces, with so many steps of Stage 2."""
        times, began = {}, now(self.device)

        def done(part: str) -> None:
            nonlocal began
            end = now(self.device)
            times[part], began = end - began, end

        ids = torch.randint(2, self.t5.config.vocab_size, (n, stage1.TOKENS), device=self.device)
        states, mask = self.t5(input_ids=ids).last_hidden_state, torch.ones_like(ids, dtype=torch.bool)
        done("text")
        velocity = GuidedStage1(self.fast1, self.fast1.text(states, mask), stage1.SCALE)
        x_0 = torch.randn(n, self.network1.config.dim, device=self.device)
        embedding = self.network1.embedding(solve(velocity, x_0, steps=stage1.STEPS).x)
        done("stage 1")
        latents = self.latents(embedding, seconds, steps)
        done("stage 2")
        for sample in latents:  # one at a time: memory does not grow with n
            finish(self.decoder(sample[None])[0, :, : round(seconds * self.rate)].cpu())
        done("decoder")
        return times

    def latents(self, embedding: Tensor, seconds: float, steps: int) -> Tensor:
        """Stage 2: (n, 512) -> (n, C, T)."""
        frames = -(-round(seconds * self.rate) // self.decoder.hop)
        x_0 = torch.randn(len(embedding), self.network2.config.latent_dim, frames, device=self.device)
        velocity = GuidedStage2(self.fast2, networks.condition(self.network2, embedding, seconds), stage1.SCALE)
        return self.network2.latents(solve(velocity, x_0, steps=steps).x)
