"""Folders of weights: safetensors + config.json + the hash of every file.

config.json  weights.json  codec.safetensors  embedder.safetensors  stage1.safetensors  stage2.safetensors

Public models (Oobleck, MuQ-MuLan, T5) are not copied: config.json names them, `encoders.hub` finds them.
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

from musekit import convert, oobleck
from musekit.bounds import check
from musekit.codec import SpectralVAE
from musekit.config import MuseConfig, MuseError, SampleConfig, from_json, identity, to_json
from musekit.encoders import MiniEmbedder, MuQ, hub
from musekit.files import sha256, write_atomic
from musekit.stage1 import Text2MuQFlow, TextRegression
from musekit.stage2 import StableAudioMuQ

PARTS = ("codec", "embedder", "stage1", "stage2")  # what generation needs
BASELINE = "regression"  # the notebooks' baseline; a folder may leave it out
WEIGHTS = Path(__file__).resolve().parent / "weights"


def public(part: str, config: MuseConfig) -> tuple[str, str, str] | None:
    """(name, field of the config, subfolder) of the public model that serves as this part; None: it is trained here."""
    models = {
        "text": (config.text.kind == "t5", config.text.name, "text.name", ""),
        "codec": (config.codec.kind == "oobleck", config.codec.name, "codec.name", "vae"),
        "embedder": (config.embedder.kind == "muq", config.embedder.name, "embedder.name", ""),
    }
    is_public, *where = models.get(part, (False, "", "", ""))
    return tuple(where) if is_public else None


def public_hash(part: str, config: MuseConfig) -> str:
    """What tells this copy of a public model from another, without loading it. Raises MuseError when there is none."""
    return hub.identity(hub.folder(*public(part, config)))


def build(part: str, config: MuseConfig) -> nn.Module:
    """One part of the system, untrained. Raises MuseError for a public one, and for numbers that cannot be built."""
    check(config)
    if found := public(part, config):
        raise MuseError(f"the {config.name} preset's {part} is {found[0]}, frozen: it is not trained or written here")
    makers = {
        "codec": lambda: SpectralVAE(config.codec),
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
    """The config of a folder of weights. Raises MuseError when it is none, or one that cannot be built."""
    path = find(folder) / "config.json"
    config = from_json(path.read_text(errors="replace"), where=str(path))
    check(config, str(path))
    return config


def read_hashes(folder: Path) -> dict[str, str]:
    """{part: sha256} that the folder promises."""
    try:
        return dict(json.loads((folder / "weights.json").read_text()).items())
    except (OSError, ValueError, AttributeError) as error:
        raise MuseError(f"{folder / 'weights.json'} is missing or damaged; restore it from where it came") from error


def load_part(folder: str | Path, part: str) -> tuple[nn.Module, str]:
    """One trained part in float32, and its file's hash. Raises MuseError when the file is missing or altered.

    A public model comes from where the folder's config names it.
    """
    folder = find(folder)
    config, path = read_config(folder), folder / f"{part}.safetensors"
    if public(part, config):
        return load_public(part, config)
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


def load_public(part: str, config: MuseConfig) -> tuple[oobleck.Oobleck | MuQ, str]:
    """The public model that serves as this part, on a GPU if there is one, and the hash of its arrays."""
    if part == "codec":
        codec = oobleck.load(config.codec)
        return codec, hub.fingerprint(codec)
    embedder = MuQ(config.embedder)
    return embedder, hub.fingerprint(embedder.network)


def initialise(model: nn.Module, part: str, source: str | Path) -> bool:
    """Start `model` from a folder of our weights or from Stable Audio Open; whether that set the data's scale too.

    Stable Audio Open is a diffusers folder or its hub name; it fits the paper preset's Stage 2 and keeps its latents'
    own scale. Raises MuseError for anything else.
    """
    where, known = Path(source), "stabilityai/stable-audio-open-1.0"
    if part == "stage2" and str(source) == known and not where.is_dir():
        inside = [hub.folder(known, "--init", p) for p in (convert.PROJECTION, convert.TRANSFORMER)]
        where = inside[-1].parent
    if convert.is_foreign(where):
        if part != "stage2":
            raise MuseError(f"{source} is a diffusers folder; only Stage 2 starts from one, {part} does not")
        convert.initialise(model, where)
        return True
    try:
        model.load_state_dict(load_part(source, part)[0].state_dict())
    except RuntimeError as error:
        raise MuseError(f"{source} holds a {part} of another shape: {str(error).splitlines()[-1].strip()}") from error
    return False


def save_part(folder: Path, part: str, model: nn.Module, config: MuseConfig, half: bool = True) -> Path:
    """Write one part (matrices in half precision) and its hash; the others stay as they are."""
    folder = Path(folder)
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        tensors[name] = (value.to(torch.float16) if half and value.dim() > 1 else value.float()).contiguous()
    path, data = folder / f"{part}.safetensors", save(tensors)
    digest = hashlib.sha256(data).hexdigest()  # before weights.json is read: another part may be written meanwhile
    write_atomic(path, data)
    hashes = read_hashes(folder) if (folder / "weights.json").exists() else {}
    write_atomic(folder / "weights.json", json.dumps({**hashes, part: digest}, indent=1) + "\n")
    write_atomic(folder / "config.json", to_json(config))
    return path


def weights_hash(folder: Path) -> str:
    """One short hash of everything that generation reads: the parts and their shape, but not the sampling defaults."""
    hashes = read_hashes(folder)
    config = dataclasses.replace(read_config(folder), sample=SampleConfig())
    shape = json.dumps(identity(config), indent=2, sort_keys=True) + "\n"
    hashes |= {part: public_hash(part, config) for part in ("text", *PARTS) if public(part, config)}
    everything = "".join(hashes.get(part, "") for part in ("text", *PARTS)) + shape
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


def init_random(folder: str | Path, config: MuseConfig, seed: int = 0) -> Path:
    """Write a whole folder of random weights, for tests; returns it. What it generates is noise, whatever the prompt.

    Layers that training starts at zero are drawn too, so that every input changes every output.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in (p for p in (*PARTS, BASELINE) if not public(p, config)):
            model = build(part, config)
            for parameter in model.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.05)
            save_part(Path(folder), part, model, config)
    return Path(folder)
