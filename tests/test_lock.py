"""Two runs in one folder: the second is refused in one line, and only while the first one is alive."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
from ranks import Ranks, until
from test_ddp import train_words

from musekit.config import MuseError
from musekit.runs import Run
from musekit.runs.lock import hold


def words(tiny, folder) -> list[str]:
    """A run of the smoke preset that would go on for long."""
    return train_words(tiny, folder, 800_000, 8, "--train.no-bf16", "--train.checkpoint-minutes", "0")


@pytest.fixture(scope="module")
def more():
    """Another process that forks: a job waits for the one before it in its own group."""
    with Ranks() as some:
        yield some


@pytest.mark.parametrize("world", [1, 2])
def test_a_second_run_is_refused_and_a_killed_one_frees_its_folder(ranks, more, tiny, tmp_path, world):
    folder, other = tmp_path / "run", tmp_path / "other"
    first = ranks.start(1, words(tiny, folder), tmp_path / "first")
    until(lambda: Run(folder).checkpoints())
    second = more.start(world, words(tiny, folder), tmp_path / "second")
    assert second.wait(120) == [2] * world
    for rank in range(world):
        said = [line for line in second.text(rank).splitlines() if line.startswith("musekit: ")]
        (line,) = said
        assert line.startswith(f"musekit: another run is training in {folder} (process {first.pids[0]} on ")
        assert "since 20" in line and line.endswith("stop it, or give another --run-folder")
    third = more.start(1, words(tiny, other), tmp_path / "third")  # elsewhere it may train
    until(lambda: Run(other).checkpoints())
    os.kill(third.pids[0], signal.SIGTERM)
    assert third.wait() == [os.EX_TEMPFAIL]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    counted = [json.loads(line)["samples"] for line in lines[:-1]]
    assert counted == sorted(set(counted))  # nobody else has written there
    first.kill(0)
    assert first.wait() == [-signal.SIGKILL]
    saved = Run(folder).load()["samples"]
    again = ranks.start(1, words(tiny, folder), tmp_path / "again")
    until(lambda: Run(folder).load(lambda text: None)["samples"] > saved)
    os.kill(again.pids[0], signal.SIGTERM)
    assert again.wait() == [os.EX_TEMPFAIL]


def test_a_job_that_slurm_has_started_again_waits_for_its_earlier_self(tmp_path, monkeypatch):
    first = hold(tmp_path)
    with pytest.raises(MuseError, match=f"another run .* \\(process {os.getpid()} on .*, since .*\\)"):
        hold(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    with pytest.raises(MuseError, match="another run"):
        hold(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    ending = threading.Timer(0.5, first.close)
    ending.start()
    with hold(tmp_path):
        assert first.closed
    ending.join()
    with hold(tmp_path, patience=0):
        pass  # closing frees it


def test_whatever_the_lock_file_holds_is_told_in_one_line(tmp_path):
    (tmp_path / ".lock").write_bytes(b"")
    with open(tmp_path / ".lock", "a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MuseError, match="which has just begun"):
            hold(tmp_path)
        held.write("a\nb\tc " + "x" * 1000)
        held.flush()
        with pytest.raises(MuseError, match=r"\(a b c x{100,200}\)") as told:
            hold(tmp_path)
    assert "\n" not in str(told.value)


def test_a_file_system_without_locks_is_told_and_no_obstacle(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    told = []
    assert hold(tmp_path, told.append) is None and hold(tmp_path, told.append) is None
    assert len(told) == 2 and "without locks (No locks available)" in told[0]


def test_a_place_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MuseError, match=r"cannot write .*file/\.lock: .*--run-folder"):
        hold(tmp_path / "file")


def test_a_forked_process_does_not_hold_the_lock_of_a_dead_run(tmp_path):
    """Feeders live for some seconds after a training that was killed, and the same command may come at once."""
    lock = hold(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    try:
        with pytest.raises(MuseError, match="another run"):
            hold(tmp_path, patience=0)  # the child has let go of its copy alone
        lock.close()
        with hold(tmp_path, patience=5):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()
