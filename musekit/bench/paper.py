"""`musekit bench paper`: the full-size system on one machine, in the order of what the numbers are worth.

Every row runs the preset's own defaults, or names what it changes: training steps are `musekit train`'s, and Stage 1
samples through `Muse.embed_batch`, as `Muse.generate` does, from the text encoder's states to embeddings on the CPU.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from musekit.bench import networks, stages
from musekit.bench.end_to_end import warm
from musekit.bench.measure import Row, Setup, about_a_second, compare, peak_bytes, row
from musekit.bench.train import free_memory, step
from musekit.inference import sample_stage1
from musekit.muse import Muse, Settings
from musekit.stage1 import Stage1Inference
from musekit.stage2 import Stage2Inference

BATCH, MANY = 32, 256  # samples per step of training, and of Stage 1 at once
BARS = {"training": 0.5, 1: 14.0, MANY: 0.15}  # MFU; milliseconds per sample of Stage 1, by batch; all on one H100
AGAINST_DIFFUSERS = 1.3
PROMPTS = {16: "a sad piano melody", 32: "a slow lament for solo cello and piano, " * 3}  # by what they are padded to


def paper(setup: Setup) -> Iterator[Row]:
    """All rows whose time, compilation included, fits into what is left of the budget; others are left out by name."""
    began = time.perf_counter()
    made: dict[str, object] = {}
    cases: list[tuple[str, float, Callable[[], Iterator[Row]]]] = [  # (name, seconds on one H100, its rows)
        ("training, compiled blocks", 45, lambda: training(("compile",), setup)),
        ("Stage 2, batch 16", 25, lambda: stage2(made, False, setup)),
        ("Stage 1, batch 1", 25, lambda: stage1(made, 1, 16, setup)),
        (f"Stage 1, batch {MANY}", 20, lambda: stage1(made, MANY, 16, setup)),
        ("mini, 4 pieces", 20, lambda: mini(setup)),
        ("Stage 1, batch 1, 32 tokens", 15, lambda: stage1(made, 1, 32, setup)),
        ("Stage 2 against diffusers", 60, lambda: stage2(made, True, setup)),
        ("training, recomputed", 15, lambda: training(("compile", "recompute"), setup)),
        ("training, as written", 10, lambda: training((), setup)),
        ("Stage 1, dopri5", 20, lambda: stage1(made, 1, 16, setup, stage1_solver="dopri5")),
    ]
    for name, seconds, rows in cases:
        left = setup.budget - (time.perf_counter() - began)
        if seconds > left:
            print(f"left out: {name}: about {seconds:g} s, and {max(0, left):.0f} s are left", flush=True)
            continue
        try:
            yield from rows()
        except Exception as error:  # the machine is lent: what one row meets must not cost the others
            traceback.print_exc()
            print(f"left out: {name}: {type(error).__name__}", flush=True)
        free_memory(setup.device)


def training(options: tuple[str, ...], setup: Setup) -> Iterator[Row]:
    """A step of Stage 2's training."""
    found = step(2, 2 if setup.quick else BATCH, options, setup)
    if options == ("compile",) and setup.device.type == "cuda":
        found |= {"bar": f">= {100 * BARS['training']:g} % MFU", "met": found["mfu"] >= BARS["training"]}
    yield found


def stage1(made: dict, batch: int, tokens: int, setup: Setup, **settings) -> Iterator[Row]:
    """Milliseconds per sample of Stage 1 for prompts that are padded to so many tokens."""
    if "muse" not in made:
        made["muse"] = networks.system(setup.quick)
    muse: Muse = made["muse"]
    vars(muse).pop("inference1", None)  # with its recorded graphs
    if "stage1_solver" in settings:  # an adaptive one, whose tolerance is below bfloat16's rounding
        muse = replace(muse, stage1_dtype="float32")
        muse.stage1, muse.text, muse.weights = made["muse"].stage1, made["muse"].text, "random"
    batch = min(batch, 4) if setup.quick else batch
    settings |= {"micro_batch": batch, **({"stage1_steps": 3} if setup.quick else {})}
    recipes = [muse.recipe(PROMPTS[tokens], seed, Settings(**settings)) for seed in range(batch)]
    assert recipes[0].max_tokens == tokens
    times = about_a_second(lambda: muse.embed_batch(recipes), muse.device, setup.quick)
    (embedding, nfe), at = muse.embed_batch(recipes), recipes[0]
    plain = Stage1Inference(muse.stage1, torch.float32, compile=False)
    with torch.inference_mode():
        exact = sample_stage1(plain, muse.text, recipes)[0].cpu()
    how = f"{at.stage1_solver}, {at.stage1_steps} steps, guidance {at.stage1_guidance_scale:g}; all defaults but "
    how += ", ".join(f"{name} {value}" for name, value in settings.items())
    bar = BARS.get(batch) if not settings.keys() & {"stage1_solver"} and muse.device.type == "cuda" else None
    name = f"Stage 1, batch {batch}, {tokens} tokens, {at.stage1_solver}"
    found = row(name, [1000 * t / batch for t in times], "ms a sample", how, bar and ("<", bar))
    found |= {"stage": 1, "batch": batch, "tokens": tokens, "dtype": at.stage1_dtype, "steps": at.stage1_steps}
    found |= {"nfe": int(nfe.max()), "cosine_to_float32": float((embedding * exact).sum(-1).min())}
    yield found | peak_bytes(lambda: muse.embed_batch(recipes), muse.device)


def stage2(made: dict, against: bool, setup: Setup) -> Iterator[Row]:
    """A guided step of Stage 2 at batch 16, alone, or in turn with diffusers' transformer, compiled as a whole."""
    device, batch, frames = setup.device, 2 if setup.quick else 16, 16 if setup.quick else stages.FRAMES
    if "stage2" not in made:
        network = networks.stage2(networks.stage2_config("1.05B", setup.quick), device)
        made["stage2"] = network, Stage2Inference(network, torch.bfloat16)
    network, fast = made["stage2"]
    x = torch.randn(batch, network.config.latent_dim, frames, device=device)
    peers = [stages.prepared2(network, fast, x)]
    if against:
        theirs = torch.nn.Module.to(stages.transformer(network, frames), torch.bfloat16)
        if device.type == "cuda":
            theirs = torch.compile(theirs, mode="reduce-overhead")
        peers.insert(0, stages.diffusers_peer(theirs, network, x, torch.bfloat16, name="diffusers, compiled"))
    for found in compare(peers, 2, batch, setup):
        if against and found["peer"] == "prepared" and device.type == "cuda":
            found |= {"bar": f">= {AGAINST_DIFFUSERS:g} x", "met": found["speedup"] >= AGAINST_DIFFUSERS}
        yield found | {"frames": frames}


def mini(setup: Setup) -> Iterator[Row]:
    """Four pieces of the packaged preset from a loaded system, by its defaults."""
    muse = Muse.from_pretrained("mini")
    if setup.quick:
        yield from warm(muse, 1, 0.2, 1, 1)[:2]
    else:
        yield from warm(muse, 4, muse.config.sample.seconds, None, 3)[:2]
