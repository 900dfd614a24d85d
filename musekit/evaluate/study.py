"""A study: one folder of weights measured on one cache of clips. It reads, embeds and generates sounds.

Everything slow is cached under MUSEKIT_HOME/eval and named by what it was made from (the sound's hash, the weights, the
recipe and its embedding), so the same command goes on where it was stopped.
"""

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from musekit.cache import Shards, read_clips
from musekit.cache.precompute import read_clip
from musekit.codec import DECODER
from musekit.config import MuseError, home
from musekit.corpus.instruments import SINGLE
from musekit.corpus.render import write_flac
from musekit.evaluate import features
from musekit.files import read_json, sha256, write_atomic
from musekit.muse import Muse, Settings, micro_batches
from musekit.pretrained import read_hashes
from musekit.recipe import Recipe
from musekit.results import Result, write_result
from musekit.runs import now

HELD_OUT = ("valid", "test")  # splits whose works nothing was trained on; on valid choices are made, test only reports
PROMPT_LIKE = 240  # held-out clips that are compared with generated ones, as many as are generated
CLASSES = {"instrument": SINGLE, "mode": ("major", "minor"), "speed": ("slow", "fast")}  # that a judge tells apart
PRINTED_ROWS = 30  # of a long table
Sound = dict | Path  # the record of a clip in the cache, or the file of a generated piece


def usable(cache: Path) -> list[dict]:
    """The clips of a cache without those whose sound could not be read or encoded when it was filled."""
    folders = [cache / kind for kind in ("views", "latents", "embeddings")]
    there = [folder for folder in folders if (folder / "manifest.json").exists()]
    aside = {i for folder in there for i in Shards(folder).manifest["set_aside"]}
    return [clip for clip in read_clips(cache) if clip["id"] not in aside]


def value_of(record: dict, attribute: str) -> str | None:
    """A clip's instrument, mode or speed; None where it is unknown or in none of the classes."""
    value = record.get("instrumentation" if attribute == "instrument" else attribute)
    return value if value in CLASSES[attribute] else None


