"""Runs: provenance, result files, metrics, atomic files and checkpoints.

A file that a reader may rely on is written aside, flushed to disk and renamed: a kill or a full disk leaves the
one before it whole.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from musekit.config import MuseError


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write aside, fsync, rename. Raises MuseError when the place cannot be written or the disk is full."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the place itself may be what is wrong
            aside.unlink()
        raise MuseError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error


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
            "dirty": bool(git("status", "--porcelain", "--", "musekit")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line() -> str:
    """The command as a person would type it: no machine's paths."""
    program = Path(sys.argv[0]).name
    program = "musekit" if program in ("__main__.py", "musekit") else f"python {program}"
    home = str(Path.home())
    return " ".join([program, *(arg.replace(home, "~") for arg in sys.argv[1:])])


def provenance(**more) -> dict:
    """What a result needs so that it can be made again."""
    return {
        "command": command_line(),
        **commit(),
        "versions": versions(),
        "hardware": hardware(),
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


class Run:
    """A run folder: config.json, metrics.jsonl, checkpoints."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = Path(folder)
        self.keep = keep

    def claim(self, config: str) -> None:
        """Write the run's config, or check that the folder belongs to the same one. Raises MuseError if it does not."""
        path = self.folder / "config.json"
        if path.exists() and path.read_text() != config:
            raise MuseError(f"{self.folder} holds a run with another configuration; choose another --run or remove it")
        if not path.exists():
            write_atomic(path, config)
            write_atomic(self.folder / "provenance.json", json.dumps(provenance(), indent=1) + "\n")

    def log(self, record: dict) -> None:
        """Append one line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # a kill cut the last line: this record starts its own
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise MuseError(f"cannot write {path}: {error.strerror or error}; free some space and run again") from error

    def metrics(self) -> list[dict]:
        """All whole lines of metrics.jsonl; a line cut by a kill is left out."""
        path, rows = self.folder / "metrics.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("checkpoint-*.pt"))

    def save(self, samples: int, state: dict) -> Path:
        """An atomic checkpoint with its hash beside it; the last `keep` stay."""
        path = self.folder / f"checkpoint-{samples:012d}.pt"
        aside = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(aside, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            digest = sha256(aside)
            write_atomic(path.with_suffix(".sha256"), digest)
            os.replace(aside, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            aside.unlink(missing_ok=True)
            raise MuseError(f"cannot write checkpoint {path}: {error}; the one before it is whole") from error
        for old in self.checkpoints()[: -self.keep]:
            old.unlink()
            old.with_suffix(".sha256").unlink(missing_ok=True)
        return path

    def load(self, warn=print) -> dict | None:
        """The newest whole checkpoint, or None; a damaged one is told and the one before it is used."""
        for path in reversed(self.checkpoints()):
            digest = path.with_suffix(".sha256")
            if digest.exists() and digest.read_text() == sha256(path):
                return torch.load(path, map_location="cpu", weights_only=True)
            warn(f"{path.name} is damaged (its hash differs); using the checkpoint before it")
        return None
