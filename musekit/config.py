"""Configuration: what is wrong in one is told clearly, and it goes to JSON and back.

The frozen dataclasses are in `parts`, the functions that fill them in `presets`; both are named here too. The same
flow, solvers, trainer and sampler serve every preset.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from pathlib import Path

from musekit.parts import CodecConfig, EmbedderConfig, MuseConfig, SampleConfig, Stage1Config, Stage2Config, TextConfig
from musekit.presets import PRESETS, mini, paper, smoke

__all__ = ["CodecConfig", "EmbedderConfig", "MuseConfig", "SampleConfig", "Stage1Config", "Stage2Config", "TextConfig"]
__all__ += ["PRESETS", "TONICS", "MuseError", "check_type", "from_dict", "from_json", "home", "identity", "mini"]
__all__ += ["paper", "preset", "smoke", "suggest", "to_json"]

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")  # how records and prompts spell them


class MuseError(Exception):
    """A mistake that a user can mend. The text says what is wrong, where, and what to do; the CLI exits with 2."""


def suggest(word: str, known, what: str) -> MuseError:
    """An error for an unknown name that offers the nearest known one."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = str(word) if len(str(word)) <= 60 else str(word)[:57] + "..."
    return MuseError(f"unknown {what} {shown!r}{hint} (known: {', '.join(map(str, known))})")


def preset(name: str) -> MuseConfig:
    """The preset of that name. Raises MuseError with a suggestion."""
    if name not in PRESETS:
        raise suggest(name, PRESETS, "preset")
    return PRESETS[name]()


def identity(config) -> dict:
    """A config as a dict that names what was made with it: fields that came `later` only where off their default."""
    values = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.repr or value != f.default:
            values[f.name] = identity(value) if dataclasses.is_dataclass(value) else value
    return values


def to_json(config) -> str:
    """A frozen config as readable JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + "\n"


def from_dict(cls, values: dict, where: str = "config"):
    """Rebuild a (nested) dataclass; an unknown field is an error that names the nearest known one."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    out = {}
    for key, value in values.items():
        if key not in known:
            raise suggest(key, known, f"field in {where}")
        default = known[key].default_factory if known[key].default_factory is not dataclasses.MISSING else None
        is_config = default is not None and dataclasses.is_dataclass(default)
        if is_config:
            out[key] = from_dict(default, value, f"{where}.{key}")
        else:
            check_type(known[key], value, f"{where}.{key}")
            out[key] = value
    return cls(**out)


def check_type(known: dataclasses.Field, value, where: str) -> None:
    """Raise MuseError when a value is not of its field's default's type (a whole number may stand for a float)."""
    kind = type(known.default)
    allowed = (float, int) if kind is float else (kind,)
    if kind in (bool, int, float, str) and type(value) not in allowed:
        raise MuseError(f"{where} must be a {kind.__name__}, not {value!r:.60}")


def from_json(text: str, cls=MuseConfig, where: str = "config.json"):
    """Inverse of `to_json`. Raises MuseError when the text is not such a config."""
    try:
        values = json.loads(text)
        return from_dict(cls, values, where)
    except (ValueError, TypeError, AttributeError) as error:
        raise MuseError(f"{where} is not a MUSE configuration ({error}); restore it from its source") from error


def home() -> Path:
    """Where caches, runs and checkpoints live: $MUSEKIT_HOME, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MUSEKIT_HOME") or Path(base) / "musekit").expanduser()