class Study:
    """The system, the clips, and where results go; quick: tiny sizes, whose numbers mean nothing."""

    on, module, parts = "valid", "", ()  # the held-out split, what measures on it, and which networks, by `evaluate`
    codecs: Sequence[str] = ()  # other folders of weights, in the measurement of codecs

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

    def prompt_like(self, most: int = PROMPT_LIKE) -> list[dict]:
        """Held-out clips of the kind that the evaluation prompts describe: one instrument, a mode, slow or fast."""
        clips = self.singles(self.on)
        return [c for c in clips if value_of(c, "mode") and value_of(c, "speed")][:most]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """{part: short hash} of the weights."""
        return {part: digest[:16] for part, digest in read_hashes(self.muse.folder).items()}

    @cached_property
    def data(self) -> str:
        """A hash of which clips the cache holds."""
        return hashlib.sha256("\n".join(c["id"] for c in self.clips).encode()).hexdigest()[:16]

    # -- sounds

    def read(self, sound: Sound, seconds: float | None = None) -> tuple[np.ndarray, int]:
        """The first `seconds` of a sound (all of it where None): (2, N) float32, and its rate in Hz."""
        if isinstance(sound, dict):
            x, rate = read_clip(self.cache, sound).numpy(), sound["sample_rate"]
        else:
            x, rate = soundfile.read(sound, dtype="float32", always_2d=True)
            x = x.T
        return (x if seconds is None else x[:, : round(seconds * rate)]), rate

    def key(self, sound: Sound, seconds: float | None = None) -> str:
        """The cache key of the first `seconds` of a sound: a hash of the file's bytes, and its part."""
        part = ""
        if isinstance(sound, dict):
            if "start" in sound:
                ends = [round(1000 * s) for s in (sound["start"], sound["start"] + sound["seconds"])]
                part = f"-{ends[0]}to{ends[1]}ms-{sound['sample_rate']}Hz"
            sound = self.cache / sound["path"]
        return sha256(sound)[:32] + part + ("" if seconds is None else f"-{round(1000 * seconds)}ms")

    def features(self, sounds: Sequence[Sound], seconds: float | None = None) -> list[dict[str, np.ndarray]]:
        """librosa's features of the first `seconds` of sounds (`features.features`)."""
        found = []
        for sound in progress(sounds, "extracting features"):
            key = self.key(sound, seconds)
            place = home() / "eval" / f"heard-{features.VERSION}" / key[:2] / f"{key}.npz"
            found.append(cached(place, lambda s=sound: features.features(*self.read(s, seconds))))
        return found

    def round_trips(self, clips: Sequence[Sound]) -> list[Path]:
        """Files of decode(encode(clip)), named by the clip's sound and the codec."""
        muse, folder = self.muse, home() / "eval" / f"round-trips-{self.hashes['codec']}-{DECODER}"
        paths = [folder / f"{self.key(c)}.flac" for c in clips]
        for clip, path in progress(list(zip(clips, paths)), "through the codec and back"):
            if not path.exists():
                audio = torch.from_numpy(self.read(clip)[0])
                decoded = muse.codec.decode(muse.codec.encode(audio[None].to(muse.device)))
                write_flac(path, decoded[0, :, : audio.shape[1]].cpu(), muse.config.codec.sample_rate)
        return paths

    # -- embeddings

    def embed(self, sounds: Sequence[Sound], seconds: float | None = None) -> np.ndarray:
        """The audio tower's embeddings (n, 512) of the first `seconds` of sounds, unit length."""
        rows = []
        for sound in progress(sounds, "embedding sounds"):
            place = home() / "eval" / f"embedded-{self.hashes['embedder']}" / f"{self.key(sound, seconds)}.npz"
            rows.append(cached(place, lambda s=sound: {"x": self.embed_audio(*self.read(s, seconds))})["x"])
        return self.unit(rows)

    def embed_audio(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """The audio tower's embedding (512,) of audio (2, N)."""
        return self.muse.embedder.embed_audio(torch.from_numpy(audio)[None], rate)[0].cpu().numpy()

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

    # -- generation

    def recipes(self, texts: Sequence[str], seed: int, settings: Settings, muse: Muse | None = None) -> list[Recipe]:
        """A recipe per text; text i has the seed `seed + i`. muse: the system (default) or its draft."""
        return [(muse or self.muse).recipe(text, seed + i, settings) for i, text in enumerate(texts)]

    def sample(self, recipes: Sequence[Recipe]) -> tuple[np.ndarray, np.ndarray]:
        """Stage 1's sample of each recipe, (n, 512) of unit length, and its NFE (n,)."""
        found = [self.muse.embed_batch(batch) for batch in micro_batches(recipes)]
        x, nfe = (torch.cat(some).double().cpu().numpy() for some in zip(*found))
        return x / np.linalg.norm(x, axis=1, keepdims=True), nfe

    def samples(self, text: str, n: int, seed: int) -> np.ndarray:
        """n samples of Stage 1 for one text with the preset's defaults, (n, 512), unit length."""
        return self.sample(self.recipes([text] * n, seed, Settings(micro_batch=min(n, 16))))[0]

    def render(self, embeddings: np.ndarray, recipes: Sequence[Recipe]) -> list[Path]:
        """One file per embedding (n, 512), rendered by Stage 2 with its recipe."""
        muse, x = self.muse.of(recipes[0]), torch.from_numpy(np.asarray(embeddings)).float()
        paths = []
        for row, recipe in zip(x, recipes, strict=True):
            same = dataclasses.replace(recipe, threads=0, versions="")  # they change the last bits only
            key = hashlib.sha256(same.to_json().encode() + row.numpy().tobytes()).hexdigest()[:32]
            paths.append(home() / "eval" / muse.weights / f"rendered-{DECODER}" / f"{key}.flac")
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        done = 0
        for batch in progress(list(micro_batches([recipes[i] for i in missing])), "rendering"):
            index = missing[done : done + len(batch)]
            done += len(batch)
            for i, audio in zip(index, muse.render_batch(x[index], batch)[0], strict=True):
                write_flac(paths[i], audio, muse.config.codec.sample_rate)
        return paths

    # -- results

    def write(self, name: str, rows: list[dict], held_out: bool = True, **more) -> Path:
        """Print the rows and write results/<name>.json, for the valid split <name>-valid.json; returns the path.

        held_out: whether the rows are of a held-out split. The file counts how often the test split was opened for it.
        """
        used = {part: self.hashes[part] for part in self.parts}
        about = {"weights": used, "preset": self.muse.config.name, "clips": len(self.clips), "data": self.data}
        if held_out and self.on == "valid":
            name += "-valid"
        if held_out:
            about["split"] = self.on
            about["test_opened"] = opened(self.results / f"{name.removesuffix('-valid')}.json") + (self.on == "test")
            print(f"measured on the {self.on} split; the test split was opened {about['test_opened']} times for this")
        if self.quick:
            about["note"] = "made with --quick: too small to mean anything, these numbers test the machinery only"
        if self.muse.config.name == "smoke":
            about["note"] = "the smoke preset makes noise: these numbers test the machinery only"
        show(rows)
        path = write_result(name, rows, self.results, self.module, started=self.started, **about, **more)
        print(f"-> {path}")
        return path


def opened(path: Path) -> int:
    """How often the test split was opened for a result, by its file."""
    with contextlib.suppress(OSError, MuseError):  # a damaged file must not end a finished measurement
        return read_json(path, Result)["provenance"].get("test_opened", 0)
    return 0


def progress(items: Iterable, text: str):
    """A progress bar that appears after two seconds."""
    return tqdm(items, desc=text, mininterval=1, delay=2, leave=False)


def cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; they are made and written where the file is missing."""
    if not path.exists():
        data = io.BytesIO()
        np.savez(data, **make())
        write_atomic(path, data.getvalue())
    with np.load(path) as arrays:
        return dict(arrays)


def target(name: str, value: float | None, at_least: float | None = None, at_most: float | None = None, **more) -> dict:
    """A row that states a bar: value, bounds, and whether they are met, by the interval "low" to "high" in `more`."""
    bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", at_least), ("<=", at_most)) if bound is not None]
    low, high = more.get("low", value), more.get("high", value)
    met = value is not None and (at_least is None or low >= at_least) and (at_most is None or high <= at_most)
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
    """Writes results/corpus.json: clips, works and captions of each split."""
    sizes = {
        "clips": lambda c: [c["id"]],
        "works": lambda c: [c["work"]],
        "works or tune families": lambda c: [c["family"]],
        "instrumentations": lambda c: [c["instrumentation"]],
        "distinct captions": lambda c: [caption["text"] for caption in c["captions"]],
    }
    rows = []
    for what, values in sizes.items():
        found = {split: {v for c in study.split(split) for v in values(c)} for split in ("train", *HELD_OUT)}
        counts = {split: len(some) for split, some in found.items()} | {"all": len(set().union(*found.values()))}
        rows.append({"measure": "size", "what": what, **counts})
    study.write("corpus", rows, held_out=False)
