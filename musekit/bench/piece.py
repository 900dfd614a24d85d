"""`musekit bench piece`: a whole full-size piece, Stage 2's loop and the decoder, beside diffusers' own parts.

diffusers' side is its transformer in the loop of `StableAudioPipeline.__call__` (both rows of guidance in one batch,
its flow-matching Euler scheduler on the same grid), then `AutoencoderOobleck.decode` of the whole. Both sides have the
same random weights, the same single conditioning token, the same number of steps. All steps of a loop take the same
time, so on a CPU a few are timed, and the row says how many.
"""

from __future__ import annotations

import gc
import warnings

import torch

from musekit import oobleck
from musekit.bench import networks
from musekit.bench.measure import Row, interleaved, median, peak_bytes
from musekit.bench.stage2 import FRAMES, SCALE, foreign_step, transformer
from musekit.bench.table import compared
from musekit.config import CodecConfig
from musekit.oobleck import frames_at_once
from musekit.solve import solve
from musekit.stage2 import GuidedStage2, Stage2Inference
from musekit.system import fast_precision

STEPS = {"cpu": 4, "cuda": 100}
FEWER = 10  # of 16 pieces of a whole window on a GPU, where 100 take half a minute
WINDOW = 1024  # latent frames: 47.55 s, which a GPU also samples


def piece(device: torch.device, ceilings: dict, quick: bool = False) -> list[Row]:
    """Rows of the loop, in the precision that the device is fast in, and of the decoder, in float32, of either side."""
    config = networks.stage2_config("1.05B", quick)
    network, dtype, rows = networks.stage2(config, device), fast_precision(device), []
    lengths = (16,) if quick else (FRAMES, WINDOW) if device.type == "cuda" else (FRAMES,)
    theirs = torch.nn.Module.to(transformer(network, lengths[-1]), dtype)
    fast, vae = Stage2Inference(network, dtype), decoder(config.latent_dim, device, quick)
    steps = 2 if quick else STEPS[device.type]
    with torch.inference_mode():
        for frames in lengths:
            for batch in (1, 16) if device.type == "cuda" else (1,):
                some = FEWER if batch * frames > 16 * FRAMES else steps
                rows += at(batch, frames, some, network, theirs, fast, vae, device)
                gc.collect()
    return rows


def at(batch, frames, steps, network, theirs, fast: Stage2Inference, vae, device) -> list[Row]:
    """One batch size and length: {part: seconds} of either side, in turn."""
    x_0 = torch.randn(batch, network.config.latent_dim, frames, device=device)
    ours = GuidedStage2(fast, networks.condition(network, batch), SCALE)
    plain = foreign_step(theirs, network, batch, fast.dtype)
    reach = oobleck.decoder_reach(vae.decoder, vae.hop_length)

    def decode_in_parts():
        for z in x_0.split(1):
            oobleck.decode_overlapping(lambda z: vae.decode(z).sample, z, vae.hop_length, reach, frames_at_once(device))

    calls = {
        ("diffusers", "loop"): lambda: pipeline_loop(plain, x_0, steps),
        ("prepared", "loop"): lambda: solve(ours, x_0, solver="euler", steps=steps),
        ("diffusers", "decoder"): lambda: [vae.decode(z).sample for z in x_0.split(1)],  # as ours: row by row
        ("prepared", "decoder"): decode_in_parts,
    }
    times = interleaved(calls, device, 1 if device.type == "cpu" else 3)
    rows = []
    for part in ("loop", "decoder"):
        base = median(times["diffusers", part])
        for peer in ("diffusers", "prepared"):
            timed, loop = times[peer, part], part == "loop"
            model, precision = (network, fast.dtype) if loop else (vae, torch.float32)
            row = compared(f"{peer}, {part}", 2, model, batch, precision, timed, base)
            row |= {"solver": "euler", "steps": steps, "nfe": steps} if loop else {}
            peak = peak_bytes(calls[peer, part], device)
            rows.append(row | {"frames": frames, "before_bytes": peak and peak[0], "peak_bytes": peak and peak[1]})
    return rows


def pipeline_loop(velocity, x_0: torch.Tensor, steps: int) -> torch.Tensor:
    """The denoising loop of diffusers' pipelines with its own flow-matching Euler scheduler; noise has sigma = 1."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)], device=x_0.device)
    x = x_0
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x), t, x, return_dict=False)[0]
    return x


def decoder(channels: int, device: torch.device, quick: bool):
    """diffusers' Oobleck of the published shape, random weights."""
    from diffusers import AutoencoderOobleck

    small = {"encoder_hidden_size": 16, "decoder_channels": 2} if quick else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers norms its weights by torch's older function
        vae = AutoencoderOobleck(decoder_input_channels=channels, **small)
    assert vae.hop_length == CodecConfig().hop  # latents of both presets have the same rate
    return vae.to(device).eval().requires_grad_(False)
