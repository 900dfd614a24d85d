"""`musekit bench stage2`: a guided step of full-size Stage 2 beside diffusers' own transformer, same weights.

Both get the same single conditioning token and both rows of guidance in one batch; only one step is timed, since all
steps are alike. The published weights are not needed: the same random ones go into both.
"""

from __future__ import annotations

import functools
import gc
import warnings

import torch
from torch import Tensor

from musekit import convert
from musekit.bench import networks
from musekit.bench.measure import RUNS, Row, interleaved, median, peak_bytes
from musekit.bench.roofline import stage2_work
from musekit.bench.stage1 import shares
from musekit.bench.table import compared
from musekit.config import Stage2Config
from musekit.stage2 import GuidedStage2, StableAudioMuQ, Stage2Inference

FRAMES, SCALE = 256, 3.0
CALLED = 130  # conditioning tokens of diffusers' pipeline: 128 of the text, two of the timing
BARS = {torch.float32: 1.2, torch.bfloat16: 1.7}  # x diffusers' transformer, batch 1, two CPU cores


def stage2(device: torch.device, ceilings: dict, quick: bool = False) -> list[Row]:
    """Rows of both precisions, one after the other: both at once would not fit into 24 GB."""
    config, rows = networks.stage2_config("1.05B", quick), []
    frames = 16 if quick else FRAMES
    sizes = (1, 2) if quick else (1, 4, 16) if device.type == "cuda" else (1, 4)
    network = networks.stage2(config, device)
    theirs = transformer(network, frames)
    for dtype in (torch.float32, torch.bfloat16):
        theirs = torch.nn.Module.to(theirs, dtype)  # their own `to` warns of nothing
        fast = Stage2Inference(network, dtype)
        with torch.inference_mode():
            for batch in sizes if dtype == torch.bfloat16 else sizes[:1]:
                rows += at(batch, network, theirs, fast, frames, 1 if quick else RUNS, device, ceilings)
        del fast
        gc.collect()
    return rows


def at(batch, network, theirs, fast: Stage2Inference, frames, runs, device, ceilings) -> list[Row]:
    """A guided step by each peer, in turn."""
    x, dtype = torch.randn(batch, network.config.latent_dim, frames, device=device), fast.dtype
    condition = networks.condition(network, batch)
    ours, plain = GuidedStage2(fast, condition, SCALE), foreign_step(theirs, network, batch, dtype)
    moment = ours.at(torch.tensor([0.5], dtype=torch.float64))[0]
    t = torch.full((batch,), 0.5, device=device)
    calls = {"diffusers": lambda: plain(x), "prepared": lambda: ours(moment, x)}
    if dtype == torch.float32:  # the pipeline's own precision
        calls["diffusers, as called"] = functools.partial(foreign_step(theirs, network, batch, dtype, CALLED), x)
        calls["as trained"] = lambda: guided(network(torch.cat([x, x]), torch.cat([t, t]), condition))
    times = interleaved(calls, device, runs if device.type == "cpu" else 5 * runs)
    base, rows = median(times["diffusers"]), []
    for name, call in calls.items():
        row = compared(name, 2, network, batch, dtype, times[name], base)
        row |= {"solver": "euler", "steps": 1, "nfe": 1, "frames": frames}
        work = stage2_work(network.config, batch, frames, dtype) if name == "prepared" else None
        row |= shares(work, 1, times[name], ceilings, dtype)
        peak = peak_bytes(call, device)
        row |= {"before_bytes": peak and peak[0], "peak_bytes": peak and peak[1]}
        if name == "prepared" and batch == 1 and device.type == "cpu":
            row |= {"bar": f">= {BARS[dtype]} x diffusers", "met": row["speedup"] >= BARS[dtype]}
        if name == "prepared" and batch == 16 and device.type == "cuda":  # on an H100; 100 steps are a sample
            met = row["matrix_share"] >= 0.6 and row["speedup"] >= 1.5 and row["ms_a_sample"] <= 2.5
            row |= {"bar": ">= 60 % of the dense rate, >= 1.5 x diffusers, <= 2.5 ms a sample and step", "met": met}
        rows.append(row)
    return rows


def guided(v: Tensor) -> Tensor:
    """Conditional rows first."""
    v_cond, v_uncond = v.chunk(2)
    return v_uncond + SCALE * (v_cond - v_uncond)


def transformer(network: StableAudioMuQ, frames: int):
    """diffusers' transformer with our network's weights."""
    from diffusers import StableAudioDiTModel

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        theirs = StableAudioDiTModel(**shape(network.config, frames))
    wanted = theirs.state_dict()
    weights = {k: v for k, v in convert.to_theirs(network.state_dict()).items() if k in wanted}
    theirs.load_state_dict(weights, assign=True)
    return theirs.eval().requires_grad_(False)


def shape(config: Stage2Config, frames: int) -> dict:
    """Our config in diffusers' words."""
    return {
        "sample_size": frames,
        "in_channels": config.latent_dim,
        "out_channels": config.latent_dim,
        "num_layers": config.depth,
        "attention_head_dim": config.head_dim,
        "num_attention_heads": config.width // config.head_dim,
        "num_key_value_attention_heads": config.kv_heads,
        "cross_attention_dim": config.condition_dim,
        "cross_attention_input_dim": config.condition_dim,
        "time_proj_dim": config.time_dim,
        "global_states_input_dim": 2 * config.condition_dim,
    }


def foreign_step(theirs, network: StableAudioMuQ, batch: int, dtype: torch.dtype, tokens: int = 1):
    """`step(x)`: diffusers' transformer on both rows of guidance, as its pipeline's loop calls it.

    tokens: of the conditioning; one is what MUSE has, `CALLED` what the pipeline gives.
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    config, device = network.config, network.mean.device
    told = torch.randn(2 * batch, tokens, config.condition_dim, device=device).to(dtype)
    timing = torch.randn(2 * batch, 1, 2 * config.condition_dim, device=device).to(dtype)

    def step(x: Tensor) -> Tensor:
        both = torch.cat([x, x]).to(dtype)
        rotary = get_1d_rotary_pos_embed(
            config.head_dim // 2, both.shape[-1] + 1, use_real=True, repeat_interleave_real=False
        )  # made once a sample by the pipeline; it costs nothing
        rotary = tuple(part.to(device) for part in rotary)
        now = torch.full((1,), 0.5, device=device, dtype=dtype)
        v = theirs(
            both,
            now,
            encoder_hidden_states=told,
            global_hidden_states=timing,
            rotary_embedding=rotary,
            return_dict=False,
        )[0]
        return guided(v).float()

    return step
