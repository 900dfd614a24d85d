"""Embeddings of held-out clips, stored with the weights of their embedder.

Many clips match one sentence. The notebooks, the lab and the map compare samples with real clips that nothing was
trained on, also on a machine without the corpus: `reference.safetensors`, below 1 MB, has their embeddings in half
precision and their metadata, but no audio. `build_reference` writes it from a cache.

    reference = read_reference("mini")
    matching = reference.matching({"mode": "minor", "speed": "slow"})   # indices of the slow clips in minor
    spread(reference.embeddings[matching])                              # how different they are
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from musekit.cache import Shards, read_clips
from musekit.claims import matches
from musekit.config import MuseError
from musekit.files import decode, regular, write_atomic
from musekit.pretrained import find, read_hashes

FILE = "reference.safetensors"
MAX_CLIPS = 600  # 600 x 512 half-precision numbers are 614 kB
SPLITS = ("valid", "test")
CLIP_FIELDS = (
    "id", "work", "family", "split", "title", "composer", "era", "form", "instrumentation", "texture", "key", "mode",
    "bpm", "onset_rate", "speed", "metre", "dynamic", "mood", "style", "instruments", "bars", "captions",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """Held-out clips and their audio embeddings; `embeddings[i]` is that of `clips[i]`."""

    embeddings: Tensor  # (n, 512) float32, unit length
    clips: list[dict]  # `CLIP_FIELDS` of each clip's record
    embedder: str  # sha256 of the embedder's weights

    def matching(self, asks: dict) -> list[int]:
        """Indices of the clips with these attributes, such as {"mode": "minor"}; all clips for an empty dict."""
        return [i for i, clip in enumerate(self.clips) if matches(asks, clip)]


def spread(x: Tensor) -> float:
    """Mean distance between two different rows of x (n, D); NaN for fewer than two rows."""
    return float(torch.pdist(x.double()).mean()) if len(x) > 1 else float("nan")


def build_reference(cache: str | Path, weights: str | Path) -> Path:
    """Write `reference.safetensors` into the folder `weights` from the held-out clips of `cache`; returns its path.

    Of more than `MAX_CLIPS` clips, the first in the order of their ids' hashes: the same ones on every machine.
    Raises MuseError when the cache has no held-out clip, or lacks embeddings by these weights.
    """
    folder, shards = find(weights), Shards(Path(cache) / "embeddings")
    digest, held_out = read_hashes(folder)["embedder"], [c for c in read_clips(Path(cache)) if c["split"] in SPLITS]
    clips = sorted(held_out, key=lambda clip: hashlib.sha256(clip["id"].encode()).hexdigest())[:MAX_CLIPS]
    if not clips:
        raise MuseError(f"{cache} has no clip of the splits {', '.join(SPLITS)}; make a larger cache")
    if shards.manifest["maker"] != f"embeddings {digest[:16]}" or any(clip["id"] not in shards for clip in clips):
        raise MuseError(
            f"{cache} lacks embeddings by {folder}; make them: musekit cache --kinds embeddings --weights {folder}"
        )
    embeddings = shards.all([clip["id"] for clip in clips])[:, 0]
    records = json.dumps([{k: clip[k] for k in CLIP_FIELDS if k in clip} for clip in clips], ensure_ascii=False)
    packed = torch.frombuffer(bytearray(zlib.compress(records.encode(), 9)), dtype=torch.uint8)
    about = {"embedder": digest, "splits": ",".join(SPLITS), "clips": str(len(clips)), "records": "JSON, zlib"}
    write_atomic(folder / FILE, save({"embeddings": embeddings.to(torch.float16), "records": packed}, metadata=about))
    return folder / FILE


def read_reference(weights: str | Path = "mini") -> Reference:
    """The held-out clips of a folder of weights, or of a packaged preset.

    Raises MuseError when the file is missing, damaged, or was made by another embedder.
    """
    folder = find(weights)
    path = folder / FILE
    if not path.exists():
        raise MuseError(f"{path} is missing; restore it, or make it with `musekit.heldout.build_reference`")
    try:
        with safe_open(regular(path), framework="pt") as file:
            embeddings, packed = file.get_tensor("embeddings").float(), file.get_tensor("records")
            embedder = file.metadata()["embedder"]
        clips = decode(zlib.decompress(bytes(packed.tolist())), list[dict], str(path))
    except (OSError, SafetensorError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise MuseError(f"{path} is damaged ({error}); restore it from its source") from error
    if embedder != read_hashes(folder).get("embedder") or len(clips) != len(embeddings):
        raise MuseError(f"{path} was not made by this folder's embedder; make it again with `build_reference`")
    return Reference(torch.nn.functional.normalize(embeddings, dim=-1), clips, embedder)
