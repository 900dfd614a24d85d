"""Result files of `musekit eval` and `musekit bench`, with their provenance."""

from __future__ import annotations

import json
from pathlib import Path

from musekit.config import MuseError
from musekit.files import read_json, write_atomic
from musekit.runs import provenance


def write_result(name: str, rows, folder: Path = Path("results"), **more) -> Path:
    """Write `<folder>/<name>.json`: {"name", "provenance" with `more`, "rows"}; returns its path."""
    path = Path(folder) / f"{name}.json"
    content = {"name": name, "provenance": provenance(**more), "rows": rows}
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def read_result(name: str, folder: Path = Path("results")) -> dict:
    """Inverse of `write_result`. Raises MuseError that names the missing file."""
    path = Path(folder) / f"{name}.json"
    try:
        return read_json(path, dict)
    except FileNotFoundError as error:
        raise MuseError(f"the result {path} is missing; make it with `musekit eval` or `musekit bench`") from error
