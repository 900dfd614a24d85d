"""A study: one folder of weights measured on one cache of clips; and the cache's own sizes.

Everything slow is cached under MUSEKIT_HOME/eval and named by what it was made from (the sound's hash, the codec's or
the embedder's weights), so the same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from musekit.cache import Shards, read_clips
from musekit.config import MuseError, home
from musekit.corpus.instruments import SINGLE
from musekit.evaluate import features
from musekit.evaluate.sounds import Excerpt, cached, progress, read_audio, sound_key, write_flac
from musekit.muse import Muse
from musekit.pretrained import read_hashes
from musekit.results import now, write_result

HELD_OUT = ("valid", "test")  # splits whose works nothing was trained on
PROMPT_LIKE = 240  # held-out clips that are compared with generated ones, as many as are generated
CLASSES = {"instrument": SINGLE, "mode": ("major", "minor"), "speed": ("slow", "fast")}  # that a judge tells apart
PRINTED_ROWS = 30  # of a long table


def usable(cache: Path) -> list[dict]:
    """The clips of a cache without those whose sound could not be read or encoded when it was filled."""
    folders = [cache / kind for kind in ("spectra", "views", "latents", "embeddings")]
    there = [folder for folder in folders if (folder / "manifest.json").exists()]
    aside = {i for folder in there for i in Shards(folder).manifest["set_aside"]}
    return [clip for clip in read_clips(cache) if clip["id"] not in aside]


def value_of(record: dict, attribute: str) -> str | None:
    """A clip's instrument, mode or speed; None where it is unknown or in none of the classes."""
    value = record.get("instrumentation" if attribute == "instrument" else attribute)
    return value if value in CLASSES[attribute] else None


