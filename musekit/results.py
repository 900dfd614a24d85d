"""Result files, and their provenance: command, commit, versions, hardware and time, without a machine's own paths."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from musekit.config import MuseError
from musekit.files import write_atomic


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
