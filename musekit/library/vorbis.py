"""A kept sound as a FLAC file whose Vorbis comments say how it was made (xiph.org/vorbis/doc/v-comment.html).

TITLE PROMPT NEGATIVE_PROMPT SEED PRESET SETTINGS     for people
MUSE_RECIPE MUSE_ORIGIN MUSE_EMBEDDING                 all that decides its bits
MUSE_ID MUSE_MADE MUSE_NFE MUSE_SIMILARITY MUSE_SAMPLES KEYWORDS STAR DESCRIPTION
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np

from musekit.config import MuseError
from musekit.library import metadata
from musekit.library.entry import LONGEST, Entry, written
from musekit.recipe import Recipe

SETTINGS = ("seconds", "stage1_solver", "stage1_steps", "stage2_solver", "stage2_steps", "guidance_scale", "dtype")
NAMES = (
    "TITLE", "PROMPT", "NEGATIVE_PROMPT", "SEED", "PRESET", "SETTINGS", "MUSE_RECIPE", "MUSE_ORIGIN", "MUSE_EMBEDDING",
    "MUSE_ID", "MUSE_MADE", "MUSE_NFE", "MUSE_SIMILARITY", "MUSE_SAMPLES", "KEYWORDS", "STAR", "DESCRIPTION", "ENCODER",
)  # fmt: skip
PADDING = 1024  # bytes of room that other programs may write their tags into


def flac(audio: np.ndarray, sample_rate: int, entry: Entry) -> bytes:
    """audio (channels, N) as FLAC with the entry's facts; the bytes are a function of both alone.

    float32 and int16 become 16 bit, int32 becomes 24 bit. Raises MuseError for a sample rate that FLAC does not know.
    """
    import soundfile

    data, x = io.BytesIO(), audio.T
    bits = "PCM_24" if x.dtype == np.int32 else "PCM_16"
    x = np.clip(x, -1, 1) if x.dtype.kind == "f" else x
    try:
        soundfile.write(data, x, sample_rate, format="FLAC", subtype=bits)
    except RuntimeError as error:
        raise MuseError(
            f"FLAC cannot hold this sound at {sample_rate} Hz ({error}); save it as 44.1 kHz WAV"
        ) from error
    return tagged(data.getvalue(), entry)


def tagged(data: bytes, entry: Entry) -> bytes:
    """A FLAC file's bytes with the entry's facts in place of older ones; a stranger's other comments stay.

    Raises MuseError for what is no FLAC file, or for more comments than one can hold.
    """
    try:
        blocks, frames = metadata.read_blocks(data)
        vendor, said = next((metadata.read_comments(x) for kind, x in blocks if kind == metadata.COMMENTS), (b"", []))
        mine = comments(entry)
        said = [(name, text) for name, text in said if name not in NAMES]
        said += [(name, text) for name in NAMES for text in mine.get(name, [])]
        rest = [block for block in blocks[1:] if block[0] not in (metadata.COMMENTS, metadata.PADDING)]
        told = (metadata.COMMENTS, metadata.write_comments(vendor, said))
        return metadata.write_blocks([blocks[0], told, *rest, (metadata.PADDING, bytes(PADDING))], frames)
    except ValueError as error:
        raise MuseError(f"the facts of {entry.name!r:.60} cannot be written into its FLAC file: {error}") from error


def comments(entry: Entry) -> dict[str, list[str]]:
    """The Vorbis comments of an entry."""
    found = {
        "TITLE": entry.name,
        "PROMPT": entry.prompt,
        "NEGATIVE_PROMPT": entry.negative_prompt,
        "SEED": None if entry.seed is None else str(entry.seed),
        "PRESET": entry.preset,
        "MUSE_RECIPE": entry.recipe,
        "MUSE_ORIGIN": entry.origin,
        "MUSE_EMBEDDING": base64.b64encode(entry.embedding).decode() if entry.embedding else None,
        "MUSE_ID": entry.id,
        "MUSE_MADE": entry.made,
        "MUSE_NFE": entry.nfe,
        "MUSE_SIMILARITY": None if entry.similarity is None else repr(entry.similarity),
        "MUSE_SAMPLES": entry.samples_sha256,
        "DESCRIPTION": entry.notes,
        "STAR": "1" if entry.star else None,
        "ENCODER": "musekit",
    }
    if entry.recipe:
        recipe = json.loads(entry.recipe)
        found["SETTINGS"] = json.dumps({name: recipe.get(name) for name in SETTINGS})
    return {name: [text] for name, text in found.items() if text} | (
        {"KEYWORDS": list(entry.tags)} if entry.tags else {}
    )


def read_flac(path: Path) -> Entry:
    """The entry of a kept or exported file, from the file alone; `id` is the file's name.

    Raises MuseError when it is no FLAC. Comments that make no sense are left out: a stranger may have written them.
    """
    try:
        data = path.read_bytes()
        blocks, _ = metadata.read_blocks(data)
        info, found = metadata.info(blocks), {}
        for name, text in next((metadata.read_comments(x)[1] for kind, x in blocks if kind == metadata.COMMENTS), []):
            found.setdefault(name, []).append(text)
    except (OSError, ValueError) as error:
        raise MuseError(f"{path.name} is no FLAC file that can be read ({error})") from error
    entry = Entry(
        id=path.stem,
        name=path.stem,
        seconds=info.seconds,
        sample_rate=info.sample_rate,
        channels=info.channels,
        sha256=hashlib.sha256(data).hexdigest(),
        path=path,
    )
    return facts(entry, found)


def facts(entry: Entry, found: dict[str, list[str]]) -> Entry:
    """The entry with what Vorbis comments {NAME: texts} tell of it, as far as it can be believed."""

    def text(name: str, lines: bool = False) -> str:
        return written(found.get(name, [""])[0][:LONGEST], name.lower(), lines)

    recipe, origin = found.get("MUSE_RECIPE", [None])[0], found.get("MUSE_ORIGIN", [None])[0]
    fields: dict = {}
    if recipe is not None and (parsed := believed(Recipe, recipe)):
        fields = about(parsed)
        from musekit.explore.take import Origin

        if origin is not None and believed(Origin, origin):
            fields["origin"] = origin
    try:
        raw = base64.b64decode(found.get("MUSE_EMBEDDING", [""])[0], validate=True)
        similarity = float(found["MUSE_SIMILARITY"][0]) if "MUSE_SIMILARITY" in found else None
    except (binascii.Error, ValueError):
        raw, similarity = b"", None
    tags = tuple(dict.fromkeys(written(tag[:LONGEST], "tag") for tag in found.get("KEYWORDS", [])))
    return replace(
        entry,
        **fields,
        name=text("TITLE") or fields.get("prompt") or entry.name,
        embedding=raw if raw and len(raw) % 4 == 0 and np.isfinite(np.frombuffer(raw, "<f4")).all() else None,
        similarity=similarity if similarity is not None and np.isfinite(similarity) else None,
        nfe=text("MUSE_NFE"),
        notes=text("DESCRIPTION", lines=True),
        star="STAR" in found,
        tags=tuple(tag for tag in tags if tag),
        made=text("MUSE_MADE")[:27],
        samples_sha256=text("MUSE_SAMPLES")[:64],
    )


def believed(kind: type, text: str):
    """`kind.from_json(text)` (of `Recipe`, `Origin`) with every value of its type, or None where it is not that."""
    try:
        found = kind.from_json(text)
    except (MuseError, TypeError, RecursionError, OverflowError):  # brackets, thousands deep; numbers without end
        return None
    for name, hint in typing.get_type_hints(kind).items():
        value = getattr(found, name)
        good = isinstance(value, (float, int) if hint is float else hint) and (hint is bool or value is not True)
        if not good or (isinstance(value, str) and (len(value) > LONGEST or re.search("[\ud800-\udfff]", value))):
            return None  # half a character cannot be stored
        if isinstance(value, (int, float)) and not 0 <= value < 2**63:  # neither NaN, which compares false
            return None
    return found


def about(recipe: Recipe) -> dict:
    """The fields of an entry that a recipe tells."""
    return {
        "recipe": recipe.to_json(),
        "prompt": recipe.prompt,
        "negative_prompt": recipe.negative_prompt,
        "seed": recipe.seed,
        "preset": recipe.preset,
    }
