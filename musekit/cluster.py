"""`musekit info --devices`: what this machine computes with. `musekit info --cluster`: what a job meets on these
machines, before the first hour of GPUs is spent.

Every rank measures; rank 0 prints. A line that begins with "WRONG" is one with which training would fail, or with which
it could lose work; it says what to do.
"""

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from musekit import distributed
from musekit.config import MuseError, home
from musekit.gpu import fast_precision, matrix_units
from musekit.runs import hardware

NUMBERS = {"cuda": 2**26, "cpu": 2**22}  # float32 numbers that all ranks sum: 256 MiB, 16 MiB
ROOM = 100.0  # GiB that caches and checkpoints of the paper preset need
CLOCK, FLUSH = 5.0, 0.2  # s: by how much clocks may differ, and how long a file of 4 KiB may take to reach the disk


def check_cluster() -> None:
    """Print the report. Raises MuseError when something is wrong."""
    folder, cuda = home(), torch.version.cuda
    with distributed.process_group():
        distributed.barrier()
        found = distributed.all_gather({"host": platform.node(), "clock": time.time(), **gpu(), **disk(folder)})
        speed = all_reduce_speed()
    if distributed.rank():
        return
    hosts, one = {each["host"] for each in found}, found[0]
    apart = max(each["clock"] for each in found) - min(each["clock"] for each in found)
    print(f"{len(found)} processes on {len(hosts)} machines; torch {torch.__version__}")
    print(f"GPU: {one['gpu'] or 'none'}; driver {one['driver'] or 'none'}; torch's CUDA {cuda}")
    print(f"all-reduce: {speed / 1e9:.1f} GB/s per rank" if speed else "all-reduce: one process, nothing to measure")
    print(f"{folder}: {one['free']:,.0f} GiB are free; a flushed file takes {1000 * one['flush']:.1f} ms")
    wrong = {
        f"the clocks differ by {apart:.2f} s: of two cached rows the older one could count; set NTP": apart > CLOCK,
        "GPUs or drivers differ between the machines": len({(each["gpu"], each["driver"]) for each in found}) > 1,
    }
    for each in found:
        host, old = each["host"], each["driver"] and not each["gpu"]
        wrong[f"{host}: driver {each['driver']} is too old for CUDA {cuda}: install another torch"] = old
        wrong[f"{host}: no file locks in {folder}: let no two jobs train in one folder"] = not each["locks"]
        wrong[f"{host}: {folder} needs {ROOM:g} GiB: set MUSEKIT_HOME to another disk"] = each["free"] < ROOM
        wrong[f"{host}: {folder} is slow to flush a small file: choose another disk"] = each["flush"] > FLUSH
    for line in (wrong := [line for line, holds in wrong.items() if holds]):
        print(f"WRONG: {line}")
    if wrong:
        raise MuseError(f"{len(wrong)} lines above begin with WRONG: change what they name before you train here")


def print_devices() -> None:
    """Print this machine's devices, in which precision MUSE computes on each, and how fast a product is in both."""
    print(f"torch {torch.__version__}, built for CUDA {torch.version.cuda or torch.version.hip or 'no GPU'}")
    units = f"{torch.get_num_threads()} threads, bfloat16 by {matrix_units() or 'no instruction of its own'}"
    print(f"cpu: {hardware()['cpu']}, {units}; {rates(torch.device('cpu'))}")
    for i in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(i)
        about = f"{known.name}, {known.total_memory / 2**30:.0f} GiB, capability {known.major}.{known.minor}"
        print(f"cuda:{i}: {about}; {distributed.too_old(i) or rates(torch.device('cuda', i))}")
    print("Tried: CPUs of Intel and AMD; NVIDIA's H100 and H200. Not tried: NVIDIA's other GPUs (those before the A100")
    print("compute in float32), AMD's (ROCm). Not used: Apple's and Intel's GPUs, TPUs; the CPU computes instead.")


def rates(device: torch.device) -> str:
    """The precision that MUSE takes on a device, and how fast products are in both."""
    speed, (n, k) = [], (8192, 8192) if device.type == "cuda" else (2048, 256)
    for dtype in (torch.float32, torch.bfloat16):
        matrix, seconds = torch.ones(n, k, dtype=dtype, device=device), []
        for _ in range(4):
            began = time.perf_counter()
            (matrix @ matrix.T)[0, 0].item()  # waits for the GPU
            seconds.append(time.perf_counter() - began)
        speed.append(2 * n * n * k / min(seconds) / 1e12)
    chosen = str(fast_precision(device)).removeprefix("torch.")
    return f"products in {chosen} (float32 {speed[0]:.2g} TFLOP/s, bfloat16 {speed[1]:.2g})"


def gpu() -> dict[str, str]:
    """The GPU that torch uses here, and the driver that nvidia-smi names; "" where there is none."""
    driver, query = "", ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        driver = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.split("\n")[0]
    return {"driver": driver, "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else ""}


def disk(folder: Path) -> dict:
    """GiB that are free, seconds until a small file is on the disk, and whether locks work."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    began, locks = time.perf_counter(), False
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as file, open(file.name) as other:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
        flush = time.perf_counter() - began
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locks = True
    return {"free": shutil.disk_usage(folder).free / 2**30, "flush": flush, "locks": locks}


def all_reduce_speed() -> float:
    """Bytes per second that each rank sends, and receives, in a sum over all ranks; 0 with one rank."""
    n, device, times = distributed.world(), distributed.device(), []
    numbers = torch.ones(NUMBERS[device.type], device=device)
    for _ in range(6 if n > 1 else 0):
        began = time.perf_counter()
        torch.distributed.all_reduce(numbers)
        numbers[0].item()  # waits for the GPU
        times.append(time.perf_counter() - began)
    return 2 * (n - 1) / n * 4 * len(numbers) / min(times) if times else 0.0
