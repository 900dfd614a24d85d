"""Sounds that measurements read or render. What is slow is computed once and cached under MUSEKIT_HOME/eval.

A rendered piece is named by a hash of its recipe and its embedding, so other settings or other weights of Stage 1 never
meet an old sound.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from musekit.config import MuseError, home
from musekit.files import sha256, write_atomic
from musekit.muse import Muse, Settings, micro_batches
from musekit.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A clip that is a part of a longer recording."""

    path: Path
    start: float  # seconds
    seconds: float
    sample_rate: int  # Hz, of the clip: the recording may have another

    def __str__(self) -> str:
        return f"{self.path} ({self.seconds:g} s from {self.start:g} s on)"


def progress(items: Iterable, text: str):
    """A progress bar that appears after two seconds."""
    from tqdm import tqdm

    return tqdm(items, desc=text, mininterval=1, delay=2, leave=False)


def read_audio(path: Path | Excerpt, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """The first `seconds` of a file or excerpt (all of it where None): (2, N) float32, and the rate in Hz.

    A mono file becomes two equal channels. Raises MuseError for an excerpt that cannot be used.
    """
    import soundfile

    if isinstance(path, Excerpt):
        from musekit.corpus import sound

        try:
            x, rate = sound.read_audio(path.path, path.sample_rate, path.start, path.seconds), path.sample_rate
        except sound.BadAudio as error:
            raise MuseError(f"{path} cannot be read ({error}); run `musekit cache` for this data again") from error
    else:
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        x = x.T if x.shape[1] == 2 else np.repeat(x[:, :1], 2, axis=1).T
    return (x if seconds is None else x[:, : round(seconds * rate)]), rate


def sound_key(path: Path | Excerpt, seconds: float | None = None) -> str:
    """The cache key of the first `seconds` of a sound: a hash of the file's bytes, and which part of it is meant."""
    part = ""
    if isinstance(path, Excerpt):
        part = f"-{round(1000 * path.start)}to{round(1000 * (path.start + path.seconds))}ms-{path.sample_rate}Hz"
        path = path.path
    return sha256(path)[:32] + part + ("" if seconds is None else f"-{round(1000 * seconds)}ms")


def cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; they are made and written where the file is missing."""
    if not path.exists():
        data = io.BytesIO()
        np.savez(data, **make())
        write_atomic(path, data.getvalue())
    with np.load(path) as arrays:
        return dict(arrays)


def write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """audio (2, N) as a 16-bit FLAC file, written atomically."""
    import soundfile

    data = io.BytesIO()
    soundfile.write(data, np.clip(np.asarray(audio).T, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    write_atomic(path, data.getvalue())


def sampled(muse: Muse, texts: Sequence[str], seed: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Stage 1's sample of each text, (n, 512) of unit length, and its NFE (n,); text i has the seed `seed + i`."""
    recipes = [muse.recipe(text, seed + i, settings) for i, text in enumerate(texts)]
    found = [muse.embed_batch(some) for some in micro_batches(recipes)]
    x, nfe = (torch.cat(part).double().cpu().numpy() for part in zip(*found))
    return x / np.linalg.norm(x, axis=1, keepdims=True), nfe


def rendered(muse: Muse, embeddings: np.ndarray, recipes: Sequence[Recipe], text: str) -> list[Path]:
    """One file per embedding (n, 512), rendered by Stage 2 with its recipe; `text` names the progress bar."""
    x, folder = torch.from_numpy(np.asarray(embeddings)).float(), home() / "eval" / muse.weights / "rendered"
    paths = []
    for row, recipe in zip(x, recipes, strict=True):
        same = dataclasses.replace(recipe, threads=0, versions="")  # they change the last bits only
        key = hashlib.sha256(same.to_json().encode() + row.numpy().tobytes()).hexdigest()[:32]
        paths.append(folder / f"{key}.flac")
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    done = 0
    for batch in progress(list(micro_batches([recipes[i] for i in missing])), text):
        index = missing[done : done + len(batch)]
        done += len(batch)
        for i, audio in zip(index, muse.render_batch(x[index], batch)[0], strict=True):
            write_flac(paths[i], audio, muse.config.codec.sample_rate)
    return paths


def generated(muse: Muse, texts: Sequence[str], seed: int, settings: Settings) -> tuple[list[Path], np.ndarray]:
    """A piece per text through both stages: files, and Stage 1's embeddings (n, 512); text i has seed `seed + i`."""
    recipes = [muse.recipe(text, seed + i, settings) for i, text in enumerate(texts)]
    x, _ = sampled(muse, texts, seed, settings)
    return rendered(muse, x, recipes, "generating from prompts"), x
