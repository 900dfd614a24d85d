"""Run folders, their lock, and result files: what survives a full disk, damage and a kill."""

import contextlib
import errno
import fcntl
import json
import math
import multiprocessing
import os
import re
import resource
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from musekit import files, results, runs
from musekit.config import MuseError
from musekit.runs import Run, exclusive


@contextlib.contextmanager
def full_disk(leaving: int):
    """No file can grow beyond `leaving` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (leaving, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "new" / "weights.bin"
    files.write_atomic(path, b"x" * 100_000)
    with full_disk(leaving=50_000):
        with pytest.raises(MuseError, match=r"cannot write .*weights\.bin: .*; free some space"):
            files.write_atomic(path, b"y" * 300_000)
        assert path.read_bytes() == b"x" * 100_000 and len(list(path.parent.iterdir())) == 1
    files.write_atomic(path, b"y" * 300_000)
    assert path.read_bytes() == b"y" * 300_000
    with pytest.raises(MuseError, match="cannot write .*choose another folder"):
        files.write_atomic(path / "inside.txt", "x")


def state(number):
    return {"w": torch.full((300,), float(number)), "samples": number, "optimizer": {"state": {0: torch.ones(2)}}}


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    run = Run(tmp_path / "run")
    run.save(64, {"w": torch.ones(40_000)})
    run.log({"samples": 64})
    with full_disk(leaving=200_000):
        with pytest.raises(MuseError, match="cannot write checkpoint .*GiB free; the previous checkpoint is intact"):
            run.save(128, {"w": torch.zeros(100_000)})
        with pytest.raises(MuseError, match=r"cannot write .*metrics\.jsonl"):
            for _ in range(100):
                run.log({"samples": 128, "what": "x" * 5000})
        assert run.metrics()[0] == {"samples": 64}
        assert [p.name for p in run.checkpoints()] == ["checkpoint-000000000064.pt"]
        assert not list(run.folder.glob("*.part"))
        assert torch.equal(run.load()["w"], torch.ones(40_000))


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_are_named_and_do_not_push_out_those_that_come_after_them(tmp_path, keep):
    """The run resumes before them: what it saves next has smaller numbers, and must stay."""
    for samples in (64, 128, 192, 256):
        Run(tmp_path, keep=4).save(samples, state(samples))
    flipped, cut, unsure = (tmp_path / f"checkpoint-{samples:012d}.pt" for samples in (128, 192, 256))
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:1000])
    unsure.with_suffix(".sha256").unlink()
    run, warnings = Run(tmp_path, keep=keep), []
    loaded = run.load(warnings.append)
    assert loaded["samples"] == 64 and torch.equal(loaded["w"], state(64)["w"])
    assert [line.split()[0] for line in warnings] == [unsure.name, cut.name, flipped.name]
    run.save(96, state(96))
    assert run.load(pytest.fail)["samples"] == 96 and len(run.checkpoints()) == keep


def test_a_checkpoint_cannot_run_code(tmp_path):
    """A tampered file with its own right hash still is only data."""

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    path = tmp_path / "checkpoint-000000000001.pt"
    torch.save({"samples": Harm()}, path)
    path.with_suffix(".sha256").write_text(files.sha256(path))
    with pytest.raises(Exception, match="(?i)weights.only"):
        Run(tmp_path).load()
    assert not (tmp_path / "harmed").exists()


def test_metrics_lose_only_the_line_that_a_kill_cut_and_repeated_steps(tmp_path):
    run, path = Run(tmp_path), tmp_path / "metrics.jsonl"
    assert run.metrics() == []
    for samples in (8, 16, 24, 32):
        run.log({"samples": samples, "loss": 1.0})
    path.write_text(path.read_text()[:-5])
    assert [r["samples"] for r in run.metrics()] == [8, 16, 24]
    for samples in (24, 32):  # the next record does not join the cut one
        run.log({"samples": samples, "loss": 2.0})
    assert [(r["samples"], r["loss"]) for r in run.metrics()] == [(8, 1.0), (16, 1.0), (24, 2.0), (32, 2.0)]


def test_only_what_a_run_wrote_is_deleted_or_read(tmp_path):
    """Files of others stay; temporary files of a killed run go; lines and hashes of another kind are damage."""
    run, dead, old = Run(tmp_path, keep=1), ".checkpoint-1.pt.0123456789abcdef.part", ".a.json.01234567.part"
    others = ("mine.part", "checkpoint-mine.pt", ".notes.part")
    for name in (*others, dead, old):
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / old, (0, 0))
    files.sweep(tmp_path)
    assert (tmp_path / dead).exists() and not (tmp_path / old).exists()  # another process may be writing the new one
    for samples in (8, 16):
        run.save(samples, state(samples))
        run.log({"samples": samples, "loss": 1})
    checkpoint = ["checkpoint-000000000016.pt", "checkpoint-000000000016.sha256"]
    assert {path.name for path in tmp_path.iterdir()} == {*others, *checkpoint, "metrics.jsonl"}
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'null\n{"samples": "8"}\n{"loss": 1}\n\xff\n[[]]\n')
    assert [record["samples"] for record in run.metrics()] == [8, 16]
    (tmp_path / checkpoint[1]).write_bytes(b"\xff\xfe")
    assert run.load(lambda line: None) is None


def test_devices_and_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    for path in (tmp_path / "config.json", Path("/dev/zero")):
        for read in (files.sha256, lambda path: files.read_json(path, dict)):
            with pytest.raises(MuseError, match="is not a regular file"):
                read(path)


def test_a_run_folder_belongs_to_one_configuration(tmp_path, capsys):
    run, config = Run(tmp_path / "run"), {"part": "stage2", "config": {"width": 320, "sizes": (1, 2)}}
    run.claim(config, write=False)
    assert not run.folder.exists()
    run.claim(config, ranks=2, threads=1)
    assert not capsys.readouterr().err
    before = (run.folder / "provenance.json").read_text()
    run.claim({"config": {"sizes": [1, 2], "width": 320}, "part": "stage2"}, ranks=1, threads=1)
    assert "began with {'ranks': 2, 'threads': 1}, and has {'ranks': 1," in capsys.readouterr().err
    assert (run.folder / "provenance.json").read_text() == before
    told = r"another configuration .config differ; it has {'width': 320, .*; choose another --run-folder"
    with pytest.raises(MuseError, match=told):
        run.claim({"part": "stage2", "config": {"width": 8, "sizes": (1, 2)}})
    (run.folder / "config.json").write_text("{")
    with pytest.raises(MuseError, match="config.json cannot be read"):
        run.claim(config)


def hold_for_long(folder, ready):
    with exclusive(folder):
        ready.set()
        time.sleep(60)


def test_a_locked_folder_names_its_holder_and_a_kill_frees_it(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold_for_long, args=(tmp_path, ready), daemon=True)
    holder.start()
    assert ready.wait(30)
    with pytest.raises(MuseError, match=rf"another run .* \(process {holder.pid} on .*, since 20.*\); stop it"):
        with exclusive(tmp_path):
            pytest.fail("it is held")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a job that Slurm has restarted waits for its earlier self
    threading.Timer(0.5, holder.kill).start()
    with exclusive(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".holder").read_text()
    with exclusive(tmp_path):
        pass  # the end of the block frees it


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, capsys, code):
    def flock(file, how):
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(tmp_path), exclusive(tmp_path):
        assert "has no locks (No locks available)" in capsys.readouterr().out


def test_a_result_carries_its_provenance(tmp_path):
    path = results.write_result("codec", [{"median": 0.93}], tmp_path, seed=7, preset="smoke")
    assert path == tmp_path / "codec.json"
    result = json.loads(path.read_text())
    assert result["name"] == "codec" and result["rows"] == [{"median": 0.93}]
    about = result["provenance"]
    assert {"command", "versions", "hardware", "time", "seed", "preset"} <= about.keys()
    assert torch.__version__.startswith(about["versions"]["torch"])  # without the build's +cu130
    assert about["hardware"]["cores"] == os.cpu_count() and about["hardware"]["cpu"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", about["time"])
    with pytest.raises(ValueError):
        results.write_result("bad", [{"x": math.nan}], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["codec.json"]


def test_the_command_is_as_typed_without_this_machines_paths(monkeypatch):
    for words, shown in (
        (["scripts/measure.py", "a sad melody"], "python scripts/measure.py 'a sad melody'"),
        (["/opt/x/site-packages/pytest/__main__.py", "-q"], "python -m pytest -q"),
        (
            ["/opt/x/bin/musekit", "train", "--cache=/home/me/music", "/data/b", "3/4"],
            "musekit train --cache=.../music .../b 3/4",
        ),
    ):
        monkeypatch.setattr(sys, "argv", words)
        assert runs.command_line() == shown
