"""Killed at any moment, a run continues as if nothing had been: the same bits at 1, 2 and 4 ranks.

What is killed is `musekit train` itself, its ranks real processes over gloo.
"""

import functools
import json
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from ranks import until
from slurm_cluster import saved as newest
from test_ddp import train_words

from musekit import results
from musekit.config import MuseError
from musekit.launch import launch
from musekit.runs import Run

SAMPLES, BATCH = 160, 8  # 20 steps, each with its checkpoint
STOPPED = 75


def words(tiny, folder, samples=SAMPLES) -> list[str]:
    """The command whose bits are compared: checkpoints at every step, validation and best ones in between."""
    more = ["--train.micro-batch", "2", "--train.checkpoint-minutes", "0", "--train.validate-every", str(5 * BATCH)]
    return train_words(tiny, folder, samples, BATCH, "--train.no-bf16", *more)


@pytest.fixture(scope="session")
def whole(ranks, tiny, tmp_path_factory):
    """whole(world) -> (folder, checkpoint, metrics, seconds) of an uninterrupted run."""

    @functools.cache
    def run(world: int):
        folder = tmp_path_factory.mktemp("whole") / "run"
        began = time.monotonic()
        ranks.run(world, words(tiny, folder), folder.with_name("log"))
        return folder, Run(folder).load(), Run(folder).metrics(), time.monotonic() - began

    return run


def different(state: dict, expected: dict) -> list[str]:
    """Names of what is not the same to the bit in two checkpoints: weights, average, moments, counters."""
    names = [f"{k}.{n}" for k in ("model", "ema") for n, v in expected[k].items() if not torch.equal(state[k][n], v)]
    mine, other = state["optimizer"]["state"], expected["optimizer"]["state"]
    names += [f"moment {i} {k}" for i in other for k, v in other[i].items() if not torch.equal(mine[i][k], v)]
    return names + [k for k in ("samples", "step") if state[k] != expected[k]]


