"""Result files, and their provenance: command, commit, versions, hardware and time, without a machine's own paths."""

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
    """CPU, cores, threads and GPUs of this machine."""
    model = platform.processor() or platform.machine()
    if (cpus := Path("/proc/cpuinfo")).exists():
        names = [line.split(":", 1)[1].strip() for line in cpus.read_text().splitlines() if line[:10] == "model name"]
        model = names[0] if names else model
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


def now() -> str:
    """UTC, to the second: 2026-11-27T12:00:00Z."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line() -> str:
    """The command as a person would type it, without this machine's paths."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        name = program.parent.name if program.parent.name == "musekit" else f"python -m {program.parent.name}"
    else:
        known = program.name in ("musekit", "pytest")
        name = program.name if known else f"python {portable(str(program))}"
    words = [portable(word) for word in sys.argv[1:]]
    # quoted less than by shlex: the shell replaces ~ and $MUSEKIT_HOME
    return " ".join([name, *(shlex.quote(w) if any(c.isspace() or c in "'\"" for c in w) else w for w in words)])


def portable(word: str) -> str:
    """An argument whose absolute path is relative to the working folder, ~ or $MUSEKIT_HOME, or cut to its name."""
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
    """Under Slurm the job's number, array task and number of nodes; else empty."""
    known = {"job": "SLURM_JOB_ID", "task": "SLURM_ARRAY_TASK_ID", "nodes": "SLURM_JOB_NUM_NODES"}
    found = {name: os.environ[variable] for name, variable in known.items() if os.environ.get(variable)}
    return {"slurm": found} if "job" in found else {}


def provenance(**more) -> dict:
    """Everything that is needed to make a result again."""
    about = {"command": command_line(), **commit(), "versions": versions(), "hardware": hardware()}
    return {**about, **slurm(), "time": now(), **more}


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
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise MuseError(f"the result {path} is missing; make it with `musekit eval` or `musekit bench`") from error
