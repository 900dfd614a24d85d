"""Embeddings of held-out clips, stored with the weights of their embedder.

Many clips match one sentence. The notebooks, the lab and the map compare samples with real clips that nothing was
trained on, also on a machine without the corpus: `reference.safetensors`, below 1 MB, has their embeddings in half
precision and their metadata, but no audio.

    reference = read_reference("mini")
    matching = reference.matching({"mode": "minor", "speed": "slow"})   # indices of the slow clips in minor
    spread(reference.embeddings[matching])                              # how different they are
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from musekit.config import MuseError

FILE = "reference.safetensors"
MAX_CLIPS = 600  # 600 x 512 half-precision numbers are 614 kB
SPLITS = ("valid", "test")
CLIP_FIELDS = (
    "id", "work", "family", "split", "title", "composer", "era", "form", "instrumentation", "texture", "key", "mode",
    "bpm", "onset_rate", "speed", "metre", "dynamic", "mood", "captions",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """Held-out clips and their audio embeddings; `embeddings[i]` is that of `clips[i]`."""

    embeddings: Tensor  # (n, 512) float32, unit length
    clips: list[dict]  # `CLIP_FIELDS` of each clip's record
    embedder: str  # sha256 of the embedder's weights

    def matching(self, asks: dict) -> list[int]:
        """Indices of the clips with these attributes, such as {"mode": "minor"}; all clips for an empty dict."""
        from musekit.claims import matches

        return [i for i, clip in enumerate(self.clips) if matches(asks, clip)]


def spread(x: Tensor) -> float:
    """Mean distance between two different rows of x (n, D); NaN for fewer than two rows."""
    return float(torch.pdist(x.double()).mean()) if len(x) > 1 else float("nan")


def choose(clips: list[dict], limit: int = MAX_CLIPS) -> list[dict]:
    """Up to `limit` held-out clips in the order of their ids' hashes: the same ones on every machine."""
    held_out = [clip for clip in clips if clip["split"] in SPLITS]
    return sorted(held_out, key=lambda clip: hashlib.sha256(clip["id"].encode()).hexdigest())[:limit]


def build_reference(cache: str | Path, weights: str | Path, limit: int = MAX_CLIPS) -> Path:
    """Write `reference.safetensors` into the folder `weights` from the held-out clips of `cache`; returns its path.

    The embeddings are the cached ones if these weights made them, else they are computed from the audio. Raises
    MuseError when the cache has no held-out clip.
    """
    from safetensors.torch import save

    from musekit.cache import read_clips
    from musekit.files import write_atomic
    from musekit.pretrained import find, load_part

    cache, folder = Path(cache), find(weights)
    network, digest = load_part(folder, "embedder")
    clips = choose(read_clips(cache), limit)
    if not clips:
        raise MuseError(f"{cache} has no clip of the splits {', '.join(SPLITS)}; make a larger cache")
    embeddings = cached_embeddings(cache, digest, clips)
    if embeddings is None:
        embeddings = computed_embeddings(cache, network, clips)
    records = json.dumps([{k: clip[k] for k in CLIP_FIELDS if k in clip} for clip in clips], ensure_ascii=False)
    packed = torch.frombuffer(bytearray(zlib.compress(records.encode(), 9)), dtype=torch.uint8)
    about = {"embedder": digest, "splits": ",".join(SPLITS), "clips": str(len(clips)), "records": "JSON, zlib"}
    write_atomic(folder / FILE, save({"embeddings": embeddings.to(torch.float16), "records": packed}, metadata=about))
    return folder / FILE


def cached_embeddings(cache: Path, digest: str, clips: list[dict]) -> Tensor | None:
    """The clips' embeddings (n, 512) in the cache; None unless these weights made all of them."""
    from musekit.cache import Shards

    if not (cache / "embeddings").exists():
        return None
    shards = Shards(cache / "embeddings")
    if shards.manifest["maker"] != f"embeddings {digest[:16]}" or any(clip["id"] not in shards for clip in clips):
        return None
    return shards.all(clip["id"] for clip in clips)[:, 0].float()


def computed_embeddings(cache: Path, network, clips: list[dict]) -> Tensor:
    """The clips' embeddings (n, 512), computed from their audio."""
    from musekit.cache.precompute import read_clip
    from musekit.encoders import joint

    embedder = joint(network, None)
    return torch.stack([embedder.embed_audio(read_clip(cache, c)[None], c["sample_rate"])[0] for c in clips])


def read_reference(weights: str | Path = "mini") -> Reference:
    """The held-out clips of a folder of weights, or of a packaged preset.

    Raises MuseError when the file is missing, damaged, or was made by another embedder.
    """
    from safetensors import SafetensorError, safe_open

    from musekit.pretrained import find, read_hashes

    folder = find(weights)
    path = folder / FILE
    if not path.exists():
        raise MuseError(f"{path} is missing; restore it, or make it with `musekit.heldout.build_reference`")
    try:
        with safe_open(path, framework="pt") as file:
            embeddings, packed = file.get_tensor("embeddings").float(), file.get_tensor("records")
            embedder = file.metadata()["embedder"]
        clips = json.loads(zlib.decompress(bytes(packed.tolist())))
    except (OSError, SafetensorError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise MuseError(f"{path} is damaged ({error}); restore it from its source") from error
    if embedder != read_hashes(folder).get("embedder") or len(clips) != len(embeddings):
        raise MuseError(f"{path} was not made by this folder's embedder; make it again with `build_reference`")
    return Reference(torch.nn.functional.normalize(embeddings, dim=-1), clips, embedder)
