"""What is measured, and on what: one folder of weights, one cache of clips.

Everything slow is kept under MUSEKIT_HOME/eval and named by what made it, so the same command goes on where it
stopped: features by the sound's hash, round trips by the codec's, generated clips by the weights'.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from musekit.cache import Shards, read_clips
from musekit.config import MuseError, home
from musekit.evaluate.judge import VERSION, Judge, hear, value_of
from musekit.evaluate.stretch import Stretch, cut, read_audio, sound_key, write_flac
from musekit.files import write_atomic
from musekit.muse import Muse
from musekit.pretrained import read_hashes
from musekit.results import now, write_result

FITTING = 1000  # training clips of single instruments that the judge is fitted on
FITTING_ROUND_TRIPS = 400  # of these, also heard through the codec


def bar(items: Iterable, text: str):
    """A progress bar that stays quiet where nobody watches for less than two seconds."""
    from tqdm import tqdm

    return tqdm(items, desc=text, mininterval=1, delay=2, leave=False)


def usable(cache: Path) -> list[dict]:
    """The clips of a cache but those whose sound could not be read or encoded when it was filled."""
    folders = [cache / kind for kind in ("spectra", "views", "latents", "embeddings")]
    there = [folder for folder in folders if (folder / "manifest.json").exists()]
    aside = {i for folder in there for i in Shards(folder).manifest["set_aside"]}
    return [clip for clip in read_clips(cache) if clip["id"] not in aside]


class Subject:
    """A system under measurement and the clips it is measured on."""

    def __init__(self, weights: str | Path, cache: Path | None, results: Path, n: int, quick: bool = False):
        """cache: None where a measurement needs no clips. quick: tiny sizes, whose numbers only test the machinery."""
        self.results, self.n, self.quick = Path(results), n, quick
        self.cache = None if cache is None else Path(cache)
        self.muse = Muse.from_pretrained(weights)
        self.clips = [] if self.cache is None else usable(self.cache)
        self.started = now()

    def split(self, *names: str) -> list[dict]:
        """Clips of these splits, in the order of a hash of their ids: any prefix is a fair sample."""
        found = [c for c in self.clips if c["split"] in names]
        return sorted(found, key=lambda c: hashlib.sha256(c["id"].encode()).digest())

    def singles(self, *names: str) -> list[dict]:
        """Those of `split` that one kind of instrument plays: what the judge knows."""
        return [c for c in self.split(*names) if value_of(c, "instrument")]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """{part: short hash} of the weights."""
        return {part: digest[:16] for part, digest in read_hashes(self.muse.folder).items()}

    @cached_property
    def data(self) -> str:
        """A hash of which clips the cache holds."""
        return hashlib.sha256("\n".join(c["id"] for c in self.clips).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where what these weights generated is kept."""
        return home() / "eval" / self.muse.weights

    def path(self, clip: dict) -> Path | Stretch:
        """Where the clip's sound is: its file, or a stretch of a recording that several clips were cut from."""
        path = self.cache / clip["path"]
        return Stretch(path, clip["start"], clip["seconds"], clip["sample_rate"]) if "start" in clip else path

    # -- the judge's ears

    def heard(self, key: str, sound: Callable[[], tuple[np.ndarray, int]]) -> dict[str, np.ndarray]:
        """Features of a sound, from disk when the sound of this key was heard before."""
        path = home() / "eval" / f"heard-{VERSION}" / key[:2] / f"{key}.npz"
        if path.exists():
            with np.load(path) as kept:
                return dict(kept)
        features, data = hear(*sound()), io.BytesIO()
        np.savez(data, **features)
        write_atomic(path, data.getvalue())
        return features

    def hear_files(
        self, paths: Sequence[Path | Stretch], text: str = "listening", seconds: float | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Features of audio files, or of the first `seconds` of each."""
        return [
            self.heard(sound_key(p, seconds, 32), lambda p=p: cut(*read_audio(p), seconds)) for p in bar(paths, text)
        ]

    def hear_clips(self, clips: Sequence[dict]) -> list[dict[str, np.ndarray]]:
        """Features of original clips."""
        return self.hear_files([self.path(c) for c in clips], "listening to originals")

    def hear_round_trips(self, clips: Sequence[dict]) -> list[dict[str, np.ndarray]]:
        """Features of clips that went through the codec and back."""
        return self.hear_files(self.round_trips(clips), "listening to codec round trips")

    def round_trips(self, clips: Sequence[dict]) -> list[Path]:
        """Files of decode(encode(clip)), made once for a codec and its phase steps."""
        config = self.muse.config.codec
        folder = home() / "eval" / f"round-trips-{self.hashes['codec']}-{config.phase_iterations}"
        paths = [folder / f"{c['id']}.flac" for c in clips]
        for clip, path in bar(list(zip(clips, paths)), "through the codec and back"):
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
    def judge(self) -> Judge:
        """Fitted on originals of training clips, and on round trips of some of them once there is a codec."""
        clips = self.singles("train")[:FITTING]
        heard = self.hear_clips(clips)
        if "codec" in self.hashes:
            heard = heard + self.hear_round_trips(clips[:FITTING_ROUND_TRIPS])
            clips = clips + clips[:FITTING_ROUND_TRIPS]
        return Judge().fit(clips, heard)

    # -- embeddings of real clips

    @cached_property
    def _shards(self) -> Shards | None:
        """The cache's embeddings, if this embedder made them."""
        if not (self.cache / "embeddings" / "manifest.json").exists():
            return None
        shards = Shards(self.cache / "embeddings")
        return shards if shards.manifest["maker"] == f"embeddings {self.hashes['embedder']}" else None

    def embeddings(self, clips: Sequence[dict]) -> np.ndarray:
        """The audio tower's embeddings of clips, (n, 512), unit length."""
        return self.unit([self._embedding(c) for c in bar(clips, "embedding clips")])

    def unit(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings as one array (n, 512) of float64, unit length; n may be 0."""
        x = np.stack(rows).astype(np.float64) if len(rows) else np.zeros((0, self.muse.config.embedder.dim))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def _embedding(self, clip: dict) -> np.ndarray:
        if self._shards is not None and clip["id"] in self._shards:
            return self._shards.row(clip["id"]).float().numpy().ravel()
        return self.embedding_of(sound_key(self.path(clip)), lambda: read_audio(self.path(clip)))

    @property
    def embedding_name(self) -> str:
        """What a distance between embeddings must be told with: which embedding it was."""
        return f"{self.muse.config.embedder.kind} joint embedding {self.hashes['embedder'][:8]}"

    def embed_files(self, paths: Sequence[Path | Stretch], seconds: float | None = None) -> np.ndarray:
        """Embeddings (n, 512) of files, or of the first `seconds` of each, kept by the file's hash."""
        return self.unit([self._embed_file(path, seconds) for path in bar(paths, "embedding files")])

    def _embed_file(self, path: Path | Stretch, seconds: float | None) -> np.ndarray:
        return self.embedding_of(sound_key(path, seconds), lambda: cut(*read_audio(path), seconds))

    def embedding_of(self, key: str, sound: Callable[[], tuple[np.ndarray, int]]) -> np.ndarray:
        """The embedding of a sound (512,), from disk when this embedder heard the sound of this key before."""
        path = home() / "eval" / f"embedded-{self.hashes['embedder']}" / f"{key}.npy"
        if path.exists():
            return np.load(path)
        audio, rate = sound()
        row, data = self.muse.embedder.embed_audio(torch.from_numpy(audio)[None], rate)[0].numpy(), io.BytesIO()
        np.save(data, row)
        write_atomic(path, data.getvalue())
        return row

    # -- results

    def write(self, name: str, rows: list[dict], **more) -> Path:
        """results/<name>.json with what was measured on what; the smoke preset says so."""
        about = {"weights": self.hashes, "preset": self.muse.config.name, "clips": len(self.clips), "data": self.data}
        if self.quick:
            about["note"] = "made with --quick: too small to mean anything, these numbers test the machinery only"
        if self.muse.config.name == "smoke":
            about["note"] = "the smoke preset makes noise: these numbers test the machinery only"
        path = write_result(name, rows, self.results, started=self.started, **about, **more)
        print(f"-> {path}")
        return path


def target(name: str, value: float | None, at_least: float | None = None, at_most: float | None = None, **more) -> dict:
    """A row that states a bar: its value, what is asked, and whether it is met; both bounds if both are given."""
    asked = [f"{sign} {bound:g}" for sign, bound in ((">=", at_least), ("<=", at_most)) if bound is not None]
    met = value is not None and (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"measure": "bar", "name": name, "value": value, "bar": " and ".join(asked), "met": bool(met), **more}


def table(rows: Sequence[dict], *columns: str) -> None:
    """Print rows as a table, None as a dash, floats to three places."""

    def cell(value) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [list(columns), *([cell(r.get(c)) for c in columns] for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    print()
