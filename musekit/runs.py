"""A training run's folder: its configuration, metrics, checkpoints and lock.

    config.json        what was trained on what (`Run.claim`)          provenance.json   command, commit, hardware
    metrics.jsonl      one record per line                             tensorboard/      the same records, on request
    checkpoint-*.pt    the newest ones, each with the SHA-256 of its bytes
    .lock, .holder     held while a process trains here, and which process that is

Files are written under another name, flushed to disk and renamed: a kill or a full disk leaves the previous one intact.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from musekit.config import MuseError
from musekit.files import read_json, sha256, write_atomic
from musekit.results import now, provenance

# Seconds that a job which Slurm has restarted waits for its own earlier lock: a file server releases the lock of a lost
# machine late (NFS: after 90 s)
RESTART_PATIENCE_S = 150.0


class Run:
    """A run folder. keep: how many checkpoints stay. Raises MuseError where `tensorboard` is not installed."""

    def __init__(self, folder: Path, keep: int = 2, tensorboard: bool = False):
        self.folder, self.keep, self.tensorboard, self.writer = Path(folder), keep, tensorboard, None
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise MuseError("TensorBoard is not installed: pip install tensorboard, or leave out --train.tensorboard")

    def claim(self, config: dict, write: bool = True) -> None:
        """Write the run's configuration, or raise MuseError where the folder belongs to another one.

        A configuration that lacks one of the entries, because it is older, is not compared in that entry.
        """
        path = self.folder / "config.json"
        if path.exists():
            stored, config = read_json(path, dict), json.loads(json.dumps(config))  # tuples are lists in JSON
            there, here = flatten(stored), flatten({k: v for k, v in config.items() if k in stored})
            if different := [name for name in {**there, **here} if there.get(name) != here.get(name)]:
                name = different[0]
                raise MuseError(
                    f"{self.folder} holds a run with another configuration ({name} is {there.get(name)!r:.60} there"
                    f" and {here.get(name)!r:.60} here); choose another --run-folder or remove it"
                )
        elif write:
            write_atomic(self.folder / "provenance.json", json.dumps(provenance(), indent=1) + "\n")
            write_atomic(path, json.dumps(config, indent=1))  # last: where it exists, the other one does too

    def log(self, record: dict) -> None:
        """Append one line to metrics.jsonl, and the same numbers to TensorBoard. Raises MuseError on a full disk."""
        path = self.folder / "metrics.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # a kill cut the last line: this record starts its own
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise MuseError(f"cannot write {path}: {error.strerror or error}; free some space and run again") from error
        if self.tensorboard:
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # hides what a killed run wrote after the checkpoint from which this one continues
                self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=record["samples"])
            for name, value in record.items():
                self.writer.add_scalar(name.replace("valid_", "valid/"), value, record["samples"])
            self.writer.flush()

    def metrics(self) -> list[dict]:
        """The records of metrics.jsonl, without a line that a kill cut, or steps that were repeated after it."""
        path, records = self.folder / "metrics.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                while records and records[-1]["samples"] >= record["samples"]:
                    records.pop()
                records.append(record)
        return records

    def checkpoints(self) -> list[Path]:
        """The checkpoint files, oldest first."""
        return sorted(self.folder.glob("checkpoint-*.pt"))

    def save(self, samples: int, state: dict) -> Path:
        """Write a checkpoint and its hash, then delete old ones. Raises MuseError when it cannot be written; the
        previous checkpoint is then intact.
        """
        path = self.folder / f"checkpoint-{samples:012d}.pt"
        aside = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for cut in self.folder.glob("checkpoint-*.part"):  # left behind by a kill
                cut.unlink(missing_ok=True)
            with open(aside, "xb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            write_atomic(path.with_suffix(".sha256"), sha256(aside))
            os.replace(aside, path)
        except (OSError, RuntimeError, MuseError) as error:  # torch reports a full disk as RuntimeError
            aside.unlink(missing_ok=True)
            why = " ".join(str(error).split())
            raise MuseError(f"cannot write checkpoint {path}: {why}; the previous one is intact") from error
        newest = [p for p in self.checkpoints() if p <= path][-self.keep :]
        for old in {*self.checkpoints()} - {*newest}:  # also later ones: they are damaged, the run resumed before them
            old.unlink()
            old.with_suffix(".sha256").unlink(missing_ok=True)
        return path

    def load(self, warn: Callable[[str], None] = print) -> dict | None:
        """The newest undamaged checkpoint, or None; `warn` is called with a line for each damaged one."""
        for path in reversed(self.checkpoints()):
            digest = path.with_suffix(".sha256")
            if digest.exists() and digest.read_text() == sha256(path):
                return torch.load(path, map_location="cpu", weights_only=True)
            warn(f"{path.name} is damaged (its hash differs); using the checkpoint before it")
        return None


def flatten(value: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for name, inner in value.items():
        flat |= flatten(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {f"{prefix}{name}": inner}
    return flat


@contextlib.contextmanager
def exclusive(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock of a folder for the length of the block; it ends with the process, however that ends.

    patience: seconds to wait (None: `RESTART_PATIENCE_S` in a job that Slurm has restarted, else 0). Raises MuseError
    that names the holder when another process has the lock. On a file system without locks it only prints a note.
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
            stack.enter_context(lock.acquire(timeout=patience, poll_interval=0.2))
        except filelock.Timeout:
            who = holder.read_text() if holder.exists() else "which has just begun"
            raise MuseError(f"another run is writing to {folder} ({who}); stop it, or choose another folder") from None
        except OSError as error:
            print(f"musekit: note: {folder} has no locks ({error.strerror}): let no other run train there", flush=True)
        write_atomic(holder, f"process {os.getpid()} on {platform.node() or 'this machine'}, since {now()}")
        stack.callback(holder.unlink, missing_ok=True)
        yield
