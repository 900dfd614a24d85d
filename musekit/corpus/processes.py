"""Worker processes for renderers, parsers and encoders, in which a signal or a crash loses only unfinished items.

It imports no torch: workers that render start in a fraction of a second.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import takewhile
from multiprocessing import get_context, parent_process

from musekit.config import MuseError


def follow_parent(*_) -> None:
    """Begin a worker: ignore the signals that the parent process answers, and end when it ends, however that is."""
    for name in ("SIGUSR1", "SIGTERM", "SIGHUP", "SIGINT"):
        signal.signal(getattr(signal, name, signal.SIGINT), signal.SIG_IGN)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def in_processes(function: Callable, items: Iterable, workers: int, stop: Callable[[], int] = lambda: 0) -> Iterator:
    """Yield `function(item)` of each item as it finishes, computed by `workers` processes (1: by this process).

    Items are taken from the iterable as workers become free. When `stop()` says so, items in work are finished, and
    `distributed.Stopped` is raised. Raises MuseError when a worker dies, and what `function` raises.
    """
    items, pending = takewhile(lambda _: not stop(), items), set()
    if workers == 1:
        yield from map(function, items)
    else:
        try:
            with ProcessPoolExecutor(workers, get_context("spawn"), initializer=follow_parent) as pool:
                while True:
                    while len(pending) <= workers and (item := next(items, None)) is not None:
                        pending.add(pool.submit(function, item))
                    if not pending:
                        break
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (job.result() for job in done)
        except BrokenProcessPool:
            if not stop():  # else the signal ended a worker that was starting
                raise MuseError("a worker process died; run the same command again to go on") from None
    end_if(stop)


def end_if(stop: Callable[[], int]) -> None:
    """Raise `distributed.Stopped` when `stop()` says so."""
    if code := stop():
        from musekit.distributed import Stopped  # here, since it brings torch

        raise Stopped(code)
