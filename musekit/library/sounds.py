"""Sound files: reading what people bring, and FLAC files whose comment says how the sound was made."""

from __future__ import annotations

import hashlib
import io
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from musekit.config import MuseError
from musekit.files import decode
from musekit.recipe import Recipe

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
MAX_SECONDS = 20 * 60.0  # of a sound that is read whole
MIN_SECONDS = 0.1
MAX_RATE = 192_000  # Hz
MAX_CHARS = 20_000  # of a name, a tag or a note
EMBEDDING_BYTES = 512 * 4
SILENCE = 1e-4  # of full scale: a sound that stays below is silent


def read_sound(
    source: bytes | str | Path, name: str = "", seconds: float | None = None, rate: int | None = None
) -> tuple[np.ndarray, int, list[str]]:
    """The first `seconds` (None: all) of a file or of its bytes, as stereo at `rate` Hz (None: its own format).

    Returns float32 audio (1 or 2, N), its rate, and notes that say how it was changed: more than two channels are
    averaged. Only the requested part is decoded. Raises MuseError for a file that is not sound, too long to be read
    whole, too short or silent.
    """
    import soundfile

    name = Path(name or ("upload" if isinstance(source, bytes) else str(source))).name[:200]
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
            own_rate, channels, total = file.samplerate, file.channels, file.frames / file.samplerate
            if seconds is None and total > MAX_SECONDS:
                raise MuseError(f"{name!r} is {total / 60:.0f} minutes long; cut it to {MAX_SECONDS / 60:.0f} or less")
            x = file.read(-1 if seconds is None else round(seconds * own_rate), dtype="float32", always_2d=True).T
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise MuseError(f"{name!r} cannot be read as sound; save it as WAV, FLAC, OGG or MP3") from error
    if own_rate > MAX_RATE:
        raise MuseError(f"{name!r} has {own_rate:,} samples per second; save it at 44.1 kHz")
    x, notes = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), []
    if x.shape[1] < MIN_SECONDS * own_rate:
        raise MuseError(f"{name!r} is {x.shape[1] / own_rate:.2f} s long; at least {MIN_SECONDS} s is needed")
    if float(np.abs(x).max()) < SILENCE:
        raise MuseError(f"{name!r} is silent" + ("" if seconds is None else f" in its first {seconds:g} s"))
    if seconds is not None and total > seconds + 0.05:
        notes.append(f"only the first {seconds:.1f} s of {total:,.0f} s are used")
    if channels > 2:
        x = x.mean(0, keepdims=True)
        notes.append(f"its {channels} channels were averaged")
    if rate is not None and own_rate != rate:
        import soxr

        x = np.ascontiguousarray(soxr.resample(x.T, own_rate, rate).T)
        notes.append(f"resampled from {own_rate / 1000:g} to {rate / 1000:g} kHz")
    if rate is not None and len(x) == 1:
        x = np.repeat(x, 2, axis=0)
    return x, rate or own_rate, notes


# -- what a file says about its piece


@dataclass(frozen=True)
class Origin:
    """Where the embedding and the noise of a piece came from, when they were chosen and not drawn by its recipe."""

    how: str = ""  # for people: "half way from ... to ..."
    prompted: bool = True  # whether the recipe's prompt is what the user asked for, or only a label
    # from noise(recipe.seed), x = slerp(x, noise(seed), position) for each pair (seed, position)
    noise: tuple[tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[float, msgspec.Meta(ge=0, le=1)]], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One piece of the library. Its sound's file carries it as JSON; recipe, origin and embedding render it again."""

    id: str = ""
    name: str = ""  # the prompt or the file's name, until a person renames the piece
    tags: tuple[str, ...] = ()
    notes: str = ""
    star: bool = False
    made: str = ""  # UTC, ISO 8601
    deleted: str | None = None  # since when it is in the bin
    recipe: Recipe | None = None  # None for an imported sound
    origin: Origin | None = None  # None where Stage 1 drew the embedding
    embedding: bytes | None = None  # 512 little-endian float32
    similarity: float | None = None
    seconds: float = 0.0
    content: str = ""  # fingerprint of its samples; "" where the file could not be read

    @property
    def prompt(self) -> str:
        """The prompt, "" for an imported sound."""
        return self.recipe.prompt if self.recipe else ""


@dataclass(frozen=True)
class Comment:
    """The JSON object in a file's comment."""

    muse: Entry


def to_json(value) -> str:
    """JSON text of a dataclass or a list."""
    return msgspec.json.encode(value).decode()


