"""`launch`: a musekit command in processes of its own, from Python or a notebook.

    folder = launch(["train", "stage2", "--preset", "mini"], processes=2)

runs torchrun on this machine (gloo on CPUs, nccl on GPUs), follows its log, and returns the folder that the command
writes to. Nothing of torch's multiprocessing happens in the kernel.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from musekit.config import MuseError
from musekit.distributed import LOST

TAIL = 20  # lines of the log that an error without a message of its own shows


def launch(
    arguments: Sequence[str],
    processes: int = 1,
    on_line: Callable[[str], None] = print,
    progress: bool = True,
    port: int | None = None,
) -> Path | None:
    """Run `musekit <arguments>` in `processes` processes; returns the run's (or the output) folder.

    Each line of the log goes to `on_line`; `progress` draws a bar of training samples from the run's metrics.
    Raises MuseError with what the failing rank said. An interrupt lets the processes save their state first.
    """
    from musekit import cli

    arguments = [str(word) for word in arguments]
    # a misspelt option is told before any process starts
    options = cli.parse(arguments)
    command = [sys.executable, "-m", "musekit", *arguments]
    if processes > 1:
        check(processes, port)
        meet = ["--standalone"] if port is None else ["--rdzv-backend=static", f"--master-port={port}"]
        torchrun = ["-m", "musekit.torchrun", *meet, f"--nproc-per-node={processes}", "-m", "musekit"]
        command = [sys.executable, *torchrun, *arguments]
    elif processes < 1:
        raise MuseError(f"processes must be 1 or more, not {processes}")
    folder = options.folder() if hasattr(options, "folder") else None
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
        start_new_session=True,  # a notebook's interrupt reaches this process only, which passes it on once
    )  # fmt: skip
    said: list[str] = []
    with process:
        lines = lines_of(process)
        try:
            follow(lines, said, on_line, Bar(folder, options) if progress and hasattr(options, "train") else None)
        except KeyboardInterrupt:
            pass_on(process.pid)
            follow(lines, said, on_line, None)
            process.wait()  # `with` waits for no more than a moment after an interrupt
            raise
        except BaseException:
            pass_on(process.pid)
            raise
    if process.returncode:
        raise MuseError(failure(arguments, process.returncode, said))
    return folder


def check(processes: int, port: int | None) -> None:
    """Raise MuseError for more processes than GPUs, or a port that another program holds."""
    import torch

    if 0 < torch.cuda.device_count() < processes:
        raise MuseError(
            f"{processes} processes want a GPU each and torch sees {torch.cuda.device_count()}; ask for fewer"
        )
    if port is not None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except (OSError, OverflowError) as error:
                raise MuseError(f"port {port} cannot be used ({error}); choose another, or none") from error


def lines_of(process: subprocess.Popen) -> queue.Queue:
    """The log's lines, then None; a thread reads, so that an interrupt is heard at once."""
    lines: queue.Queue = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def follow(lines: queue.Queue, said: list[str], on_line: Callable[[str], None], bar: Bar | None) -> None:
    """Hand over the log's lines until it ends."""
    try:
        while True:
            try:
                line = lines.get(timeout=0.3)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line:
                said.append(line)
                del said[:-2000]
                on_line(line)
            if bar is not None:
                bar.update()
    finally:
        if bar is not None:
            bar.close()


class Bar:
    """A progress bar of a training run, drawn from the lines that its metrics.jsonl gains."""

    def __init__(self, folder: Path, options):
        from tqdm.auto import tqdm

        self.path, self.read = folder / "metrics.jsonl", 0
        self.bar = tqdm(total=options.train.samples, unit="sample", unit_scale=True, desc=f"train {options.part}")

    def update(self) -> None:
        """Show the newest whole line."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.read)
                new = file.read()
        except OSError:
            return  # nothing is written yet
        whole = new[: new.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in whole.splitlines()[-1:]:
            try:
                record = json.loads(line)
                self.bar.update(record["samples"] - self.bar.n)
                self.bar.set_postfix({k: f"{record[k]:.4f}" for k in ("loss", "floor", "valid_loss") if k in record})
            except (ValueError, KeyError, TypeError):
                continue  # a line that a kill has cut

    def close(self) -> None:
        """The last line, and leave the bar as it is."""
        self.update()
        self.bar.close()


def pass_on(pid: int) -> None:
    """Ask a run to save its state and end: SIGUSR1 to those that work; torchrun would cut them off after 30 s."""
    workers = children(pid)
    for worker in workers or [pid]:
        try:
            os.kill(worker, signal.SIGUSR1)
        except ProcessLookupError:
            continue


def children(pid: int, program: bytes = b"musekit") -> list[int]:
    """Processes that a process has started and in whose command line `program` is; none where the system tells none."""
    try:
        found = [
            int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()
        ]
        return [p for p in found if program in Path(f"/proc/{p}/cmdline").read_bytes()]
    except OSError:
        return []


def failure(arguments: Sequence[str], code: int, said: Sequence[str]) -> str:
    """One line that tells why: what the first failing rank said, else the end of the log."""
    said = [re.sub(r"^\[rank\d+\]: ?", "", line) for line in said]
    command = f"`musekit {' '.join(arguments)}`"
    if code == os.EX_TEMPFAIL:
        return f"{command} was told to stop and has saved its state; launch it again to go on"
    own = [line.split("musekit: ", 1)[1] for line in said if "musekit: " in line and "musekit: note:" not in line]
    causes = [text for text in own if LOST not in text] or own
    if causes:
        return f"{command} failed: {causes[0]}"
    errors = [line for line in said if line.split(":")[0].endswith(("Error", "Exception")) and LOST not in line]
    if errors:
        return f"{command} failed with {code}: {errors[0]}"
    return f"{command} failed with {code}:\n" + "\n".join(said[-TAIL:])
