"""Caching by several processes: shares and locks, signals, damage before training, and the command line."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from fixtures import SAMPLE_RATE, sinusoids
from ranks import until

from musekit import cli
from musekit.cache import SHARD, Shards, read_clips
from musekit.cache.precompute import precompute, share_of
from musekit.config import MuseError
from musekit.corpus.processes import in_processes
from musekit.train.data import Stage1Data, Stage2Data


def shard_times(folder: Path) -> dict:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("[0-9]*.safetensors")}


def music(folder: Path, n: int, seconds: float = 1.5) -> Path:
    folder.mkdir()
    for i in range(n):
        soundfile.write(folder / f"{i:03d}.wav", sinusoids([200 + i], seconds).T, SAMPLE_RATE)
        (folder / f"{i:03d}.txt").write_text(f"a tone of {200 + i} Hz\n")
    return folder


def command(*words, **environment) -> subprocess.Popen:
    """`musekit cache` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "musekit", "cache", "--preset", "smoke", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_share_of_a_rank_within_an_array(monkeypatch):
    assert share_of("0/1") == (0, 1) and share_of("2/8") == (2, 8)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")  # somebody's own array shares nothing unless it says so
    assert share_of("0/1") == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert share_of("2/4") == (9, 16)
    for wrong in ("4/4", "2", "-1/2", "a/b"):
        with pytest.raises(MuseError, match="give INDEX/COUNT"):
            share_of(wrong)


@pytest.mark.parametrize(
    "count, code, said", [("4", 0, "--share 2/4 --out"), ("3", 2, "--array=0-N"), (None, 0, "--preset smoke")]
)
def test_the_job_script_gives_every_task_of_an_array_its_share(tmp_path, count, code, said):
    """slurm/cache.sh with stub programs: no array, an array, and an array with gaps, which is refused."""
    stubs = {"musekit": "", "scontrol": "", "scancel": "", "srun": 'echo "$@"'}
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MUSEKIT_HOME": str(tmp_path), "MUSE_ENV": "", "MUSE_PROCS": "1"}
    job |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n"}
    if count:
        array = {"ARRAY_JOB_ID": "7", "TASK_MIN": "10", "TASK_MAX": "16", "TASK_STEP": "2", "TASK_ID": "14"}
        array["TASK_COUNT"] = count
        job |= {f"SLURM_ARRAY_{name.removeprefix('ARRAY_')}": value for name, value in array.items()}
    command = ["bash", "slurm/cache.sh", "--out", tmp_path / "out", "--preset", "smoke"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, env={**os.environ, **job}, timeout=60, capture_output=True, text=True
    )
    logs = "".join(path.read_text() for path in tmp_path.rglob("*.log")) + done.stdout + done.stderr
    assert done.returncode == code and said in logs and ("--share" in logs) == (count == "4"), logs


def test_ranks_that_never_talk_share_the_work_and_cut_the_clips_once(tmp_path):
    """As an array starts them: both make the clips, one of them waits; the last one sums up."""
    folder, out = music(tmp_path / "music", SHARD + 6), tmp_path / "cache"
    words = ("--data", folder, "--out", out, "--kinds", "clips", "views", "--workers", "1")
    ranks = [command(*words, "--share", f"{i}/2") for i in range(2)]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    shards = Shards(out / "views")
    assert shards.manifest["complete"] and len(shards) == SHARD + 6 == len(read_clips(out))
    assert any(re.search(r"views +70  taken", text) for text in said)
    assert {clip["captions"][0]["text"] for clip in read_clips(out)} == {
        f"a tone of {200 + i} Hz" for i in range(SHARD + 6)
    }


def test_two_workers_compute_what_one_computes(tiny, tmp_path):
    for name in ("clips.jsonl", "clips"):
        (tmp_path / name).symlink_to(tiny.cache / name)
    manifest = precompute("views", tmp_path, tiny.config, workers=2, show=False)
    one, two = Shards(tiny.cache / "views"), Shards(tmp_path / "views")
    assert manifest["complete"] and [*two.index] == [*one.index]
    for clip in one.index:
        torch.testing.assert_close(two.row(clip), one.row(clip), atol=2e-3, rtol=2e-3)


def test_a_signal_stops_after_the_current_shard_with_75_and_the_same_command_goes_on(tmp_path):
    n = 8  # shards, so that on a busy machine too the signal comes before the last one
    folder, out = music(tmp_path / "music", n * SHARD, 1.0), tmp_path / "cache"
    words = ("--data", folder, "--out", out, "--kinds", "clips", "views", "--workers", 1)
    job = command(*words)
    began = time.monotonic()
    while not shard_times(out / "views") and job.poll() is None:
        assert time.monotonic() - began < 100
        time.sleep(0.002)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=100)[0]
    assert job.returncode == 75 and "run the same command again" in said and "Traceback" not in said, said
    done = shard_times(out / "views")
    manifest = json.loads((out / "views" / "manifest.json").read_text())
    assert 1 <= len(done) == len(manifest["shards"]) < n and not manifest["complete"] and not list(out.rglob("*.part"))
    again = command(*words)
    assert f"{n * SHARD}  taken" in again.communicate(timeout=100)[0] and again.returncode == 0
    assert done.items() < shard_times(out / "views").items()


def work(folder: Path, what: str) -> str:
    """An item of work in which something happens to its process."""
    if what == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "mistake":
        raise MuseError("a mistake")
    elif what == "wait":
        (folder / str(os.getpid())).touch()
        time.sleep(120)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / what).touch()
    return what


def test_a_signal_to_a_worker_changes_nothing_and_a_mistake_or_death_is_one_line(tmp_path):
    assert [*in_processes(partial(work, tmp_path), ["signal", "next"], 2)] in (["signal", "next"], ["next", "signal"])
    for what, said in (("mistake", "a mistake"), ("kill", "a worker process died; run the same command again")):
        with pytest.raises(MuseError, match=said):
            list(in_processes(partial(work, tmp_path), [what, "next"], 2))


def test_workers_end_with_a_killed_parent(tmp_path):
    parent = multiprocessing.get_context("fork").Process(
        target=lambda: list(in_processes(partial(work, tmp_path), ["wait"] * 2, 2))
    )
    parent.start()
    workers = until("two workers", lambda: len(pids := [*tmp_path.iterdir()]) == 2 and pids)
    parent.kill()
    until("they have ended", lambda: not any(Path(f"/proc/{pid.name}").exists() for pid in workers), 20)


def test_training_refuses_a_damaged_shard_before_the_first_step(tiny, tmp_path, capsys):
    cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    latents, tokens = (next(cache.glob(f"{kind}/[0-9]*.safetensors")) for kind in ("latents", "tokens"))
    for path, data in ((latents, Stage2Data), (tokens, Stage1Data)):
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(MuseError, match=rf"{path.name} is damaged .*has .* bytes .* --verify"):
            data(cache, "train", tiny.config)
    words = ["train", "stage1", "--preset", "smoke", "--cache", str(cache), "--run-folder", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and tokens.name in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("checkpoint*"))
