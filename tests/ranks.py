"""Real ranks without the price of starting Python for each: a server imports torch once and forks them (forkserver).

    job = ranks.start(2, ["train", "stage2", ...], log)     # `musekit train stage2 ...` in two processes over gloo
    os.kill(job.pids[1], signal.SIGKILL)
    codes = job.wait()

A job is the words of a musekit command, or {"task": name of a function in rank_tasks, ...its arguments}.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path

import pytest

# What ranks would import while they work, for seconds each
PRELOADED = [
    "pytest", "rank_tasks", "torch.distributed", "torch._dynamo", "tyro", "musekit.cli", "musekit.train.command",
    "musekit.muse", "musekit.generate", "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert", "matplotlib.figure",
]  # fmt: skip


def free_ports(n: int) -> list[int]:
    """TCP ports that nothing holds, below those that the system deals out: nobody gets one before it is used."""
    found = []
    while len(found) < n:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found += [port] if port not in found else []
    return found


@dataclass
class Job:
    """A group of ranks at work; its ranks write to `log`.<rank>."""

    processes: list
    log: Path

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def ended(self, timeout: float) -> bool:
        """Whether all ranks end within so many seconds."""
        end = time.monotonic() + timeout
        while alive := [process.sentinel for process in self.processes if process.exitcode is None]:
            if not connection.wait(alive, max(0.0, end - time.monotonic())):
                return False
        return True

    def wait(self, timeout: float = 60.0) -> list[int]:
        """Exit codes (-n: killed by signal n); after `timeout` seconds the ranks are killed."""
        if not self.ended(timeout):
            self.kill(*range(len(self.processes)))
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def kill(self, *which: int) -> None:
        """SIGKILL to these ranks."""
        for rank in which:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pids[rank], signal.SIGKILL)

    def text(self, rank: int = 0) -> str:
        """The output of a rank."""
        return Path(f"{self.log}.{rank}").read_text()


class Ranks:
    """Starts jobs; `context` forks them."""

    def __init__(self):
        self.context, self.jobs = multiprocessing.get_context("forkserver"), []
        self.context.set_forkserver_preload(PRELOADED)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                patch.setenv(name, "1")
            forkserver.ensure_running()

    def start(self, world: int, job, log: Path) -> Job:
        """Fork `world` ranks."""
        port = free_ports(1)[0]
        processes = [self.context.Process(target=become, args=(rank, world, job, log, port)) for rank in range(world)]
        for process in processes:
            process.start()
        self.jobs.append(Job(processes, log))
        return self.jobs[-1]

    def run(self, world: int, job, log: Path, timeout: float = 120) -> Job:
        """Start and wait so many seconds; all ranks must succeed."""
        job = self.start(world, job, log)
        codes = job.wait(timeout)
        assert codes == [0] * world, f"{codes}\n" + "\n".join(job.text(rank) for rank in range(world))
        return job


@pytest.fixture(scope="session")
def ranks():
    """One server for all tests."""
    some = Ranks()
    yield some
    for job in some.jobs:
        job.wait(0.0)


def become(rank: int, world: int, job, log: Path, port: int) -> None:
    """Be that rank, and end."""
    import rank_tasks

    from musekit import cli

    code = 1
    try:
        file = os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(file, stream)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
        if isinstance(job, list):
            sys.argv = ["musekit", *job]
            cli.main(job)
        else:
            getattr(rank_tasks, job.pop("task"))(**job)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def until(what: str, condition, seconds: float = 60.0, every: float = 0.2):
    """The condition's first true value. Fails the test when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:g} s: {what}", pytrace=False)
        time.sleep(every)
    return value
