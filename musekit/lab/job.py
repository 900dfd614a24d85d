"""Job: one piece of work at a time in a thread, with progress and cancel. It needs no widget."""

import contextvars
import ctypes
import threading
import time
from collections.abc import Callable

from musekit.config import MuseError
from musekit.generate import STAGES
from musekit.solve import Cancelled

SPANS = {"stage1": (0.0, 0.08), "stage2": (0.08, 0.88), "codec": (0.88, 1.0)}  # of the work of a micro-batch

ARENA_MAX = -8  # glibc's M_ARENA_MAX


class Job:
    """`on_change()` is called, from the thread, after every change.

    status is "ready", "running", "done", "cancelled" or "failed"; fraction is 0 to 1; message is one plain line. `flag`
    is set by a cancel: pass it to what samples.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None):
        self.on_change = on_change
        self.status, self.fraction, self.message = "ready", 0.0, ""
        self.flag, self._thread, self._lock = threading.Event(), None, threading.Lock()
        self._latest, self._next, self._began = False, None, 0.0

    @property
    def running(self) -> bool:
        """Whether the thread is working."""
        return self.status == "running"

    @property
    def left(self) -> float | None:
        """Seconds until the end at the pace so far; None where that is not known."""
        passed = time.monotonic() - self._began
        return passed * (1 / self.fraction - 1) if self.running and self.fraction > 0.05 and passed > 1 else None

    def start(self, work: Callable[[], str], latest: bool = False) -> None:
        """Run `work()`, which returns the last message, in a thread. Raises MuseError while other work runs.

        latest: other such work is cancelled, and this begins when it has stopped.
        """
        with self._lock:
            if self.running and not (latest and self._latest):
                raise MuseError("this is still at work; wait for it, or cancel it first")
            if self.running:
                self._next = work
                self.flag.set()
                return
            self.status, self.fraction, self.message = "running", 0.0, "starting"
            self._latest, self._began = latest, time.monotonic()
        self.on_change()
        # the thread shares the notebook's context: ipykernel looks there for the cell that a message belongs to
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run, work), name="musekit-job", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop the work at its next evaluation of the velocity."""
        with self._lock:
            if self.running:
                self._next = None
                self.flag.set()

    def wait(self, timeout: float | None = None) -> str:
        """Wait for the end, at most `timeout` seconds; returns the status."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.status

    def report(self, message: str, fraction: float) -> None:
        """Show a message and the fraction of the work that is done, which never falls."""
        self.message, self.fraction = message, min(1.0, max(self.fraction, fraction))
        self.on_change()

    def follow(self, batches: int = 1, start: float = 0.0, end: float = 1.0) -> Callable[[str, int, int], None]:
        """An `on_step` for `batches` micro-batches: (stage, i, n) as one fraction between start and end."""
        batch, last = 0, ""

        def on_step(stage: str, i: int, n: int) -> None:
            nonlocal batch, last
            batch += last == "codec" and stage != "codec"  # the next micro-batch
            low, high = SPANS[stage]
            part, last = low + (high - low) * i / max(1, n), stage
            of = f", part {batch + 1} of {batches}" if batches > 1 else ""
            self.report(f"{STAGES[stage]}: {i} of {n}{of}", start + (end - start) * min(1.0, (batch + part) / batches))

        return on_step

    def _run(self, work: Callable[[], str]) -> None:
        try:
            status, message = "done", work()
        except Cancelled:
            status, message = "cancelled", "cancelled; finished pieces stay"
        except MuseError as error:
            status, message = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - an exception of a thread would go unseen
            status, message = "failed", f"{type(error).__name__}: {error}"
        with self._lock:
            self.flag = threading.Event()  # a cancel ends with its job
            work, self._next = self._next, None
            if work is None:
                self.fraction = 1.0 if status == "done" else self.fraction
                self.message, self.status = message, status
            else:
                self.fraction, self._began = 0.0, time.monotonic()
        give_back()
        self.on_change()
        if work is not None:
            self._run(work)


def give_back() -> None:
    """Give the memory that the job's tensors had back to the system, which glibc would keep for each thread."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.mallopt(ARENA_MAX, 2)
        libc.malloc_trim(0)
