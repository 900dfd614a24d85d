"""`musekit bench full`: 16 pieces and one, from token ids to sound on the host, with all parts at full size.

flan-t5-base's encoder, Stage 1 (50 guided Euler steps), Stage 2 (100), Oobleck: the published shapes with random
weights, in the precisions that a GPU samples in. The original tells 185 s for 16 samples one by one and 108 s batched,
on an A800, and not how long its clips are; so both the mini preset's length and the full window are timed.
"""

from __future__ import annotations

import gc

import torch
from torch import Tensor

from musekit import oobleck
from musekit.bench import networks
from musekit.bench.measure import Row, median, now, peak_bytes
from musekit.bench.piece import decoder
from musekit.bench.stage1 import SCALE, TOKENS
from musekit.bench.stage1 import STEPS as STEPS1
from musekit.inference import finish
from musekit.oobleck import frames_at_once
from musekit.solve import solve
from musekit.stage1 import GuidedStage1, Stage1Inference
from musekit.stage2 import GuidedStage2, Stage2Inference

STEPS2, RUNS = 100, 2
SECONDS = (11.9, 47.55)
BARS = {(16, 11.9): 5.0, (16, 47.55): 22.0, (1, 47.55): 2.0}  # seconds on one H100
PARTS = ("text", "stage 1", "stage 2", "decoder")


def full(device: torch.device, quick: bool = False) -> list[Row]:
    """A row a length and number of pieces: {"what", "value" in seconds, each part's seconds, "real_time"}."""
    parts = Full(device, quick)
    cases = [(2, 1.0)] if quick else [(n, seconds) for seconds in SECONDS for n in (1, 16)]
    rows = []
    with torch.inference_mode():
        for n, seconds in cases:
            parts.make(n, seconds, steps=2)  # warm: kernels are chosen and recorded
            runs = [parts.make(n, seconds) for _ in range(1 if quick else RUNS)]
            walls = [sum(run.values()) for run in runs]
            middle = runs[walls.index(median(walls))]
            bar = BARS.get((n, seconds)) if device.type == "cuda" else None
            row = {"what": f"{n} x {seconds:g} s, text to sound", "value": median(walls), "unit": "s", "batch": n}
            row |= {"least": min(walls), "most": max(walls), "runs": len(walls), "seconds_each": seconds}
            row |= {f"{part}_seconds": middle[part] for part in PARTS} | {"real_time": n * seconds / median(walls)}
            row |= {"bar": bar and f"<= {bar:g} s", "met": bar and median(walls) <= bar}
            peak = peak_bytes(lambda n=n, seconds=seconds: parts.make(n, seconds, steps=2), device)
            rows.append(row | {"before_bytes": peak and peak[0], "peak_bytes": peak and peak[1]})
            gc.collect()
    return rows


class Full:
    """All parts of the paper preset, random, and how they are sampled."""

    def __init__(self, device: torch.device, quick: bool):
        from transformers import T5Config, T5EncoderModel

        self.device, self.steps = device, 2 if quick else STEPS2
        small = {"d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
        shape = small if quick else {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
        self.t5 = T5EncoderModel(T5Config(**shape, feed_forward_proj="gated-gelu")).to(device).eval()
        config1, config2 = networks.stage1_config("271M", quick), networks.stage2_config("1.05B", quick)
        self.network1, self.network2 = networks.stage1(config1, device), networks.stage2(config2, device)
        dtype = torch.bfloat16
        self.fast1, self.fast2 = Stage1Inference(self.network1, dtype), Stage2Inference(self.network2, dtype)
        self.vae = decoder(config2.latent_dim, device, quick)
        self.reach, self.rate = oobleck.decoder_reach(self.vae.decoder, self.vae.hop_length), 44100

    def make(self, n: int, seconds: float, steps: int | None = None) -> dict[str, float]:
        """Seconds of each part for n pieces; steps: of Stage 2, where fewer than all are to be run."""
        times, began = {}, now(self.device)

        def done(part: str) -> None:
            nonlocal began
            end = now(self.device)
            times[part], began = end - began, end

        ids = torch.randint(2, self.t5.config.vocab_size, (n, TOKENS), device=self.device)
        states, mask = self.t5(input_ids=ids).last_hidden_state, torch.ones_like(ids, dtype=torch.bool)
        states = states[..., : self.network1.config.text_dim]
        if (missing := self.network1.config.text_dim - states.shape[-1]) > 0:  # quick: any states will do
            states = torch.nn.functional.pad(states, (0, missing))
        done("text")
        velocity = GuidedStage1(self.fast1, self.fast1.text(states, mask), SCALE)
        x_0 = torch.randn(n, self.network1.config.dim, device=self.device)
        embedding = self.network1.embedding(solve(velocity, x_0, steps=STEPS1).x)
        done("stage 1")
        latents = self.latents(embedding, seconds, steps or self.steps)
        done("stage 2")
        samples = round(seconds * self.rate)
        for row in latents:  # one at a time: memory does not grow with n
            finish(self.decode(row[None])[0, :, :samples].cpu())
        done("decoder")
        return times

    def latents(self, embedding: Tensor, seconds: float, steps: int) -> Tensor:
        """Stage 2: (n, 512) -> (n, C, T)."""
        n, network = len(embedding), self.network2
        timing = torch.tensor([[0.0, seconds]], device=self.device).expand(n, 2)
        condition = network.condition_pair(embedding, timing)
        frames = -(-round(seconds * self.rate) // self.vae.hop_length)
        x_0 = torch.randn(n, network.config.latent_dim, frames, device=self.device)
        return network.latents(solve(GuidedStage2(self.fast2, condition, SCALE), x_0, steps=steps).x)

    def decode(self, latents: Tensor) -> Tensor:
        """(1, C, T) -> (1, 2, N), as `codec.Oobleck.decode` does."""
        parts = frames_at_once(self.device)
        decode = oobleck.decode_overlapping
        return decode(lambda z: self.vae.decode(z).sample, latents, self.vae.hop_length, self.reach, parts)
