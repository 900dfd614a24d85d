"""Entry: one piece of the library, and the FLAC file whose comment carries the whole entry."""

import contextlib
import hashlib
import io
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import soundfile

from musekit.config import MuseError
from musekit.corpus.sound import Sound
from musekit.files import decode, regular
from musekit.recipe import Recipe, file_stem

MAX_SECONDS = 20 * 60.0  # of a file that is added to the library
MAX_RATE = 96_000  # Hz, at which MAX_SECONDS are taken
MAX_CHARS = 20_000  # of a name, a tag or a note
EMBEDDING_BYTES = 512 * 4


@dataclass(frozen=True)
class Origin:
    """The source of a piece's embedding, for a piece whose recipe did not draw it."""

    how: str = ""  # for people: "half way from ... to ..."
    prompted: bool = True  # whether the recipe's prompt is what the user asked for, or only a label
    recipes: tuple[Recipe, ...] = ()  # of sounds that fade one into the next: of each, in order


@dataclass(frozen=True)
class Entry:
    """One piece of the library. Recipe, origin and embedding render it again."""

    id: str = ""
    name: str = ""  # the prompt or the file's name, until the user renames the piece
    tags: tuple[str, ...] = ()
    notes: str = ""
    star: bool = False
    made: str = ""  # UTC, ISO 8601
    deleted: str | None = None  # time of deletion, for a piece in the bin
    recipe: Recipe | None = None  # None for an imported sound
    origin: Origin | None = None  # None where Stage 1 drew the embedding
    embedding: bytes | None = None  # 512 little-endian float32, for each of the origin's recipes
    similarity: float | None = None
    seconds: float = 0.0
    content: str = ""  # fingerprint of the samples

    @property
    def prompt(self) -> str:
        """The prompt, "" for an imported sound."""
        return self.recipe.prompt if self.recipe else ""


def entry_of(piece) -> Entry:
    """The entry of a `muse.Piece` or a `lab.rendering.RenderedPiece`."""
    how = {"recipe": piece.recipe, "origin": getattr(piece, "origin", None), "similarity": float(piece.similarity)}
    return Entry(name=piece.recipe.prompt, embedding=np.asarray(piece.embedding, "<f4").tobytes(), **how)


def file_of(piece, name: str = "") -> tuple[str, bytes]:
    """A FLAC file of a piece with its entry inside: a plain name that no other sound has, and its bytes."""
    entry, audio = entry_of(piece), quantize(piece.audio)
    entry = measured(replace(entry, name=clean_text(name or entry.name)), audio, piece.sample_rate)
    return f"{file_stem(entry.name)}-{entry.content[:8]}.flac", flac(audio, piece.sample_rate, entry)


def clean_text(text: str, lines: bool = False) -> str:
    """Text from a user in the form that is stored: NFC, without control characters, on one line unless `lines`.

    Raises MuseError for text that is too long.
    """
    if len(text) > MAX_CHARS:
        raise MuseError(f"this text has {len(text):,} characters; the limit is {MAX_CHARS:,}")
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    allowed = "\n\t" if lines else ""
    text = "".join(" " if unicodedata.category(c) == "Cc" and c not in allowed else c for c in text)
    return text.strip() if lines else " ".join(text.split())


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Distinct tags in order. Raises MuseError for a bare string, whose letters would become tags."""
    if isinstance(tags, str):
        raise MuseError(f'tags are a list, such as ["{tags[:40]}"], not one text')
    return tuple(dict.fromkeys(tag for tag in (clean_text(tag) for tag in tags) if tag))


# -- samples and files


def quantize(audio) -> np.ndarray:
    """float32 audio (channels, N) as the int16 samples of a FLAC file."""
    return np.rint(np.clip(np.asarray(audio) * np.float32(32768), -32768, 32767)).astype(np.int16)


def fingerprint(audio: np.ndarray, sample_rate: int) -> str:
    """SHA-256 of int16 samples (channels, N): the identity of a sound."""
    return hashlib.sha256(f"{sample_rate} {len(audio)} ".encode() + audio.tobytes()).hexdigest()


def measured(entry: Entry, audio: np.ndarray, sample_rate: int) -> Entry:
    """The entry with the length and the fingerprint of int16 samples (channels, N)."""
    return replace(entry, seconds=audio.shape[1] / sample_rate, content=fingerprint(audio, sample_rate))


def flac(audio: np.ndarray, sample_rate: int, entry: Entry) -> bytes:
    """int16 audio (channels, N) as FLAC. The comment is the entry as JSON."""
    data = io.BytesIO()
    with soundfile.SoundFile(data, "w", sample_rate, len(audio), subtype="PCM_16", format="FLAC") as file:
        file.title = entry.name[:500] or "untitled"
        file.comment = msgspec.json.encode({"muse": entry}).decode()
        file.write(audio.T)
    return data.getvalue()


def read_audio(
    source: Path | bytes, name: str, seconds: float | None = None, form=np.asarray
) -> tuple[np.ndarray, int]:
    """The first `seconds` (None: all) of a file or its bytes: float32 (1 or 2, N), more channels averaged, and its rate
    in Hz.

    Decodes in blocks, each as `form` makes it, since a small file can hold hours. Raises MuseError for what is not
    sound, or is to be read whole and is empty or longer than the bounds.
    """
    try:
        sound = Sound(source, least=0)
        rate, most = sound.samplerate, MAX_SECONDS if seconds is None else seconds
        if seconds is None and not 0 < sound.frames <= most * min(rate, MAX_RATE):
            raise MuseError(f"{name!r} is empty or longer than {MAX_SECONDS / 60:.0f} minutes")
        blocks = (np.nan_to_num(x.T, posinf=0, neginf=0) for x in sound.blocks(0, round(most * rate)))
        folded = [form(x.mean(0, keepdims=True) if len(x) > 2 else x) for x in blocks]
    except (ValueError, TypeError) as error:  # BadAudio, a name that can be none, or samples without a header
        raise MuseError(f"{name!r} cannot be read as sound ({error}); save it as WAV, FLAC, OGG or MP3") from error
    return np.concatenate(folded or [form(np.zeros((1, 0), np.float32))], axis=1), rate


def read_samples(path: Path) -> tuple[np.ndarray, int]:
    """The int16 samples (1 or 2, N) of a file and its rate in Hz. Raises what `read_audio` raises."""
    return read_audio(path, path.name, form=quantize)


def read_entry(path: Path) -> Entry:
    """The entry in a file of a library or of `musekit generate`; any other file has only a name.

    Anyone may have written the file: a malformed comment counts as none. Raises MuseError where it is not sound.
    """
    try:
        with soundfile.SoundFile(regular(path)) as file:
            comment = file.comment
    except (OSError, RuntimeError) as error:
        raise MuseError(f"{path.name!r} cannot be read as sound") from error
    entry = Entry()
    with contextlib.suppress(MuseError):
        if comment.startswith('{"muse"'):
            entry = decode(comment, dict[str, Entry], path.name)["muse"]
        elif comment:
            entry = Entry(recipe=decode(comment, Recipe, path.name))
    name = entry.name or entry.prompt or path.stem.encode("utf-8", "replace").decode()
    tags, notes = clean_tags(tag[:MAX_CHARS] for tag in entry.tags), clean_text(entry.notes[:MAX_CHARS], lines=True)
    rows = max(1, len(entry.origin.recipes)) if entry.origin else 1
    embedding = entry.embedding if len(entry.embedding or b"") == rows * EMBEDDING_BYTES else None
    return replace(entry, name=clean_text(name[:MAX_CHARS]) or "sound", tags=tags, notes=notes, embedding=embedding)
