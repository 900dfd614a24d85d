"""Twelve recipes whose music must not change: golden.json has the hashes of their audio and embeddings.

Last bits depend on the machine, so hashes are compared on machines that golden.json knows. Everywhere the number of
evaluations must agree, within 15 % for an adaptive solver, which last bits can turn to other steps, and the level of
each piece (RMS) within 2 %, or 5 % in bfloat16, which CPUs multiply in several ways. If the arithmetic changes on
purpose, raise `SAMPLER` in recipe.py and write the new values of `sample` into golden.json.
"""

import dataclasses
import functools
import hashlib
import json
import re
import tempfile
from pathlib import Path

import pytest
import torch

from musekit.config import MuseConfig, smoke
from musekit.muse import Muse, Settings
from musekit.pretrained import init_random
from musekit.recipe import software

FILE, THREADS, LONG = Path(__file__).with_name("golden.json"), 2, pytest.mark.long
PIANO, DTYPES = "a sad piano melody", {"10-bfloat16": "bfloat16"}
RK4, DOPRI5 = {"stage1_solver": "rk4", "stage1_steps": 8}, {"stage1_solver": "dopri5"}
FIRST = {"steps": 50, "shift": 1.0, "stage1_guidance_scale": 2.0}  # mini's first defaults
RECIPES = {  # name: weights, prompt, n, seed, settings
    "01-default": ("mini", PIANO, 1, 0, {"seconds": 6.0}),
    "02-batch": ("mini", "cheerful music for harpsichord", 4, 7, {"seconds": 12.0}),
    "03-heun": ("mini", "a fast fiddle tune", 2, 3, {"seconds": 3.0, "micro_batch": 1, "solver": "heun", "steps": 6}),
    "04-midpoint": ("mini", "slow organ music", 2, 11, {"seconds": 2.0, "solver": "midpoint", "steps": 4, **RK4}),
    "05-negative": ("mini", "an organ chorale", 2, 5, {"seconds": 4.0, "stage1_guidance_scale": 2.0, "steps": 8}),
    "06-mixed": ("mini", "", 3, 1, {"seconds": 2.0, "steps": 6, "stage1_guidance_scale": 3.0}),
    "07-dopri5-stage1": ("mini", "something sad", 2, 21, {"seconds": 2.0, "solver": "rk4", "steps": 3, **DOPRI5}),
    "08-dopri5-stage2": ("mini", "flute", 1, 2, {"seconds": 1.0, "solver": "dopri5", "micro_batch": 2}),
    "10-bfloat16": ("mini", "music", 2, 9, {"seconds": 4.0, "steps": 8, "micro_batch": 2}),
    "11-smoke": ("smoke", PIANO, 3, 0, {"seconds": 2.0, "stage1_guidance_scale": 3.0}),
    "12-stable-audio": (
        "stable audio",
        PIANO,
        2,
        1,
        {"seconds": 1.5, "steps": 4, "stage1_guidance_scale": 2.0, **DOPRI5},
    ),
}
NEGATIVE = {"05-negative": "slow"}
MIXED = [(PIANO, 1, None), (PIANO, 2, "piano"), ("a reel", 3, "slow organ")]  # prompt, seed, negative prompt


def machine() -> str:
    """What last bits depend on: sampler, torch, instruction set, the CPU's maker and model, the number of threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    model = " ".join(cpu.get(key, "unknown") for key in ("vendor_id", "cpu family", "model"))
    return f"{software().partition(' ')[2]} {model} {torch.get_num_threads()} threads"


def config(weights: str) -> MuseConfig:
    small = smoke()  # without the layers that came later, whose random numbers would change those of the others
    small = dataclasses.replace(small, stage2=dataclasses.replace(small.stage2, controls=False))
    stable_audio = dataclasses.replace(small.stage2, stable_audio=True, modulation=False, patch=1)
    return small if weights == "smoke" else dataclasses.replace(small, stage2=stable_audio)


@functools.cache
def system(weights: str, dtype: str) -> Muse:
    """The packaged weights, or random ones built here."""
    folder = weights if weights == "mini" else init_random(Path(tempfile.mkdtemp()) / "weights", config(weights))
    return Muse.from_pretrained(folder, dtype=dtype)


def digest(x: torch.Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:20]


def sample(name: str) -> dict:
    """Hashes, evaluations and level of each piece of a recipe."""
    weights, prompt, n, seed, settings = RECIPES[name]
    settings = Settings(**(FIRST if weights == "mini" else {}) | settings)
    muse = system(weights, DTYPES.get(name, "float32"))
    pieces = MIXED if name == "06-mixed" else [(prompt, seed + i, NEGATIVE.get(name)) for i in range(n)]
    pieces = list(muse.stream([muse.recipe(p, s, settings, negative) for p, s, negative in pieces]))
    return {
        "audio": [digest(p.audio) for p in pieces],
        "embedding": [digest(p.embedding) for p in pieces],
        "nfe": [[p.nfe["stage1"], p.nfe["stage2"]] for p in pieces],
        "rms": [round(float(p.audio.square().mean().sqrt()), 6) for p in pieces],
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LONG if name in ("02-batch", "08-dopri5-stage2") else ()) for name in RECIPES]
)
def test_the_music_is_unchanged(name):
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        golden, got = json.loads(FILE.read_text()), sample(name)
    finally:
        torch.set_num_threads(before)
    expected = golden["recipes"][name]
    assert torch.tensor(got["nfe"]) == pytest.approx(torch.tensor(expected["nfe"]), rel=0.15 if "dopri5" in name else 0)
    assert got["rms"] == pytest.approx(expected["rms"], rel=0.05 if name in DTYPES else 0.02)
    if known := golden["hashes"].get(machine()):
        assert {kind: got[kind] for kind in ("audio", "embedding")} == known[name]
