"""Reference: the audio-tower embeddings of held-out clips, kept beside the weights that made them.

One sentence has many right answers. Whoever wants to see them (the notebooks, the Lab, the map's background) needs
real clips that nobody trained on, also on a machine without the corpus: a file of under 1 MB carries their
embeddings in half precision and what is known about each of them, no audio.

    reference = read_reference("mini")
    right = reference.fitting({"mode": "minor", "speed": "slow"})   # rows of the clips that are slow and in minor
    spread(reference.embeddings[right])                             # how much the right answers differ
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
LIMIT = 600  # clips: 600 x 512 half-precision numbers are 614 kB
SPLITS = ("valid", "test")
KEPT = (
    "id", "work", "family", "split", "title", "composer", "era", "form", "instrumentation", "texture", "key", "mode",
    "bpm", "onset_rate", "speed", "metre", "dynamic", "mood", "captions",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """Held-out clips as the joint embedding hears them; row i of `embeddings` is `clips[i]`."""

    embeddings: Tensor  # (n, 512) float32, unit length
    clips: list[dict]  # the fields `KEPT` of each clip's record
    embedder: str  # sha256 of the embedder's weights

    def fitting(self, asks: dict) -> list[int]:
        """Rows of the clips of which all that is asked is true; all of them when nothing is asked."""
        from musekit.corpus.claims import fits

        return [i for i, clip in enumerate(self.clips) if fits(asks, clip)]


def spread(x: Tensor) -> float:
    """Average distance between two different rows of x (n, D); NaN for fewer than two rows."""
    return float(torch.pdist(x.double()).mean()) if len(x) > 1 else float("nan")


def chosen(clips: list[dict], limit: int = LIMIT) -> list[dict]:
    """Up to `limit` held-out clips, picked and ordered by the hash of their ids: the same ones on every machine."""
    held_out = [clip for clip in clips if clip["split"] in SPLITS]
    return sorted(held_out, key=lambda clip: hashlib.sha256(clip["id"].encode()).hexdigest())[:limit]


def build_reference(cache: str | Path, weights: str | Path, limit: int = LIMIT, show: bool = False) -> Path:
    """Write `reference.safetensors` into the folder `weights` from the held-out clips of `cache`; returns its path.

    Embeddings come from the cache where these weights made them, else from the clips' audio. Raises MuseError when
    the cache has no held-out clip, or a clip cannot be read.
    """
    from safetensors.torch import save

    from musekit.cache import read_clips
    from musekit.files import write_atomic
    from musekit.pretrained import find, load_part

    cache, folder = Path(cache), find(weights)
    network, digest = load_part(folder, "embedder")
    clips = chosen(read_clips(cache), limit)
    if not clips:
        raise MuseError(f"{cache} holds no clip of the splits {', '.join(SPLITS)}; make a larger cache")
    rows = cached_rows(cache, digest, clips)
    if rows is None:
        rows = heard_rows(cache, network, clips, show)
    records = json.dumps([{name: clip[name] for name in KEPT if name in clip} for clip in clips], ensure_ascii=False)
    packed = torch.frombuffer(bytearray(zlib.compress(records.encode(), 9)), dtype=torch.uint8)
    about = {"embedder": digest, "splits": ",".join(SPLITS), "clips": str(len(clips)), "records": "JSON, zlib"}
    path = folder / FILE
    write_atomic(path, save({"embeddings": rows.to(torch.float16), "records": packed}, metadata=about))
    return path


def cached_rows(cache: Path, digest: str, clips: list[dict]) -> Tensor | None:
    """The clips' embeddings (n, 512) from the cache, or None where these weights did not make all of them."""
    from musekit.cache import Shards

    try:
        shards = Shards(cache / "embeddings")
    except MuseError:
        return None
    made_here = shards.manifest["maker"] == f"embeddings {digest[:16]}"
    if not made_here or any(clip["id"] not in shards for clip in clips):
        return None
    return shards.all(clip["id"] for clip in clips)[:, 0].float()


def heard_rows(cache: Path, network, clips: list[dict], show: bool = False) -> Tensor:
    """The clips' embeddings (n, 512), computed from their audio."""
    from tqdm import tqdm

    from musekit.cache.precompute import read_clip
    from musekit.encoders import joint

    embedder, rows = joint(network, None), []
    for clip in tqdm(clips, desc="reference", unit="clip", disable=not show):
        try:
            audio = read_clip(cache, clip)
        except Exception as error:
            raise MuseError(f"the clip {clip['path']} of {cache} cannot be read ({error}); make it again") from error
        rows.append(embedder.embed_audio(audio[None], clip["sample_rate"])[0])
    return torch.stack(rows)


def read_reference(weights: str | Path = "mini") -> Reference:
    """The reference of a folder of weights, or of a name that comes with the package.

    Raises MuseError when the file is missing, damaged, or was made by another embedder than the folder's.
    """
    from safetensors import SafetensorError, safe_open

    from musekit.pretrained import find, read_hashes

    folder = find(weights)
    path = folder / FILE
    if not path.exists():
        raise MuseError(f"{path} is missing; restore it, or make it: python -m musekit.heldout --weights {folder}")
    try:
        with safe_open(path, framework="pt") as file:
            embeddings, packed = file.get_tensor("embeddings").float(), file.get_tensor("records")
            embedder = file.metadata()["embedder"]
        clips = json.loads(zlib.decompress(bytes(packed.tolist())))
    except (OSError, SafetensorError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise MuseError(f"{path} is damaged ({error}); restore it from where it came") from error
    if embedder != read_hashes(folder).get("embedder") or len(clips) != len(embeddings):
        raise MuseError(f"{path} was not made by this folder's embedder; make it again with `build_reference`")
    return Reference(torch.nn.functional.normalize(embeddings, dim=-1), clips, embedder)


def main() -> None:
    """Command line: python -m musekit.heldout --cache FOLDER --weights FOLDER."""
    import argparse

    from musekit.config import home

    parser = argparse.ArgumentParser(description="Keep the embeddings of held-out clips beside the weights.")
    parser.add_argument("--cache", type=Path, default=home() / "caches" / "scores")
    parser.add_argument("--weights", default="mini", help="folder of weights, or a name that comes with the package")
    parser.add_argument("--limit", type=int, default=LIMIT, help="most clips")
    args = parser.parse_args()
    path = build_reference(args.cache, args.weights, args.limit, show=True)
    reference = read_reference(args.weights)
    print(f"{path}: {len(reference.clips)} clips, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
