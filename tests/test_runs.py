"""Runs: atomic files on a really full disk, checkpoints that survive damage, provenance, metrics."""

import contextlib
import json
import math
import os
import re
import resource
import subprocess
import sys

import pytest
import torch

from musekit import files, results, runs
from musekit.config import MuseError
from musekit.runs import Run


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 12 MiB, and a context in which it is full.

    A real tmpfs where this process may mount one; elsewhere the process's own limit on file sizes.
    """
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False

    @contextlib.contextmanager
    def full(leaving: int):
        if mounted:
            ballast = folder / "ballast"
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
            ballast.write_bytes(b"\0" * (free - leaving))
            try:
                yield
            finally:
                ballast.unlink()
            return
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (leaving, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    yield folder, full
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


# ---------------------------------------------------------------- atomic files


def test_write_atomic_replaces_whole_files_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    files.write_atomic(path, "one")
    with open(path) as reader:  # who reads the old file goes on reading it whole
        files.write_atomic(path, b"two\x00")
        assert reader.read() == "one"
    assert path.read_bytes() == b"two\x00"
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_a_full_disk_leaves_the_old_file_and_no_litter(small_disk):
    folder, full = small_disk
    path = folder / "weights.bin"
    files.write_atomic(path, b"x" * 100_000)
    with full(leaving=50_000):
        with pytest.raises(MuseError, match=r"cannot write .*weights\.bin: .*; free some space"):
            files.write_atomic(path, b"y" * 300_000)
        assert path.read_bytes() == b"x" * 100_000
        assert not list(folder.glob(".*"))
    files.write_atomic(path, b"y" * 300_000)
    assert path.read_bytes() == b"y" * 300_000


def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
    folder, full = small_disk
    run = Run(folder / "run")
    run.folder.mkdir()
    run.save(64, {"w": torch.ones(40_000)})
    with full(leaving=100_000):
        with pytest.raises(MuseError, match="cannot write checkpoint .*the previous one is intact"):
            run.save(128, {"w": torch.zeros(100_000)})
        assert [p.name for p in run.checkpoints()] == ["checkpoint-000000000064.pt"]
        assert not list(run.folder.glob("*.part"))
        assert torch.equal(run.load()["w"], torch.ones(40_000))


def test_a_full_disk_stops_the_log_with_one_line(small_disk):
    folder, full = small_disk
    run = Run(folder)
    run.log({"samples": 1})
    with full(leaving=0), pytest.raises(MuseError, match=r"cannot write .*metrics\.jsonl"):
        for i in range(2000):
            run.log({"samples": i, "what": "x" * 5000})
    assert run.metrics()[0] == {"samples": 1}


@pytest.mark.parametrize("place", ["file/inside.txt", "folder"])
def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path, place):
    (tmp_path / "file").write_text("I am a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MuseError, match=f"cannot write .*{place}: .*choose another folder"):
        files.write_atomic(tmp_path / place, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# ---------------------------------------------------------------- checkpoints


def state(number):
    return {"w": torch.full((300,), float(number)), "samples": number, "optimizer": {"state": {0: torch.ones(2)}}}


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    elif how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    path.write_bytes(bytes(data))


def test_the_last_checkpoints_stay_and_the_newest_is_loaded(tmp_path):
    run = Run(tmp_path, keep=2)
    assert run.load() is None
    for samples in (64, 128, 1_000_000):
        run.save(samples, state(samples))
    assert [p.name for p in run.checkpoints()] == ["checkpoint-000000000128.pt", "checkpoint-000001000000.pt"]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pt", ".pt", ".sha256", ".sha256"]
    loaded = run.load()
    assert loaded["samples"] == 1_000_000 and torch.equal(loaded["w"], state(1_000_000)["w"])


def test_the_best_checkpoint_stays(tmp_path):
    run = Run(tmp_path, keep=2)
    assert run.best() == {}
    for samples in range(1, 7):
        run.save(samples, state(samples), valid_loss={2: 0.5, 3: 0.4}.get(samples))
    assert [p.name[-5:-3] for p in run.checkpoints()] == ["03", "05", "06"]
    assert run.best() == {"checkpoint": "checkpoint-000000000003.pt", "samples": 3, "valid_loss": 0.4}
    assert run.load()["samples"] == 6
    (tmp_path / "best.json").write_text("{")  # no reason to stop
    assert run.best() == {} and run.save(7, state(7)).exists() and len(run.checkpoints()) == 2


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path, how):
    run, told = Run(tmp_path), []
    run.save(64, state(64))
    run.save(128, state(128))
    damage(tmp_path / "checkpoint-000000000128.pt", how)
    assert run.load(told.append)["samples"] == 64
    assert len(told) == 1 and "checkpoint-000000000128.pt" in told[0]
    damage(tmp_path / "checkpoint-000000000064.pt", how)
    assert run.load(told.append) is None and len(told) == 3


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_do_not_push_out_those_that_come_after_them(tmp_path, keep):
    """The run goes on behind them: what it saves there has smaller numbers, and must stay."""
    for samples in (64, 128, 192):
        Run(tmp_path, keep=3).save(samples, state(samples), valid_loss=1 / samples)
    for samples in (128, 192):
        damage(tmp_path / f"checkpoint-{samples:012d}.pt", "flipped")
    run = Run(tmp_path, keep=keep)
    assert run.load(lambda text: None)["samples"] == 64
    run.save(96, state(96))
    assert run.load(pytest.fail)["samples"] == 96 and len(run.checkpoints()) == keep
    assert run.best() == {}  # that one was damaged too


def test_a_checkpoint_without_its_hash_is_not_trusted(tmp_path):
    run = Run(tmp_path)
    run.save(64, state(64))
    run.save(128, state(128)).with_suffix(".sha256").unlink()
    assert run.load(lambda text: None)["samples"] == 64


KILLED_WHILE_SAVING = """
import sys, torch
from pathlib import Path
from musekit.runs import Run
run = Run(Path(sys.argv[1]))
print("ready", flush=True)
for samples in range(1, 10**6):
    run.save(samples, {"w": torch.full((200_000,), float(samples)), "samples": samples})
    print(samples, flush=True)
