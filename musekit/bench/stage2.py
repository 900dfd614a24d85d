"""`musekit bench stage2`: a guided step of full-size Stage 2 beside diffusers' own transformer, same weights.

Both get the same single conditioning token and both rows of guidance in one batch. Only one step is timed, since all
steps take the same time. The weights are random ones.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from musekit import convert, flow
from musekit.bench import networks
from musekit.bench.measure import RUNS, Peer, Row, compare
from musekit.bench.roofline import stage2_work
from musekit.config import Stage2Config
from musekit.stage2 import GuidedStage2, StableAudioMuQ, Stage2Inference

FRAMES, SCALE = 256, 3.0
PIPELINE_TOKENS = 130  # conditioning tokens of diffusers' pipeline: 128 of the text, two of the timing
BARS = {torch.float32: 1.2, torch.bfloat16: 1.7}  # x diffusers' transformer, batch 1, two CPU cores


def stage2(setup) -> Iterator[Row]:
    """Rows of both precisions, one after the other: both at once would not fit into 24 GB."""
    device, quick = setup.device, setup.quick
    frames, runs = 16 if quick else FRAMES, 1 if quick else RUNS if device.type == "cpu" else 5 * RUNS
    sizes = (1, 2) if quick else (1, 4, 16) if device.type == "cuda" else (1, 4)
    network = networks.stage2(networks.stage2_config("1.05B", quick), device)
    theirs = transformer(network, frames)
    for dtype in (torch.float32, torch.bfloat16):
        theirs = torch.nn.Module.to(theirs, dtype)  # diffusers' own `to` warns
        fast = Stage2Inference(network, dtype)
        for batch in sizes if dtype == torch.bfloat16 else sizes[:1]:
            x = torch.randn(batch, network.config.latent_dim, frames, device=device)
            peers = [diffusers_peer(theirs, network, x, dtype)]
            if dtype == torch.float32:  # the pipeline's own precision
                peers.append(diffusers_peer(theirs, network, x, dtype, PIPELINE_TOKENS, "diffusers, as called"))
                peers.append(trained_peer(network, x))
            peers.append(prepared_peer(network, fast, x))
            for row in compare(peers, 2, batch, device, runs, setup.ceilings):
                yield row | {"frames": frames} | bar(row, dtype)
        del fast
        gc.collect()


def bar(row: Row, dtype: torch.dtype) -> Row:
    """What this row is to reach, and whether it does."""
    case = row["peer"], row["backend"], row["batch"]
    if case == ("prepared", "cpu", 1):
        return {"bar": f">= {BARS[dtype]} x diffusers", "met": row["speedup"] >= BARS[dtype]}
    if case == ("prepared", "cuda", 16):  # on an H100; 100 steps are a sample
        met = row["matrix_share"] >= 0.6 and row["speedup"] >= 1.5 and row["ms_a_sample"] <= 2.5
        return {"bar": ">= 60 % of the dense rate, >= 1.5 x diffusers, <= 2.5 ms a sample and step", "met": met}
    return {}


def prepared_peer(network: StableAudioMuQ, fast: Stage2Inference, x: Tensor) -> Peer:
    """Our inference code: one guided step at x (B, C, T), in the precision of `fast`."""
    velocity = GuidedStage2(fast, networks.condition(network, len(x)), SCALE)
    moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
    work = stage2_work(network.config, len(x), x.shape[-1], fast.dtype)
    return Peer("prepared", lambda n: velocity(moment, x), network, fast.dtype, work)


def trained_peer(network: StableAudioMuQ, x: Tensor) -> Peer:
    """The network as it is trained."""
    condition, t = networks.condition(network, len(x)), torch.full((2 * len(x),), 0.5, device=x.device)

    def step(n: int) -> Tensor:
        return flow.guided(*network(torch.cat([x, x]), t, condition).chunk(2), SCALE)

    return Peer("as trained", step, network, torch.float32)


def diffusers_peer(theirs, network, x: Tensor, dtype: torch.dtype, tokens: int = 1, name: str = "diffusers") -> Peer:
    """diffusers' transformer: a guided step at x (B, C, T) as in its pipeline's loop; tokens: of the conditioning.

    Everything that the pipeline makes once per sample is made before the timed step, the rotary table included.
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    config, device, rows = network.config, x.device, 2 * len(x)
    text = torch.randn(rows, tokens, config.condition_dim, device=device).to(dtype)
    timing = torch.randn(rows, 1, 2 * config.condition_dim, device=device).to(dtype)
    t = torch.full((1,), 0.5, device=device, dtype=dtype)
    rotary = get_1d_rotary_pos_embed(config.head_dim // 2, x.shape[-1] + 1, use_real=True, repeat_interleave_real=False)
    options = {"encoder_hidden_states": text, "global_hidden_states": timing, "return_dict": False}
    options["rotary_embedding"] = tuple(part.to(device) for part in rotary)

    def step(n: int) -> Tensor:
        v = theirs(torch.cat([x, x]).to(dtype), t, **options)[0]
        return flow.guided(*v.chunk(2), SCALE).float()

    return Peer(name, step, network, dtype)


def transformer(network: StableAudioMuQ, frames: int):
    """diffusers' transformer with our network's weights."""
    from diffusers import StableAudioDiTModel

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        theirs = StableAudioDiTModel(**diffusers_config(network.config, frames))
    wanted = theirs.state_dict()
    weights = {k: v for k, v in convert.to_theirs(network.state_dict()).items() if k in wanted}
    theirs.load_state_dict(weights, assign=True)
    return theirs.eval().requires_grad_(False)


def diffusers_config(config: Stage2Config, frames: int) -> dict:
    """Our config as the arguments of diffusers' transformer."""
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
