"""Caching by several processes: shares and locks, signals, damage before training, and the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pytest
import soundfile
import torch
from fixtures import SAMPLE_RATE, sinusoids

from musekit import cli, distributed, pretrained
from musekit.cache import SHARD, Shards, read_clips
from musekit.cache.build import exclusive, share_of
from musekit.cache.precompute import precompute, run_processes
from musekit.config import MuseError, home, smoke
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


# ---------------------------------------------------------------- ranks


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


def array_words(folder: Path, **environment) -> tuple[int, str]:
    """What slurm/cache.sh runs in a task of an array: (exit code, what stub programs were called with)."""
    stubs = {"musekit": "", "scontrol": "", "scancel": "", "srun": f'echo "$@" >> {folder}/called'}
    (folder / "bin").mkdir(parents=True)
    for name, body in stubs.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    environment |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "MUSEKIT_HOME": str(folder), "MUSE_ENV": ""}
    environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "MUSE_PROCS": "1", "SLURM_JOB_NODELIST": "n"}
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        ["bash", "slurm/cache.sh", "--preset", "smoke"], cwd=root, env={**os.environ, **environment}, timeout=60,
        capture_output=True, text=True,
    )  # fmt: skip
    called = folder / "called"
    return done.returncode, called.read_text() if called.exists() else done.stderr


def test_the_job_script_gives_every_task_of_an_array_its_share(tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_MAX": "16"}
    array |= {"SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_ID": "14"}
    code, said = array_words(tmp_path / "array", **array)
    assert code == 0 and "--share 2/4 --preset smoke" in said
    code, said = array_words(tmp_path / "alone")
    assert code == 0 and "--share" not in said
    code, said = array_words(tmp_path / "gaps", **array | {"SLURM_ARRAY_TASK_COUNT": "3"})
    assert code == 2 and "--array=0-N" in said


def test_who_waited_for_the_clips_sees_that_they_exist(tmp_path):
    """Clips that appear while this process waits are another one's work, however long it keeps the lock afterwards."""
    with ThreadPoolExecutor(1) as pool, filelock.FileLock(tmp_path / ".lock"):

        def wait() -> bool:
            with exclusive(tmp_path, lambda: 0) as done:
                return done

        waiting = pool.submit(wait)
        time.sleep(0.3)
        (tmp_path / "clips.jsonl").write_text("{}")
        time.sleep(0.3)
        assert not waiting.done()
    assert waiting.result(10)
    with exclusive(tmp_path, lambda: 0) as done:
        assert not done


def test_ranks_that_never_talk_share_the_work_and_cut_the_clips_once(tmp_path):
    """As an array starts them: both make the clips, one of them waits; the last one sums up."""
    folder, out = music(tmp_path / "music", SHARD + 6), tmp_path / "cache"
    words = ("--data", folder, "--out", out, "--kinds", "clips", "spectra", "--workers", "1")
    ranks = [command(*words, "--share", f"{i}/2") for i in range(2)]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    shards = Shards(out / "spectra")
    assert shards.manifest["complete"] and len(shards) == SHARD + 6 == len(read_clips(out))
    assert any("70 rows, 0 set aside" in text for text in said)
    rows = {clip["title"]: shards.row(clip["id"]) for clip in read_clips(out)[:3] + read_clips(out)[-3:]}
    assert len({float(row.float().sum()) for row in rows.values()}) == 6


