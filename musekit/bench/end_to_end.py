"""`musekit bench end-to-end` and `full`: from text to sound, by the trained preset and at full size.

end-to-end: a loaded system, 16 pieces one by one and batched, and Stage 1 at growing micro-batches.

full: flan-t5-base's encoder, Stage 1, Stage 2 and Oobleck in the published shapes with random weights, from token ids
to sound in the host's memory. The original reports 185 s for 16 samples one by one and 108 s batched on an A800, but
not the length of its clips; so both the mini preset's length and the full window are timed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from musekit.bench import networks, stages
from musekit.bench.measure import RUNS, Row, Setup, now, peak_bytes, row, timed
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


def end_to_end(setup: Setup) -> Iterator[Row]:
    """All rows of the loaded preset."""
    muse, runs = setup.muse, 1 if setup.quick else RUNS
    seconds = 0.5 if setup.quick else muse.config.sample.seconds
    yield from warm(muse, 4, seconds, None, runs)
    yield from warm(muse, 1, seconds, 1, runs)
    if muse.draft is not muse:
        for n in (4, 1):
            yield from warm(muse.draft, n, seconds, None if n > 1 else 1, runs, "drafts, ")
    for size in () if setup.quick else (1, 4, 16):  # one by one, by default, and batched
        yield from warm(muse, 16, seconds, size, 1)[:2]
    yield from stage1_rates(muse, BATCHES[:2] if setup.quick else BATCHES)


def warm(muse: Muse, n: int, seconds: float, micro_batch: int | None, runs: int, kind: str = "") -> list[Row]:
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
    at = recipes[0]
    name = f"{kind}{n} x {seconds:g} s, {'warm' if n < 16 else f'micro-batch {micro_batch}'}"
    how = f"{at.stage1_solver} {at.stage1_steps} + {at.stage2_solver} {at.stage2_steps} steps, guidance "
    how += f"{at.guidance_scale:g}, micro-batch {at.micro_batch}"
    bar = (">", 1) if n > 1 else None
    rows = [row(f"{name}: sound a second of work", [n * seconds / w for w in walls], "x real time", how, bar)]
    rows += [row(f"{name}: wall time", walls, "s", how)]
    rows += [row(f"{name}: {stage}", times, "s", how) for stage, times in zip(STAGES, zip(*stages), strict=True)]
    steps = f"{at.stage1_steps} + {at.stage2_steps}"  # and so many evaluations, where the solver is Euler
    ran = {"steps": steps, "nfe": steps if at.stage1_solver == at.stage2_solver == "euler" else None}
    return [one | ran | {"dtype": at.dtype} for one in rows]


def stage1_rates(muse: Muse, batches: tuple[int, ...]) -> Iterator[Row]:
    """Stage 1's milliseconds per sample at growing micro-batches, the text encoder's one run included."""
    for size in batches:
        recipes = [muse.recipe(PROMPT, seed, Settings(micro_batch=size)) for seed in range(size)]
        times = timed(lambda recipes=recipes: muse.embed_batch(recipes), muse.device)
        first, nfe = recipes[0], int(muse.embed_batch(recipes)[1].max())
        how = f"{first.stage1_solver}, {first.stage1_steps} steps"
        ran = {"steps": first.stage1_steps, "nfe": nfe, "dtype": first.stage1_dtype}
        yield row(f"Stage 1, micro-batch {size}", [1000 * t / size for t in times], "ms a sample", how) | ran


@torch.inference_mode()
def full(setup: Setup) -> Iterator[Row]:
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
        result |= {"steps": f"{stages.STEPS} + {steps}", "nfe": f"{stages.STEPS} + {steps}", "dtype": "bfloat16"}
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
        self.fast1 = Stage1Inference(self.network1, torch.bfloat16)
        self.fast2 = Stage2Inference(self.network2, torch.bfloat16)
        self.codec = networks.oobleck_codec(device, quick)

    def make(self, n: int, seconds: float, steps: int) -> dict[str, float]:
        """Seconds of each part for n pieces, with so many steps of Stage 2."""
        times, began = {}, now(self.device)

        def done(part: str) -> None:
            nonlocal began
            end = now(self.device)
            times[part], began = end - began, end

        ids = torch.randint(2, self.t5.config.vocab_size, (n, stages.TOKENS), device=self.device)
        states, mask = self.t5(input_ids=ids).last_hidden_state, torch.ones_like(ids, dtype=torch.bool)
        done("text")
        velocity = GuidedStage1(self.fast1, self.fast1.text(states, mask), stages.SCALE)
        x_0 = torch.randn(n, self.network1.config.dim, device=self.device)
        embedding = self.network1.embedding(solve(velocity, x_0, steps=stages.STEPS).x)
        done("stage 1")
        frames = -(-round(seconds * self.rate) // self.codec.hop)
        x_0 = torch.randn(n, self.network2.config.latent_dim, frames, device=self.device)
        velocity = GuidedStage2(self.fast2, networks.condition(self.network2, embedding, seconds), stages.SCALE)
        latents = self.network2.latents(solve(velocity, x_0, steps=steps).x)
        done("stage 2")
        for sample in latents:  # one at a time: memory does not grow with n
            finish(self.codec.decode(sample[None])[0, :, : round(seconds * self.rate)].cpu())
        done("decoder")
        return times
