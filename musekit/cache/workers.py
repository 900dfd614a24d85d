"""Workers: one function in several processes, which end together: on a mistake, or where a signal asks them to."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence

from musekit import distributed
from musekit.config import MuseError

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keep signals waiting while processes start: these inherit it, and `worker` hears them once it can answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker(told, function: Callable, arguments: tuple) -> None:
    """What each process runs: `function(*arguments, stop)`; a user's mistake is told to the parent, in a word."""
    with distributed.signals(last=True) as stop:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            function(*arguments, stop)
        except MuseError as error:
            told.put(str(error))
            raise SystemExit(2) from None


def run(function: Callable, each: Sequence[tuple], stop: Callable[[], int], what: str) -> None:
    """`function(*arguments, stop)` for each of these arguments in a process of its own, all at once.

    Raises MuseError when one of them does or dies, `Stopped` when they stopped because `stop()` says so: the
    signal is passed on, and each ends where its work is whole.
    """
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    processes = [context.Process(target=worker, args=(told, function, arguments)) for arguments in each]
    with held_back():
        for process in processes:
            process.start()
    passed_on = False
    while running := [process for process in processes if process.exitcode is None]:
        failed = any(process.exitcode for process in processes)
        if (stop() or failed) and not passed_on:  # one that cannot go on ends them all
            passed_on = True
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
        running[0].join(0.1)
    if not told.empty():
        raise MuseError(told.get())
    codes = [process.exitcode for process in processes]
    if any(code not in (0, os.EX_TEMPFAIL, 130) for code in codes):
        raise MuseError(f"a worker that made {what} stopped; run the same command again to go on")
    if stop() or any(codes):
        raise distributed.Stopped(stop() or os.EX_TEMPFAIL)
