"""Folders of weights: safetensors, config.json, and the hash of every file.

config.json  weights.json  codec.safetensors  embedder.safetensors  stage1.safetensors  stage2.safetensors

Public models (Oobleck, MuQ-MuLan, T5) are not copied: config.json names them and `encoders.hub` finds them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from musekit import convert, oobleck
from musekit.codec import SpectralVAE
from musekit.config import MuseConfig, MuseError, SampleConfig, identity, to_json
from musekit.encoders import hub
from musekit.encoders.mini import MiniEmbedder
from musekit.encoders.muq import MuQ
from musekit.files import read_json, sha256, write_atomic
from musekit.stage1 import Text2MuQFlow, TextRegression
from musekit.stage2 import StableAudioMuQ

STUDENT = "draft.safetensors"  # small matrices that make Stage 2 a student of few steps (`distil`)
SCALE = ".scale"  # behind the name of a matrix in 8 bits: that of its rows
PARTS = ("codec", "embedder", "stage1", "stage2")  # the components that generation needs
BASELINE = "regression"  # the notebooks' baseline; a folder need not have it
WEIGHTS = Path(__file__).resolve().parent / "weights"


def public(part: str, config: MuseConfig) -> tuple[str, str, str] | None:
    """(name, config field, subfolder) of the public model used for a component; None for one that is trained here."""
    network = getattr(config, part, None)  # the baseline has no config of its own
    if getattr(network, "kind", None) not in ("t5", "oobleck", "muq"):
        return None
    return network.name, f"{part}.name", "vae" if part == "codec" else ""


def public_hash(part: str, config: MuseConfig) -> str:
    """A hash of this machine's copy of a public model, without loading it. Raises MuseError when there is no copy."""
    return hub.identity(hub.folder(*public(part, config)))


def build(part: str, config: MuseConfig) -> nn.Module:
    """One component, untrained. Raises MuseError for a public one."""
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
    """A folder of weights, given by its path or by the name of a packaged one. Raises MuseError when there is none."""
    name, known = str(name_or_folder), sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))
    for folder in (Path(name), WEIGHTS / name):
        if name and os.path.exists(folder / "config.json"):  # False as well for a name that no path can have
            return folder
    here = f"no weights at {name[:80]!r}: give a folder with a config.json"
    raise MuseError(f"{here}, or one of {', '.join(known)}" if known else here)


def read_config(folder: str | Path) -> MuseConfig:
    """The config of a folder of weights. Raises MuseError when it is damaged or describes an impossible system."""
    path = find(folder) / "config.json"
    config = read_json(path, MuseConfig, known_only=True)
    if broken := misfits(config):
        raise MuseError(f"{path} describes an impossible system: it must be that {'; '.join(broken)}")
    return config


def misfits(config: MuseConfig) -> list[str]:
    """The conditions between fields of a config that are not met."""
    codec, one, two = config.codec, config.stage1, config.stage2
    key_width, bins = two.head_dim * two.kv_heads, codec.linear_bins + 8 * codec.high_bands
    as_published = two.patch == 1 and not two.modulation
    conditions = {
        "stage1.dim = stage2.embedding_dim = embedder.dim": one.dim == two.embedding_dim == config.embedder.dim,
        "stage1.text_dim = text.dim": one.text_dim == config.text.dim,
        "stage1.width is a multiple of stage1.heads and of 2": one.width % one.heads == one.width % 2 == 0,
        "stage1.gaussian_rank < stage1.dim": one.gaussian_rank < one.dim,
        "stage2.latent_dim = codec.latent_dim": two.latent_dim == codec.latent_dim,
        "stage2.width is a multiple of stage2.head_dim * stage2.kv_heads": two.width % key_width == 0,
        "stage2.head_dim is a multiple of 4": two.head_dim % 4 == 0,  # rotary positions rotate pairs in half of a head
        "stage2.time_dim and stage2.number_dim are even": two.time_dim % 2 == two.number_dim % 2 == 0,
        "stage2.stable_audio has modulation = false and patch = 1": as_published or not two.stable_audio,
        "embedder.bands is a multiple of 24": config.embedder.bands % 24 == 0,  # quarter tones of an octave
        "codec.n_fft = 4 * codec.stft_hop": codec.n_fft == 4 * codec.stft_hop,
        "1 <= codec.linear_bins + 8 * codec.high_bands <= codec.n_fft / 2 + 1": 1 <= bins <= codec.n_fft // 2 + 1,
    }
    return [name for name, holds in conditions.items() if not holds]


def read_hashes(folder: Path) -> dict[str, str]:
    """{component: sha256 of its file} of a folder of weights. Raises MuseError when weights.json is not readable."""
    try:
        return read_json(folder / "weights.json", dict[str, str])
    except (OSError, MuseError) as error:
        raise MuseError(f"{folder / 'weights.json'} is missing or damaged; restore it from its source") from error


class Bounded(TorchFunctionMode):
    """Makes no more than `most` numbers of new layers: a stranger's config.json may claim anything. (Counting them on
    the meta device first would import torch's compiler: 130 MB, and seconds.)
    """

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.empty, torch.randn, torch.zeros, torch.ones):
            self.most -= math.prod(args if isinstance(args[0], int) else args[0])
            if self.most < 0:
                raise RuntimeError("the network is larger than this file")
        return function(*args, **(kwargs or {}))


