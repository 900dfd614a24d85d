"""Prompts are untrusted text: cleaned once, here, with a notice of whatever was changed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from musekit.config import MuseError

LONGEST = 2000  # characters kept; the text encoder reads far fewer tokens than that


def clean(prompt: str, what: str = "prompt", notice: Callable[[str], None] = lambda text: None) -> str:
    """NFC, control characters as spaces, runs of white space as one. Raises MuseError when nothing is left."""
    if not isinstance(prompt, str):
        raise MuseError(f"the {what} must be text, not {type(prompt).__name__}")
    if len(prompt) > LONGEST:
        notice(f"the {what} has {len(prompt):,} characters; only the first {LONGEST:,} are read")
        prompt = prompt[:LONGEST]
    text = unicodedata.normalize("NFC", prompt.encode("utf-8", "replace").decode())
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    text = re.sub(r"\s+", " ", kept).strip()
    if not text:
        raise MuseError(f'the {what} is empty; describe the music, for example "a sad piano melody"')
    return text


def file_stem(prompt: str, length: int = 40) -> str:
    """A safe file name from a prompt: lower-case ASCII letters, digits and dashes."""
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:length].strip("-") or "piece"