"""


def test_a_kill_while_saving_loses_at_most_that_checkpoint(tmp_path):
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        saved = [writer.stdout.readline() for _ in range(8)]
        writer.kill()
        saved += writer.stdout.read().split()
    last = int(saved[-1])
    told = []
    loaded = Run(tmp_path).load(told.append)
    assert not told and loaded["samples"] in (last, last + 1)
    assert (loaded["w"] == loaded["samples"]).all()


def test_a_checkpoint_cannot_run_code(tmp_path):
    """weights_only: a tampered file with its own right hash still is only data."""

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    run = Run(tmp_path)
    path = tmp_path / "checkpoint-000000000001.pt"
    torch.save({"samples": Harm()}, path)
    path.with_suffix(".sha256").write_text(files.sha256(path))
    with pytest.raises(Exception, match="(?i)weights.only"):
        run.load()
    assert not (tmp_path / "harmed").exists()


# ---------------------------------------------------------------- metrics and claims


def test_metrics_lose_only_the_line_that_a_kill_cut(tmp_path):
    run = Run(tmp_path)
    assert run.metrics() == []
    for i in range(3):
        run.log({"samples": i})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-5])
    assert run.metrics() == [{"samples": 0}, {"samples": 1}]
    run.log({"samples": 3})  # the next record does not join the cut one
    assert run.metrics() == [{"samples": 0}, {"samples": 1}, {"samples": 3}]


def test_a_run_folder_belongs_to_one_configuration(tmp_path):
    run = Run(tmp_path / "run")
    run.claim('{"width": 1}')
    before = (tmp_path / "run" / "provenance.json").read_text()
    run.claim('{"width": 1}')
    assert (tmp_path / "run" / "provenance.json").read_text() == before
    with pytest.raises(MuseError, match="another configuration"):
        run.claim('{"width": 2}')
    assert (tmp_path / "run" / "config.json").read_text() == '{"width": 1}'


def test_a_kill_while_claiming_leaves_no_run_without_its_provenance(tmp_path, monkeypatch):
    write, run = files.write_atomic, Run(tmp_path)

    def kill(path, data):
        write(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "write_atomic", kill)
    with pytest.raises(KeyboardInterrupt):
        run.claim("{}")
    monkeypatch.setattr(runs, "write_atomic", write)
    run.claim("{}")
    assert (tmp_path / "config.json").exists() and (tmp_path / "provenance.json").exists()


# ---------------------------------------------------------------- results


def test_a_result_carries_its_provenance(tmp_path):
    path = results.write_result("codec", [{"median": 0.93}], tmp_path, seed=7, preset="smoke")
    assert path == tmp_path / "codec.json"
    result = results.read_result("codec", tmp_path)
    assert result["name"] == "codec" and result["rows"] == [{"median": 0.93}]
    made = result["provenance"]
    assert {"command", "versions", "hardware", "time", "seed", "preset"} <= made.keys()
    assert torch.__version__.startswith(made["versions"]["torch"])  # without the build's +cu130
    assert made["hardware"]["cores"] == os.cpu_count()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["time"])


def test_a_missing_result_says_how_to_make_it_and_nan_is_refused(tmp_path):
    with pytest.raises(MuseError, match=r"nothing\.json is missing; make it with"):
        results.read_result("nothing", tmp_path)
    with pytest.raises(ValueError):
        results.write_result("bad", [{"x": math.nan}], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_is_as_typed_without_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["/opt/x/bin/musekit", "train", "codec", "--out", f"{tmp_path}/w"])
    assert results.command_line() == "musekit train codec --out ~/w"
    monkeypatch.setattr(sys, "argv", ["/opt/x/scripts/measure.py"])
    assert results.command_line() == "python .../measure.py"
    monkeypatch.setattr(sys, "argv", ["scripts/measure.py", "a sad melody"])
    assert results.command_line() == "python scripts/measure.py 'a sad melody'"
    monkeypatch.setattr(sys, "argv", ["/opt/x/site-packages/pytest/__main__.py", "-q"])
    assert results.command_line() == "python -m pytest -q"


def test_the_command_hides_other_places_too(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MUSEKIT_HOME", "/scratch/someone/muse")
    words = [f"{tmp_path}/here/out", f"--cache={tmp_path}/music", "--run-folder", "/scratch/someone/muse/runs/a"]
    monkeypatch.setattr(sys, "argv", ["/opt/x/musekit/__main__.py", "train", *words, "/data/music4all", "a/b", "3/4"])
    told = "musekit train out --cache=~/music --run-folder $MUSEKIT_HOME/runs/a .../music4all a/b 3/4"
    assert results.command_line() == told


def test_sha256_is_that_of_the_bytes(tmp_path):
    import hashlib

    data = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(data)
    assert files.sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    assert json.loads(json.dumps(results.provenance()))["command"]


# ---------------------------------------------------------------- whose folder, whose lines


def test_a_folder_of_another_configuration_is_told_by_what_differs(tmp_path):
    run = Run(tmp_path)
    run.claim(json.dumps({"part": "stage2", "config": {"width": 320, "depth": 7}}))
    run.claim(json.dumps({"config": {"depth": 7, "width": 320}, "part": "stage2", "tokens": "newer than the run"}))
    for other, told in (
        ({"part": "stage1", "config": {"width": 320, "depth": 7}}, "part is 'stage2' there and 'stage1' here"),
        ({"part": "stage2", "config": {"width": 8, "depth": 7}}, r"config\.width is 320 there and 8 here"),
        ({"part": "stage2", "config": {"width": 320, "depth": 7, "new": 1}}, r"config\.new is None there and 1 here"),
    ):
        with pytest.raises(MuseError, match=f"another configuration .{told}.; choose another --run-folder"):
            run.claim(json.dumps(other), write=False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MuseError, match="damaged"):
        run.claim("{}")


def test_only_who_may_write_claims_a_folder(tmp_path):
    Run(tmp_path / "new").claim("{}", write=False)
    assert not (tmp_path / "new").exists()


def test_steps_that_were_done_again_count_once(tmp_path):
    run = Run(tmp_path)
    for samples, loss in ((8, 3.0), (16, 2.0), (24, 1.5), (16, 2.0), (24, 1.4), (32, 1.0)):
        run.log({"samples": samples, "loss": loss})
    assert [(r["samples"], r["loss"]) for r in run.metrics()] == [(8, 3.0), (16, 2.0), (24, 1.4), (32, 1.0)]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path, tensorboard=True)
    for samples in (8, 16):
        run.log({"samples": samples, "loss": 8 / samples, "valid_loss": 0.25})
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert {(e.step, e.value) for e in read.Scalars("loss")} == {(8, 1.0), (16, 0.5)}
    assert [e.value for e in read.Scalars("valid/loss")] == [0.25, 0.25]


def test_a_missing_tensorboard_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MuseError, match="pip install tensorboard"):
        Run(tmp_path, tensorboard=True)
