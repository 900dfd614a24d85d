"""`launch`: a musekit command in processes of its own, from Python or a notebook.

    launch(["train", "stage2", "--preset", "mini"], processes=2)

runs torchrun on this machine (gloo on CPUs, nccl on GPUs) and follows its log; nothing of torch's multiprocessing
happens in the kernel. `python -m musekit.launch ...` is torchrun with the exit code of the processes that it started.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from musekit.config import MuseError
from musekit.distributed import LOST, RESUMABLE

LOG_LINES = 2000  # remembered, to explain a failure
SHOWN_LINES = 20  # of the log in an error where no line explains the failure
PROGRESS = re.compile(r"(\w+) ([\d,]+)/([\d,]+): (.*)")  # `musekit train` writes such a line for each record


def launch(
    arguments: Sequence, processes: int = 1, on_line: Callable[[str], None] = print, progress: bool = True
) -> None:
    """Run `musekit <arguments>` in `processes` processes until it ends.

    Each line of the log goes to `on_line`; `progress` draws a bar of training samples. Raises MuseError with what the
    failing rank wrote. An interrupt, or an error of `on_line`, lets the processes save their state first.
    """
    from tqdm.auto import tqdm

    arguments = [str(word) for word in arguments]
    command = [sys.executable, "-m", "musekit", *arguments]
    if processes < 1:
        raise MuseError(f"processes must be 1 or more, not {processes}")
    if processes > 1:
        torchrun = ["-m", "musekit.launch", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, *command[1:]]
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
        start_new_session=True,  # a notebook's interrupt reaches the kernel only, which forwards it once
    )  # fmt: skip
    log, bar = [], None
    with process:
        try:
            for line in map(str.rstrip, process.stdout):
                log = [*log[-LOG_LINES:], line]
                on_line(line)
                if progress and (found := PROGRESS.fullmatch(line)):
                    samples, total = (int(number.replace(",", "")) for number in found.group(2, 3))
                    bar = bar or tqdm(total=total, unit="sample", unit_scale=True, desc=f"train {found[1]}")
                    bar.update(samples - bar.n)
                    bar.set_postfix_str(found[4])
        except BaseException as error:
            ask_to_stop(process.pid, torchrun=processes > 1)
            for line in map(str.rstrip, process.stdout):
                if isinstance(error, KeyboardInterrupt):
                    on_line(line)
            process.wait()  # `with` does not wait for long after an interrupt
            raise
        finally:
            if bar is not None:
                bar.close()
    if process.returncode:
        raise MuseError(failure(arguments, process.returncode, log))


def ask_to_stop(pid: int, torchrun: bool) -> None:
    """Let a run save its state and end: SIGUSR1 to the ranks, because torchrun would kill them after 30 s."""
    for rank in (children(pid) if torchrun else []) or [pid]:
        try:
            os.kill(rank, getattr(signal, "SIGUSR1", signal.SIGTERM))
        except ProcessLookupError:
            continue


def children(pid: int, program: bytes = b"musekit") -> list[int]:
    """Child processes with `program` in their command line; none where the system has no /proc."""
    try:
        tasks = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
        found = [int(child) for task in tasks for child in task.read_text().split()]
        return [child for child in found if program in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def failure(arguments: Sequence[str], code: int, log: Sequence[str]) -> str:
    """The reason in one line: what the first failing rank wrote, else the end of the log."""
    log = [re.sub(r"^\[rank\d+\]: ?", "", line) for line in log]
    command = f"`musekit {' '.join(arguments)}`"
    if code == RESUMABLE:
        return f"{command} was stopped by a signal and has saved its state; launch it again to continue"
    own = [line.split("musekit: ", 1)[1] for line in log if "musekit: " in line and "musekit: note:" not in line]
    if own := [line for line in own if LOST not in line] or own:
        return f"{command} failed: {own[0]}"
    errors = [line for line in log if line.split(":")[0].endswith(("Error", "Exception")) and LOST not in line]
    why = f" {errors[0]}" if errors else "\n" + "\n".join(log[-SHOWN_LINES:])
    return f"{command} failed with {code}:{why}"


def torchrun(arguments: list[str] | None = None) -> int:
    """Run torchrun with these arguments; returns 0, or the exit code of the rank that failed first (128 + signal).

    torchrun itself exits with 1 whatever the reason. 75 on any rank wins: the state of all ranks
    is saved, and a rank that ends a moment later may be killed.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    try:
        run.main(arguments)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        codes = {failed.exitcode for failed in error.failures.values()}
        code = RESUMABLE if RESUMABLE in codes else first.exitcode
        if code not in (2, RESUMABLE):  # these musekit has explained
            print(f"torchrun: rank {rank} ended with {code}", file=sys.stderr)
        return code if code >= 0 else 128 - code
    except RendezvousError as error:
        print(f"torchrun: this machine cannot meet the others, or has lost them ({error})", file=sys.stderr)
        return 1
    except SignalException as error:
        print(f"torchrun: {error}", file=sys.stderr)
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(torchrun())