def writes(folder: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any("checkpoint" in path.name for path in folder.glob("*.part"))


def kill_at(job, folder: Path, after: int, pause: float, writing: bool, which: list[int]) -> bool:
    """SIGKILL so many seconds after a checkpoint of `after` samples, or while one is written; False: it had ended."""
    while newest(folder) < after or (writing and not writes(folder)):
        if job.ended(0.0005):
            return False
    if not writing and job.ended(pause):
        return False
    job.kill(*which)
    codes = job.wait(15)
    return all(codes[rank] == -signal.SIGKILL for rank in which)


def killed_and_resumed(ranks, tiny, folder: Path, world: int, kinds: list[str], step: float, rng) -> list[dict]:
    """Run, kill ("start": while it starts; "step": at any moment of a step; "write": of a checkpoint), and so on to the
    end; what each kill met."""
    kills = []
    for kind in kinds:
        one = rng.randrange(world) if kind != "write" else 0  # the first rank writes
        which = rng.choice([list(range(world)), [one]])  # the machine, or one process of it
        for _ in range(20):
            if newest(folder) > SAMPLES - 4 * BATCH:
                shutil.rmtree(folder)  # nothing is left to interrupt
            saved = newest(folder)
            after = 0 if kind == "start" else saved + BATCH * rng.randint(1, 5)
            pause = rng.uniform(0, 1.0 if kind == "start" else step)
            job = ranks.start(world, words(tiny, folder), folder.with_suffix(".log"))
            killed = kill_at(job, folder, after, pause, kind == "write", which)
            cut = writes(folder)
            if killed and (cut or kind != "write"):
                break
        else:
            pytest.fail(f"no kill met the run at work: {kind}")
        whole = Run(folder).load(lambda text: pytest.fail(text)) if folder.exists() else None
        at = {"world": world, "ranks_killed": len(which), "kind": kind, "during_a_checkpoint_write": cut}
        kills.append(at | {"samples_saved": whole["samples"] if whole else 0})
    ranks.run(world, words(tiny, folder), folder.with_suffix(".log"))
    return kills


def same(run: Run, whole: tuple) -> bool:
    """Whether a run ended with the bits and the curve of the uninterrupted one, and has cleared away what was cut."""
    _, state, metrics, _ = whole
    curves = [[(r["loss"], r.get("valid_loss")) for r in records] for records in (run.metrics(), metrics)]
    return different(run.load(), state) == [] and curves[0] == curves[1] and not list(run.folder.glob("*.part"))


def test_a_killed_run_ends_with_the_same_bits(ranks, tiny, whole, tmp_path):
    """Two ranks, or one of them, are killed while a checkpoint is written."""
    rng = random.Random(os.urandom(8))
    (kill,) = killed_and_resumed(ranks, tiny, tmp_path / "run", 2, ["write"], 0.0, rng)
    assert kill["samples_saved"] >= BATCH and kill["during_a_checkpoint_write"]
    assert same(Run(tmp_path / "run"), whole(2))


@pytest.mark.long
def test_on_another_number_of_ranks_the_loss_curve_continues(ranks, tiny, whole, tmp_path):
    """Stopped on 2 ranks by a hang-up of one of them, ended on 1: equal to float tolerance, no sample lost or twice."""
    folder = tmp_path / "run"
    job = ranks.start(2, words(tiny, folder), folder.with_suffix(".log"))
    until("a record", lambda: len(Run(folder).metrics()), every=0.002)  # early, since a busy machine signals late
    os.kill(job.pids[1], signal.SIGHUP)
    assert job.wait() == [STOPPED] * 2  # both, though one was signalled
    assert "stopped by a signal; saved at sample" in job.text() and "Traceback" not in job.text(1)
    assert Run(folder).load()["samples"] == Run(folder).metrics()[-1]["samples"] < SAMPLES
    ranks.run(1, words(tiny, folder), folder.with_suffix(".log"))
    mine, expected = Run(folder).metrics(), whole(1)[2]
    assert "note: this run began with {'ranks': 2," in (tmp_path / "run.log.0").read_text()
    assert [r["samples"] for r in mine] == [r["samples"] for r in expected]
    assert [r["loss"] for r in mine] == pytest.approx([r["loss"] for r in expected], rel=1e-4)
    assert mine[-1]["valid_loss"] == pytest.approx(expected[-1]["valid_loss"], rel=1e-4)


def test_ctrl_c_leaves_a_checkpoint_and_a_second_run_is_refused_meanwhile(ranks, tiny, tmp_path):
    folder = tmp_path / "run"
    job = ranks.start(1, words(tiny, folder, 80_000), folder.with_suffix(".log"))
    until("three records", lambda: len(Run(folder).metrics()) >= 3)
    second = ranks.start(2, words(tiny, folder, 80_000), tmp_path / "second")
    assert second.wait(120) == [2, 2]
    for rank in range(2):
        (line,) = [line for line in second.text(rank).splitlines() if line.startswith("musekit: ")]
        assert line.startswith(f"musekit: another run is writing to {folder} (process {job.pids[0]} on ")
    os.kill(job.pids[0], signal.SIGINT)
    assert job.wait() == [130] and "saved at sample" in job.text()
    samples = [json.loads(line)["samples"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert samples == sorted(set(samples)) and Run(folder).load()["samples"] == samples[-1]


@pytest.mark.long
def test_under_torchrun_a_failing_rank_is_one_error(tiny, whole, tmp_path, monkeypatch):
    """Rank 0 cannot save; the same command then ends with the same bits. (`test_slurm` sends signals to torchrun.)"""
    folder, lines, before = tmp_path / "run", [], resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # inherited by the processes that are started
    try:
        with pytest.raises(MuseError, match="failed with 2: cannot write checkpoint .*"):
            launch(words(tiny, folder), processes=2, on_line=lines.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert any("lost another rank" in line for line in lines) and not Run(folder).checkpoints()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(words(tiny, folder), processes=2, on_line=lines.append)
    assert same(Run(folder), whole(2))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_an_interrupt_of_launch_lets_the_processes_save(tiny, tmp_path, monkeypatch, processes):
    """Also where they have workers, which would not pass the signal on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "run"

    def interrupt(line: str) -> None:
        if f"stage2 {3 * BATCH}/" in line:
            raise KeyboardInterrupt  # as a notebook's stop button does

    with pytest.raises(KeyboardInterrupt):
        launch([*words(tiny, folder, 80_000), "--train.workers", "1"], processes, on_line=interrupt)
    assert Run(folder).load()["samples"] == Run(folder).metrics()[-1]["samples"] >= 3 * BATCH


@pytest.mark.long
def test_twenty_kills(results_folder, ranks, tiny, whole, tmp_path):
    """At random moments, several per run, of steps, of checkpoint writes and of the start; see resume.json."""
    rows, seed = [], random.SystemRandom().randrange(2**32)
    rng, kinds = random.Random(seed), ["step", "write", "step", "start", "step"] * 4
    for number in range(7):
        world = (1, 2, 4)[number % 3]
        folder, some = tmp_path / f"run{number}", kinds[3 * number : 3 * number + 3]
        kills = killed_and_resumed(ranks, tiny, folder, world, some, whole(world)[3] * BATCH / SAMPLES, rng)
        assert same(Run(folder), whole(world))
        rows += [{"run": number, **kill, "same_bits": True, "same_curve": True} for kill in kills]
    assert len(rows) == 20
    what = "stage2, 20 steps, SIGKILL, run again"
    results.write_result("resume", rows, results_folder, seed=seed, preset="smoke", what=what)
