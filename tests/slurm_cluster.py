"""A real Slurm on this machine, for the tests: two nodes of 8 GPUs, all of it in one short private folder.

The GPUs are character devices that Slurm counts and hands out; nothing computes on them. Daemons are stopped by the
pids that they wrote. Also: tiny training jobs, and what their run folders say.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ranks import free_ports, until

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
NODES = ("127.0.0.2", "127.0.0.3")
KILL_WAIT = 20  # s
SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"

CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={base}/run/munge.socket
CredType=cred/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd-%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
EnforcePartLimits=ALL
ReturnToService=2
KillWait={KILL_WAIT}
SlurmdTimeout=10
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=127.0.0.2 NodeHostName=localhost Port={node0} CPUs=64 RealMemory=512000 Gres=gpu:8 State=UNKNOWN
NodeName=127.0.0.3 NodeHostName=localhost Port={node1} CPUs=64 RealMemory=512000 Gres=gpu:8 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
"""


class Cluster:
    """munged, slurmctld and two slurmds under `base`; `run` calls Slurm's commands against them."""

    def __init__(self):
        self.base = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short: sockets' paths have 108 bytes at most
        self.env = os.environ | {
            "SLURM_CONF": str(self.base / "slurm.conf"),
            "PATH": os.environ.get("PATH", os.defpath) + SBIN,
        }
        for name in ("run", "state", "log", "fakegpu", *(f"spool/{node}" for node in NODES)):
            (self.base / name).mkdir(parents=True)
        controller, node0, node1 = free_ports(3)
        user = pwd.getpwuid(os.getuid()).pw_name
        values = {"base": self.base, "user": user, "controller": controller, "node0": node0, "node1": node1}
        (self.base / "slurm.conf").write_text(CONF.format(**values, KILL_WAIT=KILL_WAIT))
        (self.base / "gres.conf").write_text(f"Name=gpu File={self.base}/fakegpu/gpu[0-7]\n")
        if self.run("slurmctld", "-V").split()[-1] >= "23.11":  # it would insist on cgroups; older ones refuse the line
            (self.base / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        for i in range(8):
            device = self.base / "fakegpu" / f"gpu{i}"
            try:
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            except OSError:  # only root makes devices; Slurm counts files as well
                device.touch()

    def start(self) -> None:
        run, log = self.base / "run", self.base / "log"
        self.run("mungekey", "-c", "-k", str(run / "key"))
        munged = ["munged", f"--key-file={run}/key", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid"]
        munged += [f"--log-file={log}/munged.log", f"--seed-file={run}/seed", "--force"]
        self.run(*munged)
        self.run("slurmctld")
        for node in NODES:
            self.run("slurmd", "-N", node)
        until("the nodes are idle", lambda: self.states() == {"idle"}, 60)

    def start_node(self, node: str) -> None:
        """A lost node comes back."""
        self.run("slurmd", "-N", node)
        until("the node is back", lambda: not self.states() & {"down", "down*", "idle*", "unknown"}, 60)

    def states(self) -> set[str]:
        return set(self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split())

    def kill_node(self, node: str, processes: bool = False) -> None:
        """The node's daemon dies without a word; with `processes` all that its jobs run there, too."""
        os.kill(int((self.base / "run" / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        mine = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.base}/slurm.conf".encode()}
        for process in Path("/proc").glob("[0-9]*") if processes else ():
            with contextlib.suppress(OSError):
                if mine <= {*(process / "environ").read_bytes().split(b"\0")}:
                    os.kill(int(process.name), signal.SIGKILL)

    def run(self, *command: str, check: bool = True, **options) -> str:
        """Output of a command, which must succeed when `check`."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.env, stdin=subprocess.DEVNULL, timeout=60, **options
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.stdout}{done.stderr}", pytrace=False)
        return done.stdout

    def submit(self, *words: str, cwd: Path = ROOT, **env: str) -> str:
        """`sbatch words` with more environment; the job's number, or with --test-only what Slurm says."""
        command = ["sbatch", "--parsable", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env | env, cwd=cwd, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip() or done.stderr

    def job(self, job: str) -> dict[str, str]:
        """`scontrol show job` as a dict; of an array, its first task."""
        words = self.run("scontrol", "-o", "show", "job", job).splitlines()[0].split(" ")
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, *states: str, seconds: float = 90) -> dict[str, str]:
        """The job once it is in one of these states; fails at once when it ended in another."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}

        def there():
            shown = self.job(job)
            if shown["JobState"] in ends - set(states):
                pytest.fail(f"job {job} ended as {shown['JobState']}, exit {shown['ExitCode']}", pytrace=False)
            return shown if shown["JobState"] in states else None

        return until(f"job {job} is {' or '.join(states)}", there, seconds)

    def restart_now(self, job: str) -> None:
        """A requeued job is held for two minutes: let it start at once."""
        until(f"job {job} waits to start again", lambda: self.job(job)["JobState"] == "PENDING", 90)
        time.sleep(2)  # slurmd refuses it in the second in which it ended

        def started():
            self.run("scontrol", "update", f"jobid={job}", "StartTime=now", check=False)
            return self.job(job)["JobState"] != "PENDING"

        until(f"job {job} starts again", started, 60, every=1)

    def stop(self) -> None:
        """Empty the queue, then end the daemons: nodes first."""
        with contextlib.suppress(Exception, pytest.fail.Exception):
            self.run("scancel", "--user", pwd.getpwuid(os.getuid()).pw_name, check=False)
            until("the queue is empty", lambda: not self.run("squeue", "-h", check=False), 40)
        for names, how in (
            ([f"slurmd-{node}" for node in NODES], signal.SIGTERM),
            (["slurmctld", "munged"], signal.SIGKILL),
        ):
            files = [self.base / "run" / f"{name}.pid" for name in names]
            pids = [int(file.read_text()) for file in files if file.exists() and file.read_text().strip()]
            for pid in pids:
                end_pid(pid, how)
            end = time.monotonic() + 15
            while any(end_pid(pid, 0) for pid in pids) and time.monotonic() < end:
                time.sleep(0.1)
            for pid in pids:
                end_pid(pid, signal.SIGKILL)
        shutil.rmtree(self.base, ignore_errors=True)  # with all state: nothing had to be saved


def end_pid(pid: int, how: int) -> bool:
    """Send a signal (0: none); whether the process was there."""
    try:
        os.kill(pid, how)
        return True
    except ProcessLookupError:
        return False


STEP = 160  # samples between two lines of metrics.jsonl
VENV = sys.prefix if (Path(sys.prefix) / "bin" / "activate").exists() else ""  # conda: what is on the PATH


@pytest.fixture(scope="session")
def cluster():
    """A running Slurm; ends with the session."""
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def submit(cluster, tmp_path):
    """`sbatch OPTIONS slurm/NAME.sh WORDS`, Slurm's own log in `tmp_path`; the job's id."""

    def call(name: str, *words: str, options: tuple[str, ...] = (), **more: str | Path) -> str:
        cwd = more.pop("cwd", ROOT)
        environment = {"MUSE_ENV": VENV, "OMP_NUM_THREADS": "1"} | more
        script = str(ROOT / "slurm" / f"{name}.sh")
        return cluster.submit(f"--output={tmp_path}/%j.out", *options, script, *words, cwd=cwd, **environment)

    return call


def train_words(tiny, run: Path, samples: int) -> list[str]:
    """A tiny training run that writes a line every STEP samples and saves every second."""
    words = ["--preset", "smoke", "--cache", str(tiny.cache), "--run-folder", str(run), "--train.samples", str(samples)]
    words += ["--train.batch", "16", "--train.micro-batch", "8", "--train.log-every", str(STEP), "--train.no-bf16"]
    return [*words, "--train.validate-every", "100000000", "--train.checkpoint-minutes", "0.02"]


def samples(run: Path) -> list[int]:
    """The raw lines of a run's metrics: a line that is there twice is work done twice."""
    try:
        return [json.loads(line)["samples"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return []  # not begun, or a line is being written


def saved(run: Path) -> int:
    """Samples of the newest checkpoint."""
    return max((int(path.stem.split("-")[1]) for path in run.glob("checkpoint-*.pt")), default=0)


def log(folder: Path, job: str) -> str:
    return (folder / f"slurm-{job}.log").read_text(errors="replace")
