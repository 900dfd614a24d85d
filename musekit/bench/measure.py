"""How a time is taken: after a warm-up, with the device waited for, peers in turn, the median with its range.

Peers that are compared run interleaved (A B C A B C ...), so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

RUNS = 3
Row = dict[str, object]


def now(device="cpu") -> float:
    """The clock in seconds, after all that was queued on a GPU is done; a device, or a `Muse` that has one."""
    if torch.device(getattr(device, "device", device)).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], object], device: torch.device | str = "cpu", runs: int = RUNS) -> list[float]:
    """Seconds of each of `runs` calls, after one that is not counted."""
    return interleaved({"": call}, device, runs)[""]


def interleaved(
    calls: Mapping[str, Callable[[], object]], device: torch.device | str = "cpu", runs: int = RUNS, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call, `runs` times, all calls in turn; before that each runs once uncounted."""
    for call in calls.values() if warm else ():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            began = now(device)
            call()
            times[name].append(now(device) - began)
    return times


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number the upper one of both."""
    return sorted(values)[len(values) // 2]


def row(what: str, values: Sequence[float], unit: str, how: str, bar: tuple[str, float] | None = None) -> Row:
    """One measurement: the median of `values` and their range; bar = (">" or "<", limit)."""
    middle = median(values)
    met = None if bar is None else (middle > bar[1] if bar[0] == ">" else middle < bar[1])
    shown = None if bar is None else f"{bar[0]} {bar[1]:g}"
    span = {"least": min(values), "most": max(values), "runs": len(values)}
    return {"what": what, "value": middle, "unit": unit, **span, "bar": shown, "met": met, "how": how}


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> tuple[int, int] | None:
    """(before, at its most) bytes while `call` runs: of tensors on a GPU, of this process in RAM on Linux."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc: what was freed goes back, so that it counts again
        ctypes.CDLL(None).malloc_trim(0)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return before, torch.cuda.max_memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return before, _status("VmHWM")


def _status(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def circumstances(device: torch.device | str) -> dict:
    """What else a reader of times must know: the load before the start, and on what they were taken."""
    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "cpu"
    return {"load": os.getloadavg()[0], "device": name, "threads": torch.get_num_threads()}
