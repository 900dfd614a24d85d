"""Where a number comes from: command, commit, versions, hardware and time, and no machine's paths."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from musekit.config import MuseError
from musekit.files import write_atomic


def hardware() -> dict:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the generic name stands
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def versions() -> dict:
    """Versions of what decides the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("musekit", "torch", "numpy", "transformers", "librosa", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> dict:
    """The source's commit and whether the tree differed from it; empty outside a checkout."""

    def git(*args: str) -> str:
        here = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", ".")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line() -> str:
    """The command as a person would type it: no machine's paths."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        name = program.parent.name if program.parent.name == "musekit" else f"python -m {program.parent.name}"
    else:
        known = program.name in ("musekit", "pytest")
        name = program.name if known else f"python {without_places(str(program))}"
    words = [without_places(word) for word in sys.argv[1:]]
    # not all that shlex would quote: ~ and $MUSEKIT_HOME are to be replaced by the shell
    return " ".join([name, *(shlex.quote(w) if any(c.isspace() or c in "'\"" for c in w) else w for w in words)])


def without_places(word: str) -> str:
    """An argument whose absolute path, if it has one, is told from here, from home, or by its name alone."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if not value.startswith("/") or "\0" in value:
        return word
    known = {Path.cwd(): "", Path.home(): "~/"}
    if os.environ.get("MUSEKIT_HOME"):
        known[Path(os.environ["MUSEKIT_HOME"])] = "$MUSEKIT_HOME/"
    path = Path(value)
    for place, short in known.items():
        if path.is_relative_to(place) and place != Path("/"):
            return f"{option}{equals}{short}{path.relative_to(place)}"
    return f"{option}{equals}.../{path.name}"


def slurm() -> dict:
    """The job that runs this and how many nodes it has, under Slurm; else empty."""
    known = {"job": "SLURM_JOB_ID", "task": "SLURM_ARRAY_TASK_ID", "nodes": "SLURM_JOB_NUM_NODES"}
    found = {name: os.environ[variable] for name, variable in known.items() if os.environ.get(variable)}
    return {"slurm": found} if "job" in found else {}


def provenance(**more) -> dict:
    """What a result needs so that it can be made again."""
    return {
        "command": command_line(),
        **commit(),
        "versions": versions(),
        "hardware": hardware(),
        **slurm(),
        "time": now(),
        **more,
    }


def write_result(name: str, rows, folder: Path = Path("results"), **more) -> Path:
    """`results/<name>.json`: {"name", "provenance", "rows"}, one schema for eval, bench and train. Returns its path."""
    path = Path(folder) / f"{name}.json"
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
