"""Public models: where they are found, and one clear error where they are not.

A name is a folder, or "owner/model" of the Hugging Face hub. A hub name is looked for in models/ under MUSEKIT_HOME
(models/flan-t5-base for "google/flan-t5-base"), then in the hub's own cache. Only the models of `LICENCES` are fetched:
a stranger's config.json may name any other.
"""

import contextlib
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from musekit.config import MuseError, home

LICENCES = {
    "google/flan-t5-base": "Apache-2.0",
    "OpenMuQ/MuQ-MuLan-large": "CC-BY-NC 4.0",
    "OpenMuQ/MuQ-large-msd-iter": "CC-BY-NC 4.0",
    "FacebookAI/xlm-roberta-base": "MIT",
    "xlm-roberta-base": "MIT",
    "stabilityai/stable-audio-open-1.0": "Stability AI Community licence",
}
WEIGHTS = ("*.safetensors", "*.bin")  # the second only where the first is missing; read with weights_only
SETTINGS = ("*.json", "*.model", "*.txt")


def on_this_machine(name: str, near: Path | None = None) -> Path | None:
    """A model's folder: the path itself, inside or beside `near`, or in MUSEKIT_HOME/models; None if it is in none.

    A link keeps its own name, since muq recognises its backbones by theirs. Raises MuseError for an invalid name.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # too long for a path, a zero byte, an unknown ~user
        if name and Path(name).expanduser().is_dir():
            return Path(name).expanduser().absolute()
    if len(name) > 200 or not re.fullmatch(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", name):
        raise MuseError(f"{name[:80]!r} is neither a folder here nor a model's hub name (owner/model)")
    places = [*([near, near.parent, near.resolve().parent] if near else []), home() / "models"]
    copies = (place / name.rpartition("/")[2] for place in places)
    return next((copy.absolute() for copy in copies if copy.is_dir()), None)


def fetched(name: str, part: str) -> Path:
    """The hub's copy of a model (of its subfolder `part`): from the hub's cache, else from the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = None
    for offline in (True, False):
        for weights in WEIGHTS:
            patterns = [f"{part}/{p}" if part else p for p in (weights, *SETTINGS)]
            with contextlib.suppress(*[LocalEntryNotFoundError] * offline):
                folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=offline))
            if folder and any((folder / part).glob(weights)):
                return folder
    raise FileNotFoundError(f"no weights in {name}")


def folder(name: str, field: str, part: str = "", near: Path | None = None) -> Path:
    """The folder (its subfolder `part` if there is one) of the model that `field` of the config names.

    Raises MuseError where it cannot be found or fetched; the error says which model, its licence, and where to put it.
    """
    found = on_this_machine(name, near)
    if found is None and name not in LICENCES:
        trust = f"if you trust it: hf download {name} --local-dir {home() / 'models' / name.rpartition('/')[2]}"
        raise MuseError(
            f"{field} is {name}, which is not here, and MUSE does not know it, so it is not fetched; {trust}"
        )
    if found is None:
        with loading(name, field):
            found = fetched(name, part)
    inside = found / part if part and (found / part).is_dir() else found
    if not (inside / "config.json").exists():
        raise MuseError(f"{inside} has no config.json; {field} needs a complete copy of such a model's folder")
    return inside


@contextlib.contextmanager
def loading(name: str, field: str) -> Iterator[None]:
    """Whatever a library raises while it loads `name` becomes one MuseError; its prints go to standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except MuseError:
        raise
    except Exception as error:  # many libraries, many exceptions, one remedy
        raise load_error(name, field, error) from error


def load_error(name: str, field: str, error: Exception) -> MuseError:
    """What is wrong or missing, the model's licence, and where to put it."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if (here := on_this_machine(name)) is not None:
        return MuseError(f"{here} is not a complete copy of the model in {field} ({reason}); fetch it again")
    gated = re.search(r"gated|\b40[13]\b", f"{reason} {error.__cause__}", re.IGNORECASE)
    first = "accept its licence on the Hugging Face hub, run `hf auth login` and " if gated else ""
    place = f"put a copy into {home() / 'models' / name.rpartition('/')[2]}, or name its folder in {field}"
    return MuseError(
        f"{name} (licence: {LICENCES.get(name)}) is not on this machine and could not be fetched ({reason}): {first}run"
        f" `hf download {name}`, or {place}"
    )


def fingerprint(model: torch.nn.Module) -> str:
    """sha256 of all arrays with their names and shapes: it identifies weights wherever they are stored."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def identity(folder: Path) -> str:
    """A hash of a model's folder without loading it: sizes and samples of its files.

    Of a file above 8 MiB 128 evenly spaced pieces are read: other weights differ everywhere, and 2.5 GB cost nothing.
    """
    digest, piece = hashlib.sha256(), 2**16
    used = next((pattern for pattern in WEIGHTS if any(folder.glob(pattern))), WEIGHTS[0])
    for path in sorted(p for pattern in (used, *SETTINGS) for p in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for start in range(0, size, piece) if size <= 2**23 else [i * (size - piece) // 127 for i in range(128)]:
                file.seek(start)
                digest.update(file.read(piece))
    return digest.hexdigest()