def test_two_workers_compute_what_one_computes(tiny, tmp_path):
    for name in ("clips.jsonl", "clips"):
        (tmp_path / name).symlink_to(tiny.cache / name)
    manifest = precompute("views", tmp_path, tiny.config, workers=2, show=False)
    one, two = Shards(tiny.cache / "views"), Shards(tmp_path / "views")
    assert manifest["complete"] and [*two.index] == [*one.index]
    for clip in one.index:
        torch.testing.assert_close(two.row(clip), one.row(clip), atol=2e-3, rtol=2e-3)


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize(
    "number, workers", [(signal.SIGUSR1, 1), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.long)]
)
def test_a_signal_stops_after_the_current_shard_with_75_and_the_same_command_goes_on(tmp_path, number, workers):
    n = 8  # shards, so that on a busy machine too the signal comes before the last one
    folder, out = music(tmp_path / "music", n * SHARD, 1.0), tmp_path / "cache"
    words = ("--data", folder, "--out", out, "--kinds", "clips", "spectra", "--workers", workers)
    job = command(*words)
    began = time.monotonic()
    while not shard_times(out / "spectra") and job.poll() is None:
        assert time.monotonic() - began < 100
        time.sleep(0.002)
    job.send_signal(number)
    said = job.communicate(timeout=100)[0]
    assert job.returncode == 75 and "run the same command again" in said and "Traceback" not in said, said
    done = shard_times(out / "spectra")
    manifest = json.loads((out / "spectra" / "manifest.json").read_text())
    assert 1 <= len(done) == len(manifest["shards"]) < n and not manifest["complete"] and not list(out.rglob("*.part"))
    again = command(*words)
    assert f"{n * SHARD} rows" in again.communicate(timeout=100)[0] and again.returncode == 0
    assert done.items() < shard_times(out / "spectra").items()


LATE = """
import os, signal, sys
from musekit import distributed

class Late:
    def __del__(self, kill=os.kill, me=os.getpid(), term=signal.SIGTERM, usr1=signal.SIGUSR1):
        kill(me, usr1), kill(me, term)  # while Python ends, after it has removed its own handlers

late = Late()
with distributed.signals() as stop:
    os.kill(os.getpid(), signal.SIGUSR1)
    raise distributed.Stopped(stop())
"""


def test_a_second_signal_while_a_stopped_process_ends_does_not_change_its_exit_code():
    """A job script repeats its signal, and torchrun sends its own, to those that end last."""
    assert subprocess.run([sys.executable, "-c", LATE]).returncode == 75


def work(what: str, folder: Path, stop) -> None:
    """A process's whole work, in which something happens to it."""
    if what == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "mistake":
        raise MuseError("a mistake")
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "until stopped" and not stop():
        time.sleep(0.01)
    (folder / what).touch()


@pytest.mark.long
def test_processes_end_together(tmp_path):
    """A signal to one process changes nothing: the parent answers it. One that fails or dies ends the others."""
    run_processes(work, [("signal", tmp_path)], lambda: 0, "nothing")
    assert (tmp_path / "signal").exists()
    for what, said in (
        ("mistake", "a mistake"),
        ("kill", "a process that computes nothing died"),
    ):
        with pytest.raises(MuseError, match=said):
            run_processes(work, [(what, tmp_path), ("until stopped", tmp_path)], lambda: 0, "nothing")
        (tmp_path / "until stopped").unlink()
    with pytest.raises(distributed.Stopped) as caught:
        run_processes(work, [("until stopped", tmp_path)], lambda: 130, "nothing")
    assert caught.value.code == 130 and (tmp_path / "until stopped").exists()


# ---------------------------------------------------------------- before training


def test_rows_of_other_weights_are_not_replaced_unasked(tiny, tmp_path):
    cache, other = shutil.copytree(tiny.cache, tmp_path / "cache"), shutil.copytree(tiny.weights, tmp_path / "other")
    torch.manual_seed(3)
    pretrained.save_part(other, "codec", pretrained.build("codec", smoke()), smoke())
    before, row = shard_times(cache / "latents"), Shards(cache / "latents").row("tiny-00")
    said = r"latents was made by other weights .* --remake to make its 16 rows again"
    with pytest.raises(MuseError, match=said) as caught:
        precompute("latents", cache, smoke(), other, show=False, remake=False)
    assert "\n" not in str(caught.value) and shard_times(cache / "latents") == before
    precompute("latents", cache, smoke(), other, show=False, remake=True)
    assert not before.keys() & shard_times(cache / "latents").keys()
    assert not torch.equal(Shards(cache / "latents").row("tiny-00"), row)