def load_part(folder: str | Path, part: str) -> tuple[nn.Module, str]:
    """One component in float32, and the hash of its file (of its arrays for a public model).

    Public models are moved to the GPU if there is one. Raises MuseError when the file is missing or altered.
    """
    folder = find(folder)
    config, path = read_config(folder), folder / f"{part}.safetensors"
    if public(part, config):
        return load_public(part, config)
    if not path.exists():
        raise MuseError(f"{path} is missing; restore it, or train it: musekit train {part}")
    digest = sha256(path)
    if digest != read_hashes(folder).get(part):
        raise MuseError(f"{path} is not the file that weights.json names (truncated or altered); restore it")
    try:
        with Bounded(2 * path.stat().st_size):  # a parameter takes a byte or two; and room for buffers
            model = build(part, config)
        model.load_state_dict(unpacked(load(path.read_bytes())))
    except (SafetensorError, RuntimeError) as error:
        raise MuseError(f"{path} does not fit {folder / 'config.json'}: {str(error).splitlines()[0]}") from error
    return model.eval().requires_grad_(False), digest


def load_public(part: str, config: MuseConfig) -> tuple[oobleck.Oobleck | MuQ, str]:
    """The public codec or embedder of a config, on a GPU if there is one, and the hash of its arrays."""
    model = oobleck.load(config.codec) if part == "codec" else MuQ(config.embedder)
    return model, hub.fingerprint(model if part == "codec" else model.network)


def initialise(model: nn.Module, part: str, source: str | Path) -> bool:
    """Copy weights into `model` from a folder of weights or from Stable Audio Open (a diffusers folder or hub name).

    Stable Audio Open fits paper's Stage 2 only. Returns whether the source sets the data's scale as well, as Stable
    Audio Open and a codec do. Raises MuseError for weights that do not fit.
    """
    where, known = Path(source), "stabilityai/stable-audio-open-1.0"
    if part == "stage2" and str(source) == known and not where.is_dir():
        hub.folder(known, "--init", convert.PROJECTION)
        where = hub.folder(known, "--init", convert.TRANSFORMER).parent
    if convert.is_foreign(where):
        if part != "stage2":
            raise MuseError(f"{source} is a diffusers folder; only Stage 2 starts from one, {part} does not")
        convert.initialise(model, where)
        return True
    try:
        weights = load_part(source, part)[0].state_dict()
        if part == "stage2":  # other weights may have no controls, whose new layers begin at zero
            new = ("control_", "readout", "tempo", "harmony")
            weights = {k: v for k, v in model.state_dict().items() if k.startswith(new)} | weights
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise MuseError(f"{source} holds a {part} of another shape: {str(error).splitlines()[-1].strip()}") from error
    return part == "codec"


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of `save_part` in float32."""
    scales = {name: tensors.pop(name).float().view(-1, 1) for name in list(tensors) if name.endswith(SCALE)}
    return {name: value.float().mul_(scales.get(f"{name}{SCALE}", 1.0)) for name, value in tensors.items()}


def save_part(folder: Path, part: str, model: nn.Module, config: MuseConfig) -> Path:
    """Write one component and its hash; returns its path. Other components stay.

    Matrices are written in half precision, the codec's in 8 bits and with a scale for each of their rows.
    """
    folder = Path(folder)
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        if part == "codec" and name.endswith(".weight") and value.dim() == 2:
            scale = (value.float().abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            # 127 times a scale of few digits is exact: a matrix that is written again stays what it is
            scale = (scale.view(torch.int32) & ~0xFFF).view(torch.float32)
            tensors[f"{name}{SCALE}"], value = scale, (value / scale).round().clamp(-127, 127).to(torch.int8)
        elif value.dim() > 1:
            value = value.half()
        tensors[name] = (value if value.dim() > 1 else value.float()).contiguous()
    path, data = folder / f"{part}.safetensors", save(tensors)
    digest = hashlib.sha256(data).hexdigest()  # slow, so before weights.json is read: another training may write it
    write_atomic(path, data)
    hashes = read_hashes(folder) if (folder / "weights.json").exists() else {}
    write_atomic(folder / "weights.json", json.dumps({**hashes, part: digest}, indent=1) + "\n")
    write_atomic(folder / "config.json", to_json(config))
    return path


def weights_hash(folder: Path) -> str:
    """A short hash of all that generation reads: weights and config, without the sampling defaults."""
    hashes = read_hashes(folder)
    config = dataclasses.replace(read_config(folder), sample=SampleConfig())
    shape = json.dumps(identity(config), indent=2, sort_keys=True) + "\n"
    hashes |= {part: public_hash(part, config) for part in ("text", *PARTS) if public(part, config)}
    everything = "".join(hashes.get(part, "") for part in ("text", *PARTS)) + shape
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


def init_random(folder: str | Path, config: MuseConfig, seed: int = 0) -> Path:
    """Write a folder of random weights, for tests; returns it. Its audio is noise.

    Layers that are initialised with zeros are random too, so that every input changes every output.
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


def sizes(config: MuseConfig) -> dict[str, str]:
    """{component: number of parameters, and name and licence of a public model}, counted without memory for them."""
    found = {part: "not counted here" for part in ("text", "embedder") if public(part, config)}
    for part in (p for p in (*PARTS, BASELINE) if p not in found):
        with torch.device("meta"):
            network = oobleck.Oobleck(config.codec) if public(part, config) else build(part, config)
        found[part] = f"{sum(p.numel() for p in network.parameters()) / 1e6:9.3f} M parameters"
        if unused := sum(p.numel() for p in network.parameters() if not p.requires_grad):
            found[part] += f", {unused / 1e6:.1f} M of them unused: attention over one token needs no query and key"
    for part in found:
        if named := public(part, config):
            found[part] += f", frozen: {named[0]} ({hub.LICENCES.get(named[0], 'its own licence')})"
    return found
