"""Result files, and their provenance: command, commit, versions, hardware and time, without a machine's own paths."""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from modulefinder import ModuleFinder
from pathlib import Path

import torch

from musekit.config import MuseError
from musekit.files import write_atomic

TOP = Path(__file__).resolve().parent.parent  # the folder that holds this package


def hardware() -> dict:
    """CPU, cores, threads and GPUs of this machine."""
    cpus = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", cpus.read_text(), re.M) if cpus.exists() else []
    model = names[0] if names else platform.processor() or platform.machine()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def versions() -> dict:
    """Versions of Python and of the packages that decide the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("musekit", "torch", "numpy", "transformers", "librosa", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> dict:
    """The commit of this source and whether its files differ from it; empty where git does not track this file."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an environment inside another project's checkout
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def plain(path: Path) -> str:
    """A source file without its docstrings, comments and blank lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))) if path.suffix == ".py" else ():
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


@functools.cache
def code_hash(module: str, top: Path = TOP) -> str:
    """A hash of a module in the folder `top` and of all in that folder that it imports, in functions too.

    The .toml files beside the sources count; docstrings, comments and blank lines do not. Empty for an unknown module.
    """
    finder = ModuleFinder([str(top)])
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
    elif about["code"] != code_hash(about["module"]):
        found.append("the code has changed")
    used = about.get("weights")
    if isinstance(used, dict) and any(weights.get(part, "")[:16] != digest[:16] for part, digest in used.items()):
        found.append("made with other weights")
    return found


def summary(folder: Path, weights: dict[str, str]) -> list[dict]:
    """A row per result file: when it was made, from which commit, on which split, and what is wrong with it."""
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        about = json.loads(path.read_text())["provenance"]
        row = {"result": path.stem, "made": about["time"][:10], "commit": about.get("commit", "")[:7]}
        row |= {"split": about.get("split", ""), "test opened": about.get("test_opened", "")}
        rows.append(row | {"state": "; ".join(faults(about, weights)) or "fresh"})
    return rows


def now() -> str:
    """UTC, to the second: 2026-11-27T12:00:00Z."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line() -> str:
    """The command as a person would type it. Absolute paths become relative to the working folder, ~ or $MUSEKIT_HOME,
    or are cut to their name."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        name = program.parent.name if program.parent.name == "musekit" else f"python -m {program.parent.name}"
    else:
        name = program.name if program.name in ("musekit", "pytest") else f"python {program}"
    line = f"{name} {shlex.join(sys.argv[1:])}".strip()
    for place, short in (os.environ.get("MUSEKIT_HOME"), "$MUSEKIT_HOME/"), (Path.cwd(), ""), (Path.home(), "~/"):
        if place and str(place) != "/":
            line = line.replace(f"{place}/", short)
    return re.sub(r"(?<![^\s='])/\S*/", ".../", line)


def provenance(**more) -> dict:
    """Everything that is needed to make a result again."""
    about = {"command": command_line(), **commit(), "versions": versions(), "hardware": hardware()}
    job = {"job": "SLURM_JOB_ID", "task": "SLURM_ARRAY_TASK_ID", "nodes": "SLURM_JOB_NUM_NODES"}
    if "SLURM_JOB_ID" in os.environ:
        about["slurm"] = {name: os.environ[variable] for name, variable in job.items() if variable in os.environ}
    return {**about, "time": now(), **more}


def write_result(name: str, rows, folder: Path = Path("results"), module: str = "", **more) -> Path:
    """Write `<folder>/<name>.json`: {"name", "provenance" with `more`, "rows"}; returns its path.

    module: that made the rows; its `code_hash` is part of the provenance.
    """
    path = Path(folder) / f"{name}.json"
    more |= {"module": module, "code": code_hash(module)} if module else {}
    content = {"name": name, "provenance": provenance(**more), "rows": rows}
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def read_result(name: str, folder: Path = Path("results")) -> dict:
    """Inverse of `write_result`. Raises MuseError that names the missing file."""
    path = Path(folder) / f"{name}.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise MuseError(f"the result {path} is missing; make it with `musekit eval` or `musekit bench`") from error