def test_training_never_sees_a_damaged_shard(tiny, tmp_path, capsys):
    """Refused by name before the first step, or left out with every clip and caption that needs it."""
    cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    records = {c["id"]: c for c in read_clips(cache)}
    shutil.rmtree(cache / "latents")
    for keys in (sorted(records)[:4], sorted(records)):  # the first four clips have a shard of their own
        (cache / "clips.jsonl").write_text("".join(json.dumps(records[key]) + "\n" for key in keys))
        precompute("latents", cache, tiny.config, tiny.weights, show=False)
    whole = Stage2Data(cache, "train", tiny.config, damaged="skip")
    assert not whole.shards.skipped and len(whole) == 13
    latents, tokens = (next(cache.glob(f"{kind}/[0-9]*.safetensors")) for kind in ("latents", "tokens"))
    latents = cache / "latents" / Shards(cache / "latents").manifest["shards"][0]["file"]
    latents.write_bytes(latents.read_bytes()[:-9])
    with pytest.raises(MuseError, match=rf"{latents.name} has .* bytes .* --train\.damaged skip"):
        Stage2Data(cache, "train", tiny.config)
    rest = Stage2Data(cache, "train", tiny.config, damaged="skip")
    assert [c["id"] for c in rest.clips] == [c["id"] for c in whole.clips if c["id"] > "tiny-03"]
    tokens.write_bytes(tokens.read_bytes()[:-9])
    with pytest.raises(MuseError, match=f"{tokens.name} has"):
        Stage1Data(cache, "train", tiny.config)
    words = ["train", "stage1", "--preset", "smoke", "--cache", str(cache), "--run-folder", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and tokens.name in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("checkpoint*"))


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "words, said",
    [
        (["--data", "empty"], "holds no known dataset. Looked for musicbench: MusicBench_train.json"),
        (["--corpus", "musicbench"], "needs --data FOLDER"),
        (["--corpus", "musicbench", "--data", "none"], "no folder at none"),
        (["--corpus", "muscbench", "--data", "empty"], "did you mean 'musicbench'?"),
        (["--data", "empty", "--seconds", "0.1"], "clips last from 1 to 600 s"),
        (["--n", "0"], "--n must be 1 or more, not 0"),
        (["--share", "2/2"], "--share 2/2: give INDEX/COUNT"),
        (["--corpus", "nothing-here", "--kinds", "tokens"], "clips.jsonl is missing"),
        (["--preset", "paper", "--kinds", "transposed", "--out", "x"], "the preset paper has no transposed"),
    ],
)
def test_what_cannot_be_cached_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as end:
        cli.main(["cache", *words])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and said in err and err.count("\n") == 1 and err.startswith("musekit: ")


def test_a_folder_of_audio_becomes_a_cache_and_the_second_time_nothing_is_computed(tmp_path, capsys):
    words = ["--data", music(tmp_path / "music", 2), "--out", tmp_path / "cache", "--kinds", "clips", "spectra"]
    run = lambda: cli.main(["cache", "--preset", "smoke", "--workers", "1", *map(str, words)])  # noqa: E731
    run()
    assert "spectra: 2 rows, 0 set aside" in capsys.readouterr().out
    before = shard_times(tmp_path / "cache" / "spectra")
    run()
    assert shard_times(tmp_path / "cache" / "spectra") == before
    texts = {clip["captions"][0]["text"] for clip in read_clips(tmp_path / "cache")}
    assert texts == {"a tone of 200 Hz", "a tone of 201 Hz"}


def test_where_a_cache_goes(tmp_path, monkeypatch):
    (tmp_path / "my music").mkdir()
    monkeypatch.chdir(tmp_path / "my music")
    for corpus, data, name in [
        (None, None, "scores"), ("musicbench", Path("/x/y"), "musicbench"), (None, tmp_path / "my music", "my music"),
        ("some/folder", None, "folder"), (".", None, "my music"), ("../my music/..", None, tmp_path.name),
    ]:  # fmt: skip
        assert cli.Cache(corpus=corpus, data=data).folder() == home() / "caches" / name
    assert cli.Cache(out=tmp_path).folder() == tmp_path
