"""Stable Audio Open <-> our Stage 2: its v-objective, and its weights in diffusers' format.

stable-audio-tools and diffusers put the noise at tau = 1 of a circle. With theta = pi tau / 2,

    z = cos(theta) x_1 + sin(theta) x_0        the network's input, x_1 data and x_0 unit noise
    v = cos(theta) x_0 - sin(theta) x_1        the network's output, dz / d theta

(Salimans & Ho 2022, arXiv 2202.00512). diffusers' schedulers say the same with sigma = tan(theta), sigma_data = 1.

Our path is the chord of that circle's quarter. Let s = sqrt(t^2 + (1 - t)^2), between sqrt(1/2) and 1. Then

    x_t = (1 - t) x_0 + t x_1 = s z            with cos(theta) = t / s, sin(theta) = (1 - t) / s

so tau = 2 atan2(1 - t, t) / pi. Solving z and v for x_1 = cos z - sin v and x_0 = sin z + cos v gives our velocity

    u = x_1 - x_0 = (cos - sin) z - (cos + sin) v = ((2 t - 1) x_t - s v) / s^2

which is finite everywhere and affine in v, so guidance of v is guidance of u.

A diffusers pipeline's folder holds transformer/ (`StableAudioDiTModel`) and projection_model/ (the embedders of start
and total seconds). Its text projection has no counterpart: our one conditioning token comes from the joint embedding.
"""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from musekit.config import MuseError
from musekit.files import read_json


def foreign_time(t: Tensor) -> Tensor:
    """tau (B,) that the v-objective network is given for our time t (B,); tau = 1 is noise."""
    return torch.atan2(1 - t, t) * (2 / math.pi)


def affine(t: Tensor) -> Tensor:
    """(3, B) for t (B,): the input is z = a x_t, and our velocity is u = b x_t + c v."""
    s = torch.sqrt(t**2 + (1 - t) ** 2)
    return torch.stack([1 / s, (2 * t - 1) / s**2, -1 / s])


CLASS, TRANSFORMER, PROJECTION = "StableAudioDiTModel", "transformer", "projection_model"
OURS_ONLY = ("embedding_projection.", "null_token", "mean", "std")

TIMING = {"timing.start": "start", "timing.total": "end"}  # of the projection model
ARRAYS = {"time.frequencies": "time_proj.weight"} | {
    f"{ours}.{name}": f"{theirs}_number_conditioner.time_positional_embedding.{their_name}"
    for ours, theirs in TIMING.items()
    for name, their_name in (("frequencies", "0.weights"), ("out.weight", "1.weight"), ("out.bias", "1.bias"))
}
MODULES = {
    "time.network.0": "timestep_proj.0",
    "time.network.2": "timestep_proj.2",
    "timing.network.0": "global_proj.0",
    "timing.network.2": "global_proj.2",
    "token.0": "cross_attention_proj.0",
    "token.2": "cross_attention_proj.2",
    "preprocess": "preprocess_conv",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "postprocess": "postprocess_conv",
}
BLOCK = {  # ours: what of theirs is stacked in it
    "norm_attention": ["norm1"],
    "qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "out": ["attn1.to_out.0"],
    "norm_cross": ["norm2"],
    "cross_query": ["attn2.to_q"],
    "cross_key": ["attn2.to_k"],
    "cross_value": ["attn2.to_v"],
    "cross_out": ["attn2.to_out.0"],
    "norm_ff": ["norm3"],
    "gate_up": ["ff.net.0.proj"],
    "down": ["ff.net.2"],
}


def their_names(ours: str) -> list[str]:
    """Names in their state dicts of what is stacked in one array of ours."""
    module, _, kind = ours.rpartition(".")
    if ours in ARRAYS:
        return [ARRAYS[ours]]
    if module.startswith("blocks."):
        _, i, module = module.split(".", 2)
        return [f"transformer_blocks.{i}.{name}.{kind}" for name in BLOCK[module]]
    return [f"{MODULES[module]}.{kind}"]


