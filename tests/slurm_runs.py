"""Jobs for the tests of slurm/: the running Slurm, sbatch, a tiny training run, and what a run's folder tells."""

import json
import sys
from pathlib import Path

import pytest
from slurm_cluster import ROOT, Cluster

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
