"""One run at a time in a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

from musekit.config import MuseError
from musekit.results import now

# Seconds that a job which Slurm has started again waits for what is left of its earlier start: a file server takes its
# time (NFS: 90 s) to give up a lock of a machine that is gone
PATIENCE = 150.0


def hold(folder: Path, warn: Callable[[str], None] = print, patience: float | None = None) -> IO[str] | None:
    """The open lock of a run's folder: held until it is closed, or this process has ended or was killed.

    Where the file system has no locks that is told, and there is none (None). Raises MuseError when another process
    holds it, after `patience` seconds (None: `PATIENCE` where Slurm has started this job again, else at once).
    """
    if patience is None:
        patience = PATIENCE if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0.0
    end, path = time.monotonic() + patience, Path(folder) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+", errors="replace")  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise MuseError(f"cannot write {path}: {error.strerror or error}; choose another --run-folder") from error
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            with lock:
                lock.seek(0)
                holder = " ".join(lock.read(200).split()) or "which has just begun"
            raise MuseError(
                f"another run is training in {folder} ({holder}); stop it, or give another --run-folder"
            ) from None
        except OSError as error:
            lock.close()
            warn(f"{folder} is on a file system without locks ({error.strerror}): let no other run train there")
            return None
    held = weakref.ref(lock)  # a forked process that outlives this one by a moment would hold it on
    os.register_at_fork(after_in_child=lambda: (file := held()) and file.close())
    with contextlib.suppress(OSError):  # a full disk: who holds the lock is a courtesy
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node() or 'this machine'}, since {now()}")
        lock.flush()
    return lock
