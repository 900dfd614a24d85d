"""How times are taken, the schema of the rows that the benches write, and how recorded rows are read back.

Every call runs once untimed, the device is synchronised before each reading of the clock, and a time is a median with
its range. Peers that are compared run in turn (A B C A B C ...), so that a machine that slows down slows all of them.
"""

import functools
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_high as median

import torch
from torch import nn

from musekit.gpu import matrix_units
from musekit.results import faults

RUNS = 3
Row = dict[str, object]
ORIGINAL = {
    "Stage 1, ms a sample": {1: 1667, 4: 442, 8: 239, 16: 111, 32: 50},
    "Stage 2, ms a sample": {1: 9940, 4: 7190, 16: 6670},
    "Stage 1, peak GB": {1: 4.58, 4: 4.58, 8: 4.58, 16: 4.58, 32: 4.58},
    "Stage 2, peak GB": {1: 18.75, 4: 22.22, 16: 36.09},
    "16 samples end to end, s": {1: 185, 16: 108},
}
"""{quantity: {batch: value}} of the system that MUSE rebuilds, on A800 GPUs, from its report. The report does not give
the length of its clips."""


# -- times


def now(device="cpu") -> float:
    """The clock in seconds, once all queued GPU work is done; takes a device, or a `Muse` that has one."""
    if torch.device(getattr(device, "device", device)).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], object], device: torch.device | str = "cpu", runs: int = RUNS) -> list[float]:
    """Seconds of each of `runs` calls, after one untimed call."""
    return interleaved({"": call}, device, runs)[""]


