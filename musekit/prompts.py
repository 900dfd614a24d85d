"""Prompts are untrusted text: cleaned once, here, with a notice of whatever was changed."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable

from musekit.config import MuseError

LONGEST = 2000  # characters kept; the text encoder reads far fewer tokens than that


def clean(prompt: str, what: str = "prompt", notice: Callable[[str], None] = lambda text: None) -> str:
    """NFC, control characters as spaces, runs of white space as one.

    Raises MuseError when nothing is left that the text encoder, which learned English, can read.
    """
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
    latin = ["LATIN" in unicodedata.name(c, "") for c in text if c.isalpha()]
    if not any(latin):
        raise MuseError(f'the {what} has no English words; describe the music, for example "a sad piano melody"')
    if not all(latin):
        notice(f"the {what} has letters of other scripts; the text encoder reads English, so they say little to it")
    return text


def file_stem(prompt: str, length: int = 40) -> str:
    """A safe file name from a prompt: lower-case ASCII letters, digits and dashes.

    Where the name does not hold the whole prompt, eight digits of its hash keep different prompts apart.
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    if len(name) <= length and name.replace("-", " ") == prompt.lower():
        return name
    return f"{name[:length].strip('-') or 'piece'}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
