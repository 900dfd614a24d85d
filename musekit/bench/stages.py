"""`musekit bench stage1`, `stage2` and `sizes`: networks with random weights, beside what they replace.

stage1   a whole sample beside the naive design, same weights, same grid, at the original's batches
stage2   a guided step (all steps take the same time) beside diffusers' own transformer with the same weights, the same
         single conditioning token and both rows of guidance in one batch
sizes    does a model's size decide what a batch gains? One guided evaluation of Stage 1's design (one token per sample)
         and of Stage 2's (129 tokens per sample), at four sizes each
"""

import gc
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from musekit import convert, flow, solve
from musekit.bench import networks
from musekit.bench.measure import Peer, Row, Setup, compare
from musekit.bench.naive import Naive1
from musekit.bench.roofline import stage1_work, stage2_work
from musekit.gpu import fast_precision
from musekit.stage1 import GuidedStage1, Stage1Inference
from musekit.stage2 import GuidedStage2, StableAudioMuQ, Stage2Inference

TOKENS, SCALE, STEPS, FRAMES = 16, 3.0, 50, 256
DTYPES = (torch.float32, torch.bfloat16)
BARS = {  # (stage, precision, device, batch): what our inference code is to reach on two CPU cores or one H100
    (1, "float32", "cpu", 1): (">= 3.5 x naive", lambda r: r["speedup"] >= 3.5),
    (1, "bfloat16", "cuda", 1): ("<= 25 ms a sample", lambda r: r["ms_a_sample"] <= 25),
    (1, "bfloat16", "cuda", 256): ("<= 0.15 ms a sample", lambda r: r["ms_a_sample"] <= 0.15),
    (2, "float32", "cpu", 1): (">= 1.2 x diffusers", lambda r: r["speedup"] >= 1.2),
    (2, "bfloat16", "cpu", 1): (">= 1.7 x diffusers", lambda r: r["speedup"] >= 1.7),
    (2, "bfloat16", "cuda", 16): (  # 100 steps are a sample
        ">= 60 % of the dense rate, >= 1.5 x diffusers, <= 2.5 ms a sample and step",
        lambda r: r["matrix_share"] >= 0.6 and r["speedup"] >= 1.5 and r["ms_a_sample"] <= 2.5,
    ),
}
SIZES_FRAMES = 128
SIZES_BATCHES = {
    "cpu": {1: (1, 2, 4, 8, 16, 32), 2: (1, 2, 4)},
    "cuda": {1: (1, 2, 4, 8, 16, 32, 64, 128, 256), 2: (1, 2, 4, 8, 16, 32)},
}


def barred(row: Row) -> Row:
    """The row with its bar, and whether the bar is met."""
    case = row["stage"], row["dtype"], row["backend"], row["batch"]
    if row["peer"] != "prepared" or case not in BARS:
        return row
    bar, met = BARS[case]
    return row | {"bar": bar, "met": met(row)}


# -- stage 1


def stage1(setup: Setup) -> Iterator[Row]:
    """Rows of every batch size, peer and precision."""
    device, steps = setup.device, 2 if setup.quick else STEPS
    network = networks.stage1(networks.stage1_config("271M", setup.quick), device)
    naive, fast = Naive1(network), [Stage1Inference(network, dtype) for dtype in DTYPES]
    sizes = (1, 2) if setup.quick else (1, 2, 4, 8, 16, 32, 64, 256) if device.type == "cuda" else (1, 4, 8, 16, 32)
    alone = {}
    for batch in sizes:
        x_0 = torch.randn(batch, network.config.dim, device=device)
        velocity = naive.guided(*networks.prompt(network.config, batch, TOKENS, device), SCALE)
        peers = [Peer("naive", lambda n, v=velocity, x=x_0: solve.solve(v, x, steps=n), network, torch.float32)]
        peers += [prepared1(network, f, batch, device) for f in fast]
        for row in compare(peers, 1, batch, setup, steps):
            seconds = alone.setdefault((row["peer"], row["dtype"]), row["seconds"])
            yield barred(row | {"efficiency": seconds / row["seconds"]})


def prepared1(network, fast: Stage1Inference, batch: int, device, whole: bool = True) -> Peer:
    """Our inference code in the precision of `fast`: a sample with the projection of its text, or one evaluation."""
    config = network.config
    tokens, mask = networks.prompt(config, batch, TOKENS, device)
    x_0, text = torch.randn(batch, config.dim, device=device), fast.text(tokens, mask)
    velocity = GuidedStage1(fast, text, SCALE)
    moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]

    def call(n: int):
        if whole:
            return solve.solve(GuidedStage1(fast, fast.text(tokens, mask), SCALE), x_0, steps=n)
        return velocity(moment, x_0)

    return Peer("prepared", call, network, fast.dtype, stage1_work(config, batch, TOKENS, fast.dtype, text.merged))


