"""Job: one piece of work at a time in a thread of its own, so that whoever asked stays free; progress and cancel.

A job knows no widget: it is tested without a browser, and a notebook's kernel answers while it runs.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from musekit.config import MuseError
from musekit.generate.files import STAGES
from musekit.solve import Cancelled

BEFORE = {"stage1": 0.0, "stage2": 0.08, "codec": 0.88}  # the part of a micro-batch's work that is done before a stage
AFTER = {"stage1": 0.08, "stage2": 0.88, "codec": 1.0}
TICK = 0.005  # a change of the fraction that is worth telling


class Job:
    """`on_change()` is called, from the thread, whenever something changed.

    status is "ready", "running", "done", "cancelled" or "failed"; fraction is 0 to 1; message is one plain line, notice
    another about the request itself.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None):
        self.on_change = on_change
        self.status, self.fraction, self.message, self.notice = "ready", 0.0, "", ""
        self.flag, self._thread, self._lock = threading.Event(), None, threading.Lock()

    @property
    def running(self) -> bool:
        """Whether a thread is at work."""
        return self.status == "running"

    def start(self, work: Callable[[], str], message: str = "loading weights") -> None:
        """Run `work()`, which returns the last message, in a thread. Raises MuseError while another is at work."""
        with self._lock:
            self.must_be_idle()
            self.status, self.fraction, self.message, self.notice = "running", 0.0, message, ""
            self.flag = threading.Event()
        # the notebook's context goes along: ipykernel looks there for the cell that a message belongs to
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run, work), name="musekit-job", daemon=True)
        try:
            self.on_change()
            self._thread.start()
        except Exception as error:  # it never began, so nobody else would say that it has ended
            self.status, self.message = "failed", f"{type(error).__name__}: {error}"
            raise

    def must_be_idle(self) -> None:
        """Raises MuseError while something is at work."""
        if self.running:
            raise MuseError("this is still at work; wait for it, or cancel it first")

    def cancel(self) -> None:
        """Stop what is at work, at the next evaluation of the velocity or between two parts of it."""
        with self._lock:
            if self.running:
                self.flag.set()

    def wait(self, timeout: float | None = None) -> str:
        """Wait for the end, at most so many seconds; returns the status."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.status

    def check(self) -> None:
        """To be called by the work between its parts: raises Cancelled when it was cancelled."""
        if self.flag.is_set():
            raise Cancelled("cancelled")

    def tell(self, message: str, fraction: float) -> None:
        """What is being done, and how much is; the fraction never falls."""
        fresh = message.partition(":")[0] != self.message.partition(":")[0]
        self.message = message
        if fresh or fraction - self.fraction >= TICK:
            self.fraction = min(1.0, max(self.fraction, fraction))
            self.on_change()

    def follow(self, batches: int, start: float = 0.0, end: float = 1.0) -> Callable[[str, int, int], None]:
        """An `on_step` for `batches` micro-batches: (stage, i, n) as one fraction between start and end."""
        batch, last, order = 0, "stage1", list(BEFORE)

        def on_step(stage: str, i: int, n: int) -> None:
            nonlocal batch, last
            self.check()
            batch += order.index(stage) < order.index(last)  # back at an earlier stage: the next micro-batch
            last = stage
            part = BEFORE[stage] + (AFTER[stage] - BEFORE[stage]) * i / max(1, n)
            of = f", micro-batch {batch + 1} of {batches}" if batches > 1 else ""
            self.tell(f"{STAGES[stage]}: {i} of {n}{of}", start + (end - start) * min(1.0, (batch + part) / batches))

        return on_step

    def _run(self, work: Callable[[], str]) -> None:
        try:
            end = "done", work()
        except Cancelled as error:
            end = "cancelled", str(error)
        except MuseError as error:
            end = "failed", str(error)
        except MemoryError:
            end = "failed", "this machine has too little free memory; ask for fewer or shorter pieces"
        except Exception as error:  # noqa: BLE001 - a thread's exception would go unseen
            end = "failed", f"{type(error).__name__}: {error}"
        if end[0] == "done":
            self.fraction = 1.0
        with self._lock:
            self.message, self.status = end[1], end[0]
            self.flag = threading.Event()  # what comes next was not cancelled, be it no job of ours
        self.on_change()
