"""Entry: what is known of one kept piece; and the rules for texts and names that strangers may have written."""

from __future__ import annotations

import datetime
import re
import secrets
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

from musekit.config import MuseError

LONGEST = 20_000  # characters of a name, tag or note
IDENTITY = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{10}")


@dataclass(frozen=True)
class Entry:
    """One piece of the library."""

    id: str
    name: str  # what a person calls it; the prompt, or the file's name, until it is renamed
    prompt: str = ""  # "" for a sound that was imported
    negative_prompt: str | None = None
    seed: int | None = None
    preset: str | None = None
    seconds: float = 0.0
    sample_rate: int = 0  # Hz
    channels: int = 2
    similarity: float | None = None
    nfe: str = ""  # "stage1=50,stage2=50"
    recipe: str | None = None  # JSON of `recipe.Recipe`; None for an imported sound
    origin: str | None = None  # JSON of `take.Origin`; None where Stage 1 drew the embedding
    embedding: bytes | None = None  # 512 little-endian float32
    notes: str = ""
    star: bool = False
    tags: tuple[str, ...] = ()
    made: str = ""  # UTC, ISO 8601
    deleted: str | None = None  # since when it is in the bin
    sha256: str = ""  # of the file
    samples_sha256: str = ""  # of the float32 samples before they became a file; "" where unknown
    source_sha256: str = ""  # of the file that it was imported from
    path: Path | None = None


COLUMNS = tuple(name for name in Entry.__dataclass_fields__ if name not in ("tags", "path"))
WORDS = ("name", "prompt", "notes", "tags")  # what full-text search reads


def now() -> str:
    """UTC, to the microsecond, so that what was kept last sorts first."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_id(made: str = "") -> str:
    """A name for a new file: its time and ten random hex digits; nothing of what a person wrote."""
    digits = re.sub(r"[^0-9]", "", made or now())[:14].ljust(14, "0")
    return f"{digits[:8]}-{digits[8:]}-{secrets.token_hex(5)}"


def checked_id(identity: str) -> str:
    """The id, if it is one: paths are made of it. Raises MuseError."""
    if not isinstance(identity, str) or not IDENTITY.fullmatch(identity):
        raise MuseError(
            f"{str(identity)[:60]!r} is no piece of the library; take the id of an entry that `search` gave"
        )
    return identity


def written(text: str, what: str, lines: bool = False) -> str:
    """A person's text, NFC, as it may be stored: no control characters, one line unless `lines`.

    Raises MuseError for what is no text or too long.
    """
    if not isinstance(text, str):
        raise MuseError(f"a {what} must be text, not {type(text).__name__}")
    if len(text) > LONGEST:
        raise MuseError(f"this {what} has {len(text):,} characters; keep it below {LONGEST:,}")
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    allowed = "\n\t" if lines else ""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") and c not in allowed else c for c in text)
    return kept.strip() if lines else " ".join(kept.split())


def written_tags(tags) -> tuple[str, ...]:
    """Distinct tags in their order. Raises MuseError for a bare string, whose letters would become tags."""
    if isinstance(tags, str):
        raise MuseError(f'tags come as a list, such as ["{tags[:40]}"], not as one text')
    found = (written(tag, "tag") for tag in tags)
    return tuple(dict.fromkeys(tag for tag in found if tag))


def edited(entry: Entry, edit: dict) -> Entry:
    """The entry after one line of edits.jsonl: {"ids", "set": {...}, "tag": [...], "untag": [...]}."""
    fields = {k: v for k, v in edit.get("set", {}).items() if k in ("name", "notes", "star", "deleted")}
    gone = set(edit.get("untag", ()))
    tags = [tag for tag in (*entry.tags, *edit.get("tag", ())) if tag not in gone]
    return replace(entry, tags=tuple(dict.fromkeys(tags)), **fields)
