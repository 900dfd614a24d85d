"""Runs: result files, metrics, atomic files and checkpoints.

A file that a reader may rely on is written aside, flushed to disk and renamed: a kill or a full disk leaves the
one before it whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from musekit.config import MuseError
from musekit.files import sha256, write_atomic
from musekit.results import provenance
from musekit.runs.board import Board


class Run:
    """A run folder: config.json, metrics.jsonl, the last checkpoints and the best one (best.json names it)."""

    def __init__(self, folder: Path, keep: int = 2, tensorboard: bool = False):
        self.folder, self.keep = Path(folder), max(1, keep)
        self.board = Board(self.folder / "tensorboard") if tensorboard else None

    def claim(self, config: str, write: bool = True) -> None:
        """Write the run's config, or check that the folder belongs to the same one. Raises MuseError if it does not.

        What config.json does not tell, because it is older than that entry, is not compared.
        """
        path = self.folder / "config.json"
        if path.exists():
            if wrong := difference(path.read_text(errors="replace"), config):
                raise MuseError(
                    f"{self.folder} holds a run with another configuration ({wrong}); choose another --run-folder or"
                    " remove it"
                )
        elif write:
            write_atomic(self.folder / "provenance.json", json.dumps(provenance(), indent=1) + "\n")
            write_atomic(path, config)  # last: where it is, the other one is too

    def log(self, record: dict) -> None:
        """Append one line to metrics.jsonl, and its numbers to TensorBoard where that is asked for."""
        path = self.folder / "metrics.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # a kill cut the last line: this record starts its own
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise MuseError(f"cannot write {path}: {error.strerror or error}; free some space and run again") from error
        if self.board is not None:
            self.board.log(record)

    def metrics(self) -> list[dict]:
        """All whole lines of metrics.jsonl: without a line cut by a kill, or steps that were done again after it."""
        path, rows = self.folder / "metrics.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            while rows and "samples" in row and rows[-1].get("samples", -1) >= row["samples"]:
                rows.pop()
            rows.append(row)
        return rows

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("checkpoint-*.pt"))

    def best(self) -> dict:
        """{"checkpoint", "samples", "valid_loss"} of the best checkpoint; empty when none is known."""
        try:
            found = json.loads((self.folder / "best.json").read_text())
            return found if (self.folder / found["checkpoint"]).exists() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def save(self, samples: int, state: dict, valid_loss: float | None = None) -> Path:
        """An atomic checkpoint with its hash beside it; the last `keep` stay, and the best by validation loss.

        valid_loss: given where this checkpoint is the best so far.
        """
        path = self.folder / f"checkpoint-{samples:012d}.pt"
        aside = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for cut in (*self.folder.glob("*.part"), *self.folder.glob(".*.part")):
                cut.unlink(missing_ok=True)  # what a kill left behind
            with open(aside, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            digest = sha256(aside)
            write_atomic(path.with_suffix(".sha256"), digest)
            os.replace(aside, path)
        except (OSError, RuntimeError, MuseError) as error:  # torch reports a full disk as RuntimeError
            aside.unlink(missing_ok=True)
            why = " ".join(str(error).split())
            raise MuseError(f"cannot write checkpoint {path}: {why}; the one before it is whole") from error
        if valid_loss is not None:
            found = {"checkpoint": path.name, "samples": samples, "valid_loss": valid_loss}
            write_atomic(self.folder / "best.json", json.dumps(found) + "\n")
        best, there = self.best().get("checkpoint"), self.checkpoints()
        newest = [p for p in there if p <= path][-self.keep :]
        for old in there:  # one beyond this is damaged: the run has gone on from one before it
            if old > path or (old not in newest and old.name != best):
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


def difference(stored: str, config: str) -> str:
    """Where two JSON objects differ first, in words; empty when what is stored is the same."""
    try:
        there, here = json.loads(stored), json.loads(config)
    except ValueError:
        return "its config.json is damaged"
    if not isinstance(there, dict) or not isinstance(here, dict):
        return "" if there == here else "its config.json is damaged"
    for key, value in there.items():
        if value != here.get(key):
            inner = {k for pair in (value, here.get(key)) if isinstance(pair, dict) for k in pair}
            other = here.get(key) if isinstance(here.get(key), dict) else {}
            for k in sorted(inner) if isinstance(value, dict) else ():
                if value.get(k) != other.get(k):
                    return f"{key}.{k} is {value.get(k)!r} there and {other.get(k)!r} here"
            return f"{key} is {value!r:.60} there and {here.get(key)!r:.60} here"
    return ""