def to_ours(theirs: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their arrays under the names that `like`, our state dict, has. Raises KeyError for one that they lack."""
    ours = {}
    for name in like:
        if not name.startswith(OURS_ONLY):
            value = torch.cat([theirs[n] for n in their_names(name)])
            ours[name] = value.squeeze(-1) if value.dim() == 3 else value  # a convolution of width 1 is a matrix
    return ours


def to_theirs(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_ours`: the transformer's and the projection model's arrays, under their names."""
    theirs = {}
    for name, value in ours.items():
        if not name.startswith(OURS_ONLY):
            names = their_names(name)
            wide = value[..., None] if name.startswith(("preprocess.", "postprocess.")) else value
            theirs |= {n: part.contiguous() for n, part in zip(names, wide.chunk(len(names)), strict=True)}
    return theirs


def is_foreign(folder: Path) -> bool:
    """Whether this is a diffusers folder: of a pipeline, or of one of its models."""
    if (folder / "model_index.json").exists() or (folder / TRANSFORMER / "config.json").exists():
        return True
    try:
        return "_class_name" in read_json(folder / "config.json", dict)
    except (OSError, ValueError, MuseError):
        return False


def read_model(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """config.json and all arrays of a model's folder. Raises MuseError where one is missing or damaged."""
    files = sorted(p for p in folder.glob("*.safetensors") if ".fp16." not in p.name)
    try:
        arrays = {name: value for path in files for name, value in load_file(path).items()}
        config = read_json(folder / "config.json", dict)
    except (OSError, SafetensorError, MuseError) as error:
        raise MuseError(f"{folder} is damaged or incomplete ({error}); fetch the model's folder again") from error
    if not files:
        raise MuseError(f"{folder} holds no .safetensors; fetch the model's folder again, with its weights")
    return config, arrays


def initialise(network, folder: Path) -> list[str]:
    """Give Stage 2 `network` the weights of a diffusers Stable Audio Open folder; returns the names that stay random.

    These are the embedding's projection, which has no counterpart, and the timing's embedders where the folder has no
    projection_model/. The null token becomes the zero token that the model was trained with. Latents are not
    standardised (mean 0, deviation 1): the learned path has unit noise at the latents' own scale. Raises MuseError
    where the folder is no Stable Audio Open, is damaged, or has another shape than `network`.
    """
    ours = network.config
    if not ours.stable_audio:
        raise MuseError(f"{folder} is a diffusers folder, but this preset's Stage 2 is another network; use paper")
    inside = folder / TRANSFORMER if (folder / TRANSFORMER).is_dir() else folder
    config, arrays = read_model(inside)
    if config.get("_class_name") != CLASS:
        raise MuseError(f"{inside} holds a {str(config.get('_class_name'))[:60]}, not Stable Audio Open's {CLASS}")
    numbers = {"attention_head_dim": (config.get("attention_head_dim"), ours.head_dim)}
    has_timing = (inside.parent / PROJECTION).is_dir()
    if has_timing:
        projection, more = read_model(inside.parent / PROJECTION)
        arrays |= more
        expected = {"min_value": 0, "max_value": ours.max_seconds}
        numbers |= {name: (projection.get(name), value) for name, value in expected.items()}
    wrong = [f"{name} {theirs} (ours {expected})" for name, (theirs, expected) in numbers.items() if theirs != expected]
    state = network.state_dict()
    wanted = {k: v for k, v in state.items() if has_timing or not k.startswith(tuple(TIMING))}
    try:
        if wrong:
            raise RuntimeError(", ".join(wrong))
        loaded = to_ours(arrays, wanted)
        network.load_state_dict({**state, **loaded, "null_token": torch.zeros_like(state["null_token"])})
    except (KeyError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise MuseError(f"{folder} has another shape than this preset's Stage 2: {why}") from error
    return [name for name in state if name not in loaded and name not in OURS_ONLY]