class Study:
    """The system, the clips, and where results go; quick: tiny sizes, whose numbers mean nothing."""

    def __init__(self, weights: str | Path, cache: Path, results: Path, n: int, quick: bool = False):
        """n: pieces of the measurements that generate. Raises MuseError for missing weights or a missing cache."""
        self.results, self.cache, self.n, self.quick = Path(results), Path(cache), n, quick
        self.muse = Muse.from_pretrained(weights)
        self.clips = usable(self.cache)
        self.started = now()

    # -- clips

    def split(self, *names: str) -> list[dict]:
        """Clips of these splits, in the order of a hash of their ids: any prefix is a random sample."""
        found = [c for c in self.clips if c["split"] in names]
        return sorted(found, key=lambda c: hashlib.sha256(c["id"].encode()).digest())

    def singles(self, *names: str) -> list[dict]:
        """Those of `split` that a single kind of instrument plays."""
        return [c for c in self.split(*names) if value_of(c, "instrument")]

    def prompt_like(self) -> list[dict]:
        """Held-out clips of the kind that the evaluation prompts describe: one instrument, a mode, slow or fast."""
        clips = self.singles(*HELD_OUT)
        return [c for c in clips if value_of(c, "mode") and value_of(c, "speed")][:PROMPT_LIKE]

    def path(self, clip: dict) -> Path | Excerpt:
        """Where the clip's sound is: its file, or an excerpt of a recording."""
        path = self.cache / clip["path"]
        return Excerpt(path, clip["start"], clip["seconds"], clip["sample_rate"]) if "start" in clip else path

    def paths(self, clips: Sequence[dict]) -> list[Path | Excerpt]:
        """Of each clip."""
        return [self.path(clip) for clip in clips]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """{part: short hash} of the weights."""
        return {part: digest[:16] for part, digest in read_hashes(self.muse.folder).items()}

    @cached_property
    def data(self) -> str:
        """A hash of which clips the cache holds."""
        return hashlib.sha256("\n".join(c["id"] for c in self.clips).encode()).hexdigest()[:16]

    # -- features, round trips, embeddings

    def features(self, paths: Sequence[Path | Excerpt], seconds: float | None = None) -> list[dict[str, np.ndarray]]:
        """librosa's features of the first `seconds` of sounds (`features.features`)."""
        found = []
        for path in progress(paths, "extracting features"):
            key = sound_key(path, seconds)
            place = home() / "eval" / f"heard-{features.VERSION}" / key[:2] / f"{key}.npz"
            found.append(cached(place, lambda p=path: features.features(*read_audio(p, seconds))))
        return found

    def round_trips(self, clips: Sequence[dict]) -> list[Path]:
        """Files of decode(encode(clip)), named by the clip's sound, the codec and its phase iterations."""
        config = self.muse.config.codec
        folder = home() / "eval" / f"round-trips-{self.hashes['codec']}-{config.phase_iterations}"
        paths = [folder / f"{sound_key(self.path(c))}.flac" for c in clips]
        for clip, path in progress(list(zip(clips, paths)), "through the codec and back"):
            if not path.exists():
                write_flac(path, self.round_trip(clip), config.sample_rate)
        return paths

    def round_trip(self, clip: dict) -> np.ndarray:
        """decode(encode(clip)), (2, N)."""
        audio, rate = read_audio(self.path(clip))
        if rate != self.muse.config.codec.sample_rate:
            raise MuseError(f"{self.path(clip)} is at {rate} Hz, not the codec's rate; make the cache again")
        codec, device = self.muse.codec, self.muse.device
        decoded = codec.decode(codec.encode(torch.from_numpy(audio)[None].to(device)))
        return decoded[0, :, : audio.shape[1]].cpu().numpy()

    @cached_property
    def _shards(self) -> Shards | None:
        """The cache's embeddings, if this embedder made them."""
        if not (self.cache / "embeddings" / "manifest.json").exists():
            return None
        shards = Shards(self.cache / "embeddings")
        return shards if shards.manifest["maker"] == f"embeddings {self.hashes['embedder']}" else None

    def embeddings(self, clips: Sequence[dict]) -> np.ndarray:
        """The audio tower's embeddings of clips, (n, 512), unit length."""
        known = {c["id"] for c in clips if self._shards is not None and c["id"] in self._shards}
        rows = [
            self._shards.row(c["id"]).float().numpy().ravel() if c["id"] in known else self._embedding(self.path(c))
            for c in progress(clips, "embedding clips")
        ]
        return self.unit(rows)

    def embed_files(self, paths: Sequence[Path | Excerpt], seconds: float | None = None) -> np.ndarray:
        """Embeddings (n, 512) of the first `seconds` of sounds, unit length."""
        return self.unit([self._embedding(path, seconds) for path in progress(paths, "embedding files")])

    def _embedding(self, path: Path | Excerpt, seconds: float | None = None) -> np.ndarray:
        def make() -> dict[str, np.ndarray]:
            audio, rate = read_audio(path, seconds)
            return {"x": self.muse.embedder.embed_audio(torch.from_numpy(audio)[None], rate)[0].numpy()}

        folder = home() / "eval" / f"embedded-{self.hashes['embedder']}"
        return cached(folder / f"{sound_key(path, seconds)}.npz", make)["x"]

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """The text tower's embeddings (n, 512), unit length."""
        return self.muse.embedder.embed_text(list(texts)).double().numpy()

    def unit(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings as one array (n, 512) of float64, unit length; n may be 0."""
        x = np.stack(rows).astype(np.float64) if len(rows) else np.zeros((0, self.muse.config.embedder.dim))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    @property
    def embedding_name(self) -> str:
        """Which embedding a distance was measured in."""
        return f"{self.muse.config.embedder.kind} joint embedding {self.hashes['embedder'][:8]}"

    # -- results

    def write(self, name: str, rows: list[dict], **more) -> Path:
        """Print the rows and write results/<name>.json with what was measured on what."""
        about = {"weights": self.hashes, "preset": self.muse.config.name, "clips": len(self.clips), "data": self.data}
        if self.quick:
            about["note"] = "made with --quick: too small to mean anything, these numbers test the machinery only"
        if self.muse.config.name == "smoke":
            about["note"] = "the smoke preset makes noise: these numbers test the machinery only"
        show(rows)
        path = write_result(name, rows, self.results, started=self.started, **about, **more)
        print(f"-> {path}")
        return path


def target(name: str, value: float | None, at_least: float | None = None, at_most: float | None = None, **more) -> dict:
    """A row that states a bar: its value, its bounds, and whether it is met."""
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", at_least), ("<=", at_most)) if bound is not None]
    met = value is not None and (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"measure": "bar", "name": name, "value": value, "bar": " and ".join(bounds), "met": bool(met), **more}


def show(rows: Sequence[dict]) -> None:
    """Print rows as one table per "measure", without nested values."""
    import pandas as pd

    for measure in dict.fromkeys(row["measure"] for row in rows):
        some = [row for row in rows if row["measure"] == measure]
        table = pd.DataFrame([{k: v for k, v in row.items() if not isinstance(v, (list, dict))} for row in some])
        table = table.drop(columns="measure").dropna(axis=1, how="all")
        print(f"\n{measure}")
        print(table.to_string(index=False, na_rep="-", float_format="{:.3f}".format, max_rows=PRINTED_ROWS))


def measure_corpus(study: Study) -> None:
    """Writes results/corpus.json."""
    sizes = {
        "clips": lambda c: [c["id"]],
        "works": lambda c: [c["work"]],
        "works or tune families": lambda c: [c["family"]],
        "instrumentations": lambda c: [c["instrumentation"]],
        "distinct captions": lambda c: [caption["text"] for caption in c["captions"]],
    }
    rows = []
    for what, values in sizes.items():
        found = {
            split: {v for c in study.clips if c["split"] == split for v in values(c)} for split in ("train", *HELD_OUT)
        }
        counts = {split: len(some) for split, some in found.items()} | {"all": len(set().union(*found.values()))}
        rows.append({"measure": "size", "what": what, **counts})
    for field in ("instrumentation", "mode", "speed", "texture", "dynamic", "era", "licence"):
        for value, n in Counter(str(c.get(field)) for c in study.clips).most_common():
            rows.append({"measure": "count", "field": field, "value": value, "clips": n})
    study.write("corpus", rows)
