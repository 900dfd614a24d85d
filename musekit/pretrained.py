"""Folders of weights: safetensors + config.json + the hash of every file.

config.json  weights.json  codec.safetensors  embedder.safetensors  stage1.safetensors  stage2.safetensors
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from musekit import codec as codec_module
from musekit.config import MuseConfig, MuseError, SampleConfig, from_json, to_json
from musekit.encoders import MiniEmbedder
from musekit.runs import sha256, write_atomic
from musekit.stage1 import Text2MuQFlow, TextRegression
from musekit.stage2 import StableAudioMuQ

PARTS = ("codec", "embedder", "stage1", "stage2")  # what generation needs
BASELINE = "regression"  # the notebooks' baseline; a folder may leave it out
WEIGHTS = Path(__file__).resolve().parent / "weights"


def build(part: str, config: MuseConfig) -> nn.Module:
    """One part of the system, untrained."""
    makers = {
        "codec": lambda: codec_module.build(config.codec),
        "embedder": lambda: MiniEmbedder(config.embedder, config.text),
        "stage1": lambda: Text2MuQFlow(config.stage1),
        BASELINE: lambda: TextRegression(config.stage1),
        "stage2": lambda: StableAudioMuQ(config.stage2),
    }
    return makers[part]()


def find(name_or_folder: str | Path) -> Path:
    """A folder of weights, by path or by the name of one that comes with the package."""
    name, known = str(name_or_folder), sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))
    for folder in (Path(name), WEIGHTS / name):
        try:
            if name and (folder / "config.json").exists():
                return folder
        except (OSError, ValueError):
            break  # too long for a name, or a zero byte in it
    here = f"no weights at {name[:80]!r}: give a folder with a config.json"
    raise MuseError(f"{here}, or one of {', '.join(known)}" if known else here)


def read_config(folder: str | Path) -> MuseConfig:
    """The config of a folder of weights."""
    path = find(folder) / "config.json"
    return from_json(path.read_text(errors="replace"), where=str(path))


def read_hashes(folder: Path) -> dict[str, str]:
    """{part: sha256} that the folder promises."""
    try:
        return dict(json.loads((folder / "weights.json").read_text()).items())
    except (OSError, ValueError, AttributeError) as error:
        raise MuseError(f"{folder / 'weights.json'} is missing or damaged; restore it from where it came") from error


def load_part(folder: str | Path, part: str) -> tuple[nn.Module, str]:
    """One trained part in float32, and its file's hash. Raises MuseError when the file is missing or altered."""
    folder = find(folder)
    config, path = read_config(folder), folder / f"{part}.safetensors"
    if not path.exists():
        raise MuseError(f"{path} is missing; restore it, or train it: musekit train {part}")
    digest, promised = sha256(path), read_hashes(folder).get(part)
    if digest != promised:
        raise MuseError(f"{path} is not the file that weights.json names (truncated or altered); restore it")
    model = build(part, config)
    try:
        tensors = {k: v.float() for k, v in load(path.read_bytes()).items()}
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise MuseError(f"{path} does not fit {folder / 'config.json'}: {str(error).splitlines()[0]}") from error
    return model.eval().requires_grad_(False), digest


def save_part(folder: Path, part: str, model: nn.Module, config: MuseConfig, half: bool = True) -> Path:
    """Write one part (matrices in half precision) and its hash; the others stay as they are."""
    folder = Path(folder)
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        tensors[name] = (value.to(torch.float16) if half and value.dim() > 1 else value.float()).contiguous()
    path = folder / f"{part}.safetensors"
    write_atomic(path, save(tensors))
    hashes = read_hashes(folder) if (folder / "weights.json").exists() else {}
    write_atomic(folder / "weights.json", json.dumps({**hashes, part: sha256(path)}, indent=1) + "\n")
    write_atomic(folder / "config.json", to_json(config))
    return path


def weights_hash(folder: Path) -> str:
    """One short hash of everything that generation reads: the parts and their shape, but not the sampling defaults."""
    hashes = read_hashes(folder)
    shape = to_json(dataclasses.replace(read_config(folder), sample=SampleConfig()))
    everything = "".join(hashes.get(part, "") for part in PARTS) + shape
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


def init_random(folder: str | Path, config: MuseConfig, seed: int = 0) -> Path:
    """Write a whole folder of random weights, for tests; returns it. What it generates is noise, whatever the prompt.

    Layers that training starts at zero are drawn too, so that every input changes every output.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in (*PARTS, BASELINE):
            model = build(part, config)
            for parameter in model.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.05)
            save_part(Path(folder), part, model, config)
    return Path(folder)
