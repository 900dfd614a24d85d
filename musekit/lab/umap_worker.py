"""UMAP in a process of its own, which ends a minute after the last map.

Its compiler takes seconds to start, and hundreds of megabytes, which the kernel would keep. No torch is imported here.
"""

import threading
import warnings
from multiprocessing import Process, connection, get_context

import numpy as np

from musekit.config import MuseError

PATIENCE = 60.0  # seconds without a map
_turn = threading.Lock()
_worker: tuple[Process, connection.Connection] | None = None


def work(pipe: connection.Connection) -> None:
    """The worker: (rows, options) from the pipe, places or what went wrong back."""
    warnings.simplefilter("ignore")  # about a fixed seed that means one thread, and a graph that is not connected
    while pipe.poll(PATIENCE):
        try:
            rows, options = pipe.recv()
            from umap import UMAP

            pipe.send(UMAP(n_jobs=1, **options).fit_transform(rows))
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the other process raises it
            pipe.send(error)


def layout(rows: np.ndarray, **options) -> np.ndarray:
    """UMAP's places (n, 2) of rows (n, D). Raises what UMAP raises, and MuseError where its process dies."""
    global _worker
    with _turn:
        for _ in range(2):  # the worker may have ended while it was asked
            if _worker is None or not _worker[0].is_alive():
                context = get_context("spawn")
                here, there = context.Pipe()
                process = context.Process(target=work, args=(there,), daemon=True)
                process.start()
                there.close()
                _worker = process, here
            try:
                _worker[1].send((rows, options))
                found = _worker[1].recv()
            except (EOFError, OSError):
                _worker = None
                continue
            if isinstance(found, Exception):
                raise found
            return found
    raise MuseError("the process that lays out the map has died; try once more")