def clean_text(text: str, lines: bool = False) -> str:
    """A person's text as it is stored: NFC, without control characters, on one line unless `lines`.

    Raises MuseError for text that is too long.
    """
    if len(text) > MAX_CHARS:
        raise MuseError(f"this text has {len(text):,} characters; the limit is {MAX_CHARS:,}")
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    allowed = "\n\t" if lines else ""
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") and c not in allowed else c for c in text)
    return text.strip() if lines else " ".join(text.split())


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Distinct tags in order. Raises MuseError for a bare string, whose letters would become tags."""
    if isinstance(tags, str):
        raise MuseError(f'tags are a list, such as ["{tags[:40]}"], not one text')
    return tuple(dict.fromkeys(tag for tag in (clean_text(tag) for tag in tags) if tag))


def quantize(audio) -> np.ndarray:
    """float32 audio (channels, N) as the int16 samples that a FLAC file holds; integers stay."""
    x = np.asarray(audio)
    return np.rint(np.clip(x * np.float32(32768), -32768, 32767)).astype(np.int16) if x.dtype.kind == "f" else x


def fingerprint(audio: np.ndarray, sample_rate: int) -> str:
    """SHA-256 of integer samples (channels, N), whatever file they are in: the identity of a sound."""
    x = audio.astype(np.int32) << 16 if audio.dtype == np.int16 else audio
    return hashlib.sha256(f"{sample_rate} {len(x)} ".encode() + np.ascontiguousarray(x).tobytes()).hexdigest()


def flac(audio: np.ndarray, sample_rate: int, entry: Entry) -> bytes:
    """Integer audio (channels, N) as FLAC: int16 in 16 bits, int32 in 24. The comment holds the entry."""
    import soundfile

    data, bits = io.BytesIO(), "PCM_24" if audio.dtype == np.int32 else "PCM_16"
    with soundfile.SoundFile(data, "w", sample_rate, len(audio), subtype=bits, format="FLAC") as file:
        file.title = entry.name[:500] or "untitled"
        file.comment = to_json(Comment(entry))
        file.write(audio.T)
    return data.getvalue()


def read_samples(path: Path) -> tuple[np.ndarray, int]:
    """Integer samples (channels, N) of a file and its rate in Hz; what is not 16 or 24 bit stereo becomes int16.

    Raises MuseError for a file that is not sound.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            kind = {"PCM_16": "int16", "PCM_24": "int32"}.get(file.subtype, "float32")
            kind = kind if file.channels <= 2 else "float32"
            x, rate = file.read(dtype=kind, always_2d=True).T, file.samplerate
    except (OSError, RuntimeError) as error:
        raise MuseError(f"{path.name!r} cannot be read as sound") from error
    return quantize(np.nan_to_num(x.mean(0, keepdims=True) if len(x) > 2 else x)), rate


def read_entry(path: Path) -> Entry:
    """The entry in a file of a library or of `musekit generate`; any other file has a name only.

    Anyone may have written the file: a malformed comment counts as none. Raises MuseError where it is not sound.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            comment = file.comment
    except RuntimeError as error:
        raise MuseError(f"{path.name!r} cannot be read as sound") from error
    try:
        if comment.startswith('{"muse"'):
            found = decode(comment, Comment, path.name).muse
        else:
            found = Entry(recipe=decode(comment, Recipe, path.name)) if comment else first_format(path)
    except MuseError:
        found = Entry()
    file_name = path.stem.encode("utf-8", "replace").decode()
    name = found.name or (found.recipe.prompt if found.recipe else file_name)
    return replace(
        found,
        name=clean_text(name[:MAX_CHARS]) or "sound",
        tags=clean_tags(tag[:MAX_CHARS] for tag in found.tags),
        notes=clean_text(found.notes[:MAX_CHARS], lines=True),
        made=found.made[:27],
        embedding=found.embedding if len(found.embedding or b"") == EMBEDDING_BYTES else None,
    )


def first_format(path: Path) -> Entry:
    """Entry of a FLAC file that musekit's first library wrote: a Vorbis comment a field (RFC 9639, section 8.6).

    Raises MuseError where the file has none. libsndfile reads only the standard comments.
    """
    data, at, said = path.read_bytes(), 4, {}
    while data[:4] == b"fLaC" and at < len(data) and data[at] & 127 != 4:  # 4: the block of Vorbis comments
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big") if data[at] < 128 else len(data)
    block = io.BytesIO(data[at + 4 :])

    def number() -> int:
        return int.from_bytes(block.read(4), "little")

    block.read(number())  # the encoder's name
    for _ in range(min(number(), 200)):
        name, _, text = block.read(number()).decode("utf-8", "replace").partition("=")
        said.setdefault(name.upper(), []).append(text)
    if "MUSE_ID" not in said:
        raise MuseError(f"{path.name!r} was not written by a library")
    first = {name: texts[0] for name, texts in said.items()}
    numbers = {name: first.get(f"MUSE_{name.upper()}") for name in ("recipe", "origin", "similarity")}
    kinds = {"recipe": Recipe, "origin": Origin, "similarity": float}
    return Entry(
        name=first.get("TITLE", ""),
        tags=tuple(said.get("KEYWORDS", ())),
        notes=first.get("DESCRIPTION", ""),
        star="STAR" in first,
        made=first.get("MUSE_MADE", ""),
        embedding=decode(f'"{first.get("MUSE_EMBEDDING", "")}"', bytes, path.name) or None,
        **{name: decode(text, kinds[name], path.name) for name, text in numbers.items() if text},
    )
