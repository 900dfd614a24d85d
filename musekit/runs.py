"""A training run's folder: its configuration, provenance, metrics, checkpoints and lock.

    config.json        what was trained on what (`Run.claim`)          provenance.json   command, commit, hardware
    metrics.jsonl      one record per line                             .lock, .holder    the process that trains here
    checkpoint-*.pt    the newest ones, each with the SHA-256 of its bytes

Files are written under another name, flushed to disk and renamed: a kill or a full disk leaves the previous one intact.
"""

import contextlib
import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import disk_usage

import torch

from musekit.config import MuseError
from musekit.files import decode, read_json, regular, sha256, sweep, temporary, write_atomic

# Seconds that a job which Slurm has restarted waits for its own earlier lock: a file server releases the lock of a lost
# machine late (NFS: after 90 s)
RESTART_PATIENCE_S = 150.0


class Run:
    """A run folder. keep: how many checkpoints stay."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

    def claim(self, config: dict, write: bool = True, **machine: int) -> None:
        """Write the run's configuration, or raise MuseError where the folder belongs to another one.

        machine: ranks and threads, which only decide the last bits; a note says where they have changed.
        """
        path = self.folder / "config.json"
        if path.exists():
            stored, config = read_json(path, dict), json.loads(json.dumps(config))  # tuples are lists in JSON
            began = stored.pop("machine", machine)
            if different := [name for name in stored if stored[name] != config.get(name)]:
                told = f"{', '.join(different)} differ; it has {stored[different[0]]!s:.80}"
                raise MuseError(f"{self.folder} is of another configuration ({told}); choose another --run-folder")
            if write and began != machine:
                now_and_then = f"{began!s:.60}, and has {machine} now"
                print(f"musekit: note: this run began with {now_and_then}: its last bits will differ", file=sys.stderr)
        elif write:
            write_atomic(self.folder / "provenance.json", json.dumps(provenance(), indent=1) + "\n")
            # last: where it exists, the other one does too
            write_atomic(path, json.dumps(config | {"machine": machine}, indent=1))

    def log(self, record: dict) -> None:
        """Append one line to metrics.jsonl. Raises MuseError on a full disk."""
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
        """The records of metrics.jsonl, without steps that were repeated after a kill, or lines that are damaged."""
        path, records = self.folder / "metrics.jsonl", []
        for line in regular(path).read_bytes().splitlines() if path.exists() else []:
            with contextlib.suppress(MuseError, KeyError):
                record = decode(line, dict[str, float], str(path))
                record["samples"] = int(record["samples"])
                while records and records[-1]["samples"] >= record["samples"]:
                    records.pop()
                records.append(record)
        return records

    def checkpoints(self) -> list[Path]:
        """The checkpoint files, oldest first."""
        return sorted(self.folder.glob(f"checkpoint-{12 * '[0-9]'}.pt"))

    def save(self, samples: int, state: dict) -> Path:
        """Write a checkpoint and its hash, then delete old ones. Raises MuseError when it cannot be written; the
        previous checkpoint is then intact.
        """
        path = self.folder / f"checkpoint-{samples:012d}.pt"
        aside = temporary(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder, older=0.0)  # this process alone writes here
            with open(aside, "xb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            write_atomic(path.with_suffix(".sha256"), sha256(aside))
            os.replace(aside, path)
        except (OSError, RuntimeError, MuseError) as error:  # torch reports a full disk as RuntimeError
            aside.unlink(missing_ok=True)
            why, free = getattr(error.__context__, "strerror", None) or error, disk_usage(self.folder).free / 2**30
            why = f"{' '.join(str(why).split()):.80}; its disk has {free:.1f} GiB free"
            raise MuseError(f"cannot write checkpoint {path}: {why}; the previous checkpoint is intact") from error
        newest = [p for p in self.checkpoints() if p <= path][-self.keep :]
        for old in {*self.checkpoints()} - {*newest}:  # also later ones: they are damaged, the run resumed before them
            old.unlink()
            old.with_suffix(".sha256").unlink(missing_ok=True)
        return path

    def load(self, warn: Callable[[str], None] = print) -> dict | None:
        """The newest undamaged checkpoint, or None; `warn` is called with a line for each damaged one."""
        for path in reversed(self.checkpoints()):
            digest = path.with_suffix(".sha256")
            if digest.exists() and digest.read_bytes() == sha256(path).encode():
                return torch.load(path, map_location="cpu", weights_only=True)
            warn(f"{path.name} is damaged (its hash differs); using the checkpoint before it")
        return None


@contextlib.contextmanager
def exclusive(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of a folder for the length of the block; it ends with the process, however that ends.

    patience: seconds to wait (None: `RESTART_PATIENCE_S` in a job that Slurm has restarted, else 0). Raises MuseError
    that names the holder; on a file system without locks it only prints a note.
    """
    import filelock

    if patience is None:
        patience = RESTART_PATIENCE_S if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0.0
    lock, holder = filelock.FileLock(folder / ".lock", thread_local=False), folder / ".holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise MuseError(f"cannot write {folder}: {error.strerror or error}; choose another --run-folder") from error
    with contextlib.ExitStack() as stack:
        try:
            with contextlib.suppress(ImportError, BlockingIOError):  # Windows; another run
                import fcntl

                with open(folder / ".lock") as file:  # without flock filelock would take the file itself for a lock
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            stack.enter_context(lock.acquire(timeout=patience, poll_interval=0.2))
        except filelock.Timeout:
            who = holder.read_text() if holder.exists() else "which has just begun"
            raise MuseError(f"another run is writing to {folder} ({who}); stop it, or choose another folder") from None
        except OSError as error:
            print(f"musekit: note: {folder} has no locks ({error.strerror}): let no other run train there", flush=True)
        sweep(folder)
        write_atomic(holder, f"process {os.getpid()} on {platform.node() or 'this machine'}, since {now()}")
        stack.callback(holder.unlink, missing_ok=True)
        yield


def hardware() -> dict:
    """CPU, cores, threads and GPUs of this machine."""
    cpus = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", cpus.read_text(), re.M) if cpus.exists() else []
    model = names[0] if names else platform.processor() or platform.machine()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def versions() -> dict:
    """Versions of Python and of the packages that decide the numbers."""
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
    """The command as a person would type it, absolute paths cut to their names."""
    program = Path(sys.argv[0])
    name, folder = program.name, program.parent.name
    if name == "__main__.py":
        name = folder if folder == "musekit" else f"python -m {folder}"
    elif program.suffix == ".py":
        name = f"python {folder}/{name}" if folder else f"python {name}"
    words = (re.sub(r"(^|=)/\S*/", r"\1.../", word) for word in sys.argv[1:])
    return f"{name} {shlex.join(words)}".strip()


def provenance(**more) -> dict:
    """Everything that is needed to make a result again."""
    about = {"command": command_line(), **commit(), "versions": versions(), "hardware": hardware()}
    job = {"job": "SLURM_JOB_ID", "task": "SLURM_ARRAY_TASK_ID", "nodes": "SLURM_JOB_NUM_NODES"}
    if "SLURM_JOB_ID" in os.environ:
        about["slurm"] = {name: os.environ[variable] for name, variable in job.items() if variable in os.environ}
    return {**about, "time": now(), **more}