def interleaved(
    calls: Mapping[str, Callable[[], object]], device: torch.device | str = "cpu", runs: int = RUNS, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call, `runs` times, all calls in turn. warm: run each once before, untimed."""
    for call in calls.values() if warm else ():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            began = now(device)
            call()
            times[name].append(now(device) - began)
    return times


def about_a_second(call: Callable[[], object], device: torch.device, quick: bool = False) -> list[float]:
    """Seconds of each of as many calls as take about a second, three at least; after three untimed calls."""
    call()
    least = timed(call, device, 1)[0]
    return timed(call, device, 1 if quick else min(200, max(3, round(1 / least))))


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> Row:
    """{"before_bytes", "peak_bytes"} of a call: a GPU's allocated tensors; None on a CPU."""
    if torch.device(device).type != "cuda":
        return {"before_bytes": None, "peak_bytes": None}
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return {"before_bytes": before, "peak_bytes": torch.cuda.max_memory_allocated()}


def instructions(device: torch.device) -> str:
    """The widest vector instructions of this CPU, and those that multiply bfloat16; a GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return " + ".join(filter(None, [torch.backends.cpu.get_cpu_capability(), matrix_units()]))


# -- rows


@dataclass
class Setup:
    """What a bench runs on. Every bench takes it and yields its rows."""

    device: torch.device
    quick: bool = False  # tiny networks and single runs
    budget: float = float("inf")  # seconds, for `paper`
    weights: str = "mini"  # their name, which every checkout finds in its own package, or a folder
    muse: object = None  # the loaded `Muse`, for benches that read weights
    ceilings: dict = field(default_factory=dict)  # measured by `roofline.ceilings`
    against: Path | None = None  # another checkout, for `lab`

    @property
    def runs(self) -> int:
        """Timed calls of each peer: a GPU's are short."""
        return 1 if self.quick else RUNS if self.device.type == "cpu" else 5 * RUNS


@dataclass(frozen=True)
class Work:
    """The operations and bytes that a call cannot do without."""

    flops: float
    bytes: float

    def floor(self, ceilings: dict, dtype: torch.dtype) -> float:
        """Seconds: the higher of the roofline's two roofs."""
        return max(self.bytes / ceilings["bandwidth"], self.flops / ceilings[str(dtype)[6:]])


@dataclass
class Peer:
    """One implementation to time: `call(steps)` samples a batch with so many steps; work: of one step."""

    name: str
    call: Callable[[int], object]
    network: nn.Module
    dtype: torch.dtype
    work: Work | None = None


@torch.inference_mode()
def compare(peers: Sequence[Peer], stage: int, batch: int, setup: Setup, steps: int = 1) -> list[Row]:
    """Time peers in turn; a row each: ms_a_sample, throughput (samples per second), speedup over the first peer,
    shares of the measured ceilings, and memory."""
    for peer in peers:
        peer.call(1)
    calls = {i: functools.partial(peer.call, steps) for i, peer in enumerate(peers)}
    times, rows = interleaved(calls, setup.device, setup.runs, warm=False), []
    for i, peer in enumerate(peers):
        seconds, size = median(times[i]), sum(p.numel() for p in peer.network.parameters())
        row = {"peer": peer.name, "stage": stage, "parameters": size, "batch": batch, "dtype": str(peer.dtype)[6:]}
        row |= {"backend": setup.device.type, "seconds": seconds, "least": min(times[i]), "most": max(times[i])}
        row |= {"runs": len(times[i]), "ms_a_sample": 1000 * seconds / batch, "throughput": batch / seconds}
        row |= {"speedup": median(times[0]) / seconds, "floor_share": None, "bar": None, "met": None}
        row |= {"solver": "euler", "steps": steps, "nfe": steps}
        if peer.work is not None:
            work, rate = Work(steps * peer.work.flops, steps * peer.work.bytes), setup.ceilings[row["dtype"]]
            row |= {"flops": work.flops, "bytes": work.bytes, "matrix_share": work.flops / seconds / rate}
            row["bandwidth_share"] = work.bytes / seconds / setup.ceilings["bandwidth"]
            row["floor_share"] = work.floor(setup.ceilings, peer.dtype) / seconds
        rows.append(row | peak_bytes(functools.partial(peer.call, 1), setup.device))
    return rows


def row(what: str, values: Sequence[float], unit: str, how: str, bar: tuple[str, float] | None = None) -> Row:
    """One measurement: the median of `values` and their range; bar = (">" or "<", limit)."""
    middle = median(values)
    met = None if bar is None else (middle > bar[1] if bar[0] == ">" else middle < bar[1])
    shown = None if bar is None else f"{bar[0]} {bar[1]:g}"
    span = {"least": min(values), "most": max(values), "runs": len(values)}
    return {"what": what, "value": middle, "unit": unit, **span, "bar": shown, "met": met, "how": how}


# -- recorded rows


class Recorded:
    """One result file: `rows` (empty without a file), `stamp` for figures, and `notice` for the reader."""

    def __init__(self, what: str, folder: Path | str = "results", gpu: bool = False):
        name = file_name(what, gpu)
        command = f"`musekit bench {what}`" + (" on a machine with a GPU" if gpu else "")
        try:
            content = json.loads((Path(folder) / f"{name}.json").read_text())
        except OSError:
            self.rows, self.stamp, self.ceilings = [], "", {}
            self.notice = f"NOT MEASURED: {command} writes results/{name}.json, which is not here."
            return
        self.rows, about = content["rows"], content["provenance"]
        self.ceilings, on, day = about.get("ceilings", {}), about["hardware"], about["time"][:10]
        machine = on["gpus"][0] if gpu else f"{on['cpu']}, {on['threads']} threads"
        self.stamp = f"recorded {day} on {machine}, commit {about.get('commit', 'unknown')[:7]}: {name}.json"
        self.notice = f"RECORDED by {command} ({day}, {machine}, load {about['load']:.1f} at the start)."
        if wrong := faults(about, {}):
            self.notice += f" STALE: {'; '.join(wrong)}."
        if note := about.get("note"):
            self.stamp, self.notice = f"{self.stamp} ({note})", f"{self.notice} NOTE: {note}."

    def __bool__(self) -> bool:
        return bool(self.rows)

    def where(self, **wanted) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())]


def file_name(what: str, gpu: bool) -> str:
    """Name of a bench's result, without .json: a GPU's result never replaces a CPU's."""
    return ("bench" if what == "end-to-end" else f"bench-{what}") + ("-gpu" if gpu else "")


def frame(rows: list[dict], digits: int = 2):
    """Rows as a table to be shown; None, which shows nothing, without rows."""
    import pandas as pd

    return pd.DataFrame(rows).round(digits).fillna("") if rows else None
