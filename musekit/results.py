"""Result files of `musekit eval` and `musekit bench`, with their provenance."""

import ast
import functools
import hashlib
import json
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Required, TypedDict

from musekit.files import read_json, write_atomic

TOP = Path(__file__).resolve().parent.parent  # the folder that holds this package


def plain(path: Path) -> str:
    """A source file without its docstrings, comments and blank lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))) if path.suffix == ".py" else ():
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


class About(TypedDict, total=False):
    """What a list of results says of one: a part of its provenance."""

    time: Required[str]
    commit: str
    dirty: bool
    module: str
    code: str
    weights: dict[str, str] | str
    split: str
    test_opened: int


class Result(TypedDict):
    """A result file, without its rows."""

    provenance: About


class OwnModules(ModuleFinder):
    """Finds the modules of one package only: an installed one has all others beside it."""

    def find_module(self, name, path, parent=None):
        """As `ModuleFinder.find_module`; ImportError for another package."""
        if path is None and name != self.package:
            raise ImportError(name)
        return super().find_module(name, path, parent)


@functools.cache
def code_hash(module: str, top: Path = TOP) -> str:
    """A hash of a module in the folder `top` and of all of its package that it imports, in functions too.

    The .toml files beside the sources count; docstrings, comments and blank lines do not. Empty for an unknown module.
    """
    finder = OwnModules([str(top)])
    finder.package = module.split(".")[0]
    try:
        finder.import_hook(module)
    except ImportError:
        return ""
    files = [Path(found.__file__) for found in finder.modules.values() if found.__file__]
    files += [table for path in files for table in path.parent.glob("*.toml")]
    texts = sorted({str(path.relative_to(top)): plain(path) for path in files if path.is_relative_to(top)}.items())
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def faults(about: dict, weights: dict[str, str]) -> list[str]:
    """Why a result is not that of today's code and weights, by its provenance; weights: {part: sha256}."""
    found = ["made on a dirty tree"] if about.get("dirty", True) else []
    if not about.get("code"):
        found.append("names no code")
    elif about["code"] != code_hash(about.get("module", "")):
        found.append("the code has changed")
    used = about.get("weights")
    if isinstance(used, dict) and any(weights.get(part, "")[:16] != digest[:16] for part, digest in used.items()):
        found.append("made with other weights")
    return found


def summary(folder: Path, weights: dict[str, str]) -> list[dict]:
    """A row per result file: when it was made, from which commit, on which split, and what is wrong with it."""
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        about = read_json(path, Result)["provenance"]
        row = {"result": path.stem, "made": about["time"][:10], "commit": about.get("commit", "")[:7]}
        row |= {"split": about.get("split", ""), "test opened": about.get("test_opened", "")}
        rows.append(row | {"state": "; ".join(faults(about, weights)) or "fresh"})
    return rows


def write_result(name: str, rows, folder: Path = Path("results"), module: str = "", **more) -> Path:
    """Write `<folder>/<name>.json`: {"name", "provenance" with `more`, "rows"}; returns its path.

    module: that made the rows; its `code_hash` is part of the provenance.
    """
    from musekit.runs import provenance  # it imports torch, which lists of results do not need

    path = Path(folder) / f"{name}.json"
    more |= {"module": module, "code": code_hash(module)} if module else {}
    content = {"name": name, "provenance": provenance(**more), "rows": rows}
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path