# -- stage 2


def stage2(setup: Setup) -> Iterator[Row]:
    """Rows of both precisions, one after the other: both at once would not fit into 24 GB."""
    device, frames = setup.device, 16 if setup.quick else FRAMES
    sizes = (1, 2) if setup.quick else (1, 4, 16)
    network = networks.stage2(networks.stage2_config("1.05B", setup.quick), device)
    theirs = transformer(network, frames)
    for dtype in DTYPES:
        theirs = torch.nn.Module.to(theirs, dtype)  # diffusers' own `to` warns
        fast = Stage2Inference(network, dtype)
        for batch in sizes if dtype == torch.bfloat16 else sizes[:1]:
            x = torch.randn(batch, network.config.latent_dim, frames, device=device)
            peers = [diffusers_peer(theirs, network, x, dtype)]
            if device.type == "cuda":  # the fair peer of our compiled blocks and recorded graphs
                fair = torch.compile(theirs, mode="reduce-overhead")
                peers.append(diffusers_peer(fair, network, x, dtype, name="diffusers, compiled"))
            for row in compare([*peers, prepared2(network, fast, x)], 2, batch, setup):
                yield barred(row | {"frames": frames})
        del fast
        gc.collect()


def prepared2(network: StableAudioMuQ, fast: Stage2Inference, x: Tensor) -> Peer:
    """Our inference code: one guided step at x (B, C, T), in the precision of `fast`."""
    velocity = GuidedStage2(fast, networks.condition(network, len(x)), SCALE)
    moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
    work = stage2_work(network.config, len(x), x.shape[-1], fast.dtype)
    return Peer("prepared", lambda n: velocity(moment, x), network, fast.dtype, work)


def diffusers_peer(theirs, network, x: Tensor, dtype: torch.dtype, name: str = "diffusers") -> Peer:
    """diffusers' transformer: a guided step at x (B, C, T) as in its pipeline's loop, with one conditioning token.

    Everything that the pipeline makes once per sample is made before the timed step, the rotary table included.
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    config, device, rows = network.config, x.device, 2 * len(x)
    text = torch.randn(rows, 1, config.condition_dim, device=device).to(dtype)
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

    config = network.config
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        theirs = StableAudioDiTModel(
            sample_size=frames, in_channels=config.latent_dim, out_channels=config.latent_dim,
            num_layers=config.depth, attention_head_dim=config.head_dim,
            num_attention_heads=config.width // config.head_dim, num_key_value_attention_heads=config.kv_heads,
            cross_attention_dim=config.condition_dim, cross_attention_input_dim=config.condition_dim,
            time_proj_dim=config.time_dim, global_states_input_dim=2 * config.condition_dim,
        )  # fmt: skip
    wanted = theirs.state_dict()
    weights = {k: v for k, v in convert.to_theirs(network.state_dict()).items() if k in wanted}
    theirs.load_state_dict(weights, assign=True)
    return theirs.eval().requires_grad_(False)


# -- sizes


def sizes(setup: Setup) -> Iterator[Row]:
    """A row per design, size and batch, in the precision that the device is fast in, with the gain over batch 1."""
    device, dtype, quick = setup.device, fast_precision(setup.device), setup.quick
    for stage, size in ((stage, size) for stage in (1, 2) for size in networks.SIZES):
        rows, frames = [], None if stage == 1 else 8 if quick else SIZES_FRAMES
        network = networks.of_size(stage, size, quick, device)
        fast = (Stage1Inference if stage == 1 else Stage2Inference)(network, dtype)
        for batch in SIZES_BATCHES[device.type][stage][: 2 if quick else None]:
            if stage == 1:
                peer = prepared1(network, fast, batch, device, whole=False)
            else:
                peer = prepared2(network, fast, torch.randn(batch, network.config.latent_dim, frames, device=device))
            (row,) = compare([peer], stage, batch, setup)
            row |= {"frames": frames, "peer": f"stage {stage}'s design, {size}"}
            alone = rows[0] if rows else row
            row["speedup"] = alone["ms_a_sample"] / row["ms_a_sample"]
            rows.append(row | {"efficiency": row["speedup"] / (batch / alone["batch"])})
            yield rows[-1]
        del network, fast, peer
        gc.collect()
