"""Real ranks without the price of starting Python for each: one process imports torch once and forks groups of ranks.

    with Ranks() as ranks:
        job = ranks.start(2, ["train", "stage2", ...], log)     # `musekit train stage2 ...` in two processes over gloo
        os.kill(job.pids[1], signal.SIGKILL)
        codes = job.wait()

A job is the words of a musekit command, or {"task": name of a function in rank_tasks, ...its arguments}.
"""

import contextlib
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest


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

    ranks: "Ranks"
    pids: list[int]
    log: Path
    codes: list[int] | None = None

    def wait(self, timeout: float = 60.0) -> list[int]:
        """Exit codes (-n: killed by signal n); after `timeout` seconds the ranks are killed."""
        if self.codes is None:
            if not self.ranks.speaks(timeout):
                self.kill(*range(len(self.pids)))
            self.codes = self.ranks.answer()["codes"]
        return self.codes

    def kill(self, *which: int) -> None:
        """SIGKILL to these ranks."""
        for rank in which:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pids[rank], signal.SIGKILL)

    def text(self, rank: int = 0) -> str:
        """What a rank has said."""
        return Path(f"{self.log}.{rank}").read_text()


class Ranks:
    """The process that forks."""

    def __enter__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        command = [sys.executable, str(Path(__file__).resolve())]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.received = b""
        assert self.answer() == "ready"
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.wait(30)
        self.server.stdout.close()

    def speaks(self, timeout: float | None) -> bool:
        """Whether a whole line of the server's is there within so many seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self.received:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self.server.stdout], [], [], left)[0]:
                return False
            more = os.read(self.server.stdout.fileno(), 65536)
            assert more, "the process that forks ranks has died"
            self.received += more
        return True

    def answer(self):
        """The server's next word."""
        self.speaks(None)
        line, self.received = self.received.split(b"\n", 1)
        return json.loads(line)

    def start(self, world: int, job, log: Path) -> Job:
        """Fork `world` ranks."""
        order = {"world": world, "job": job, "log": str(log), "port": free_ports(1)[0]}
        self.server.stdin.write(json.dumps(order).encode() + b"\n")
        self.server.stdin.flush()
        return Job(self, self.answer()["pids"], log)

    def run(self, world: int, job, log: Path, timeout: float = 120) -> Job:
        """Start and wait so many seconds; all ranks must succeed."""
        job = self.start(world, job, log)
        codes = job.wait(timeout)
        assert codes == [0] * world, f"{codes}\n" + "\n".join(job.text(rank) for rank in range(world))
        return job


@pytest.fixture(scope="session")
def ranks():
    """One such process for all tests."""
    with Ranks() as some:
        yield some


# What ranks would import while they work, for seconds each: it is imported before they are forked.
ALWAYS = ("torch.distributed", "torch._dynamo", "tyro", "musekit.cli", "musekit.train.command")
GENERATE = (
    "musekit.muse", "musekit.generate", "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert", "matplotlib.figure",
)  # fmt: skip


def serve() -> None:
    """Read orders, fork, write the process ids, wait, write the exit codes."""
    import rank_tasks
    import torch

    for name in ALWAYS:
        importlib.import_module(name)
    torch.set_num_threads(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order, pids = json.loads(line), []
        for name in GENERATE if "generate" in order["job"] else ():
            importlib.import_module(name)
        for rank in range(order["world"]):
            pid = os.fork()
            if not pid:
                become(rank, order, rank_tasks)
            pids.append(pid)
        print(json.dumps({"pids": pids}), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps({"codes": codes}), flush=True)


def become(rank: int, order: dict, tasks) -> None:
    """Be that rank, and end."""
    from musekit import cli

    code = 1
    try:
        log = os.open(f"{order['log']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": order["world"], "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {name: str(value) for name, value in (place | {"MASTER_PORT": order["port"]}).items()}
        job = order["job"]
        if isinstance(job, list):
            sys.argv = ["musekit", *job]
            cli.main(job)
        else:
            getattr(tasks, job.pop("task"))(**job)
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


if __name__ == "__main__":
    serve()
