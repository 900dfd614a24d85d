"""`musekit train` and `launch`: every part trains and loads, mistakes are one line, and what a run leaves behind."""

import dataclasses
import json
import math
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from musekit import cli, distributed, pretrained
from musekit.cache.precompute import precompute
from musekit.config import MuseError, TrainConfig
from musekit.launch import failure, launch
from musekit.muse import Muse
from musekit.runs import Run, exclusive
from musekit.train import command
from musekit.train.data import DATA


def files_at_work(call) -> set[str]:
    """The files of musekit in which a function is called; what an import runs does not count."""
    package, found = Path(pretrained.__file__).parent, set()

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_name != "<module>":
            found.add(frame.f_code.co_filename)

    for at_work in (profile, None):
        sys.setprofile(at_work)
        threading.setprofile(at_work)
        if at_work:
            call()
    return {name for name in found if Path(name).is_relative_to(package)}


def test_few_files_take_part(tiny, tmp_path):
    """A newcomer reads these to follow a training from the command line, and a piece from `Muse.generate`."""
    words = ["train", "stage2", "--preset=smoke", f"--cache={tiny.cache}", f"--run-folder={tmp_path}"]
    words += ["--train.samples=24", "--train.batch=8", "--train.micro-batch=8", "--train.log-every=8"]
    system = Muse.from_pretrained(tiny.weights)
    training, sampling = files_at_work(lambda: cli.main(words)), files_at_work(lambda: system.generate("a harp", n=1))
    assert 8 < len(training) <= 15, sorted(training)
    assert 8 < len(sampling) <= 18, sorted(sampling)


def options(tiny, tmp_path, part, **changes):
    """What the command line hands to `train_part`."""
    settings = TrainConfig(samples=24, batch=8, micro_batch=8, log_every=8, warmup=8)
    settings = dataclasses.replace(settings, **changes)
    folders = {"cache": tiny.cache, "run_folder": tmp_path / "run", "out": tmp_path / "weights"}
    return SimpleNamespace(part=part, preset="smoke", train=settings, init=None, require_gpus=0, **folders)


@pytest.mark.parametrize("part", DATA)
def test_every_part_trains_and_its_weights_load(tiny, tmp_path, part):
    """And the same command again changes nothing."""
    path = command.train_part(options(tiny, tmp_path, part))
    assert path == tmp_path / "weights" / f"{part}.safetensors"
    network, _ = pretrained.load_part(tmp_path / "weights", part)
    ema = Run(tmp_path / "run").load()["ema"]
    for name, value in network.state_dict().items():
        matrix = ema[name].dim() > 1
        if part == "codec" and matrix and name.endswith(".weight"):  # 8 bits for each number of a row
            assert ((value - ema[name]).abs() <= 0.51 / 127 * ema[name].abs().amax(1, keepdim=True)).all(), name
        else:
            assert torch.equal(value, ema[name].half().float() if matrix else ema[name]), name
    summary = json.loads((tmp_path / "weights" / f"{part}.train.json").read_text())
    assert summary["samples"] == 24 and summary["clips"] == 13 and summary["last"]["valid_loss"] > 0
    assert summary["settings"]["batch"] == 8 and "command" in summary["provenance"]
    first = path.read_bytes()
    command.train_part(options(tiny, tmp_path, part))
    assert path.read_bytes() == first and len(Run(tmp_path / "run").metrics()) == 3


def test_a_decoder_trains_alone_and_the_latents_stay(tiny, tmp_path):
    first = command.train_part(options(tiny, tmp_path / "0", "codec", samples=8)).parent
    given = options(tiny, tmp_path / "1", "codec", samples=16, only="decoder.low_blocks")
    given.init = first
    command.train_part(given)
    before, after = (pretrained.load_part(x, "codec")[0].state_dict() for x in (first, given.out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.low_blocks.") for name in changed)
    given = options(tiny, tmp_path / "2", "codec", only="decodr")
    with pytest.raises(MuseError, match="--train.only decodr: no parameter of codec begins so"):
        command.train_part(given)


def test_more_samples_continue_and_what_is_another_run_is_refused(tiny, tmp_path, monkeypatch):
    """Another network, a cache computed by other weights, a folder of weights that another training writes to."""
    given = options(tiny, tmp_path, "stage2")
    path = command.train_part(given)
    first = path.read_bytes()
    given.train = dataclasses.replace(given.train, samples=40)
    command.train_part(given)
    assert [r["samples"] for r in Run(tmp_path / "run").metrics()] == [8, 16, 24, 32, 40]
    assert path.read_bytes() != first
    monkeypatch.setattr(command, "EXPORT_PATIENCE_S", 0.1)
    with exclusive(given.out), pytest.raises(MuseError, match="another run is writing to .*weights"):
        command.train_part(given)
    with pytest.raises(MuseError, match="another configuration"):
        command.train_part(options(tiny, tmp_path, "regression"))
    given.cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    other = pretrained.init_random(tmp_path / "other", tiny.config, seed=1)
    precompute("embeddings", given.cache, tiny.config, other, show=False)
    with pytest.raises(MuseError, match=r"another configuration \(made_by differ"):
        command.train_part(given)


def test_a_run_resumes_without_the_weights_that_it_began_from(tiny, tmp_path):
    """--init and the scale of the data are needed once."""
    first = command.train_part(options(tiny, tmp_path / "0", "stage1", samples=8)).parent
    given = options(tiny, tmp_path / "1", "stage1", samples=16)
    given.init = first
    summary = json.loads((command.train_part(given).parent / "stage1.train.json").read_text())
    assert summary["init"] == first.name and [record["samples"] for record in summary["metrics"]] == [8, 16]
    shutil.rmtree(first)
    given.train = dataclasses.replace(given.train, samples=32)
    command.train_part(given)
    assert Run(given.run_folder).load()["samples"] == 32


REFUSED = [
    ("stage2", {"cache": "nowhere"}, "there is no cache at .*nowhere: give --cache FOLDER"),
    ("stage2", {"preset": "paper"}, "latents has 8 values a frame, and paper wants 64"),
    ("stage2", {"batch": 7, "micro_batch": 3}, "cannot be split over"),
    ("embedder", {"micro_batch": 4}, "split into 2 micro-batches; train in one process"),
    ("stage2", {"lr": math.nan}, "--train.lr cannot be nan .expected"),
    ("stage2", {"ema": math.nan}, "--train.ema cannot be nan"),
    ("stage2", {"clip": -0.1}, "--train.clip cannot be -0.1"),
    ("stage2", {"seed": 2**63}, "--train.seed cannot be 9223372036854775808"),
    ("stage2", {"batch": 10**30}, "--train.batch cannot be 1"),
    ("stage2", {"workers": 100_000}, "--train.workers cannot be 100000"),
]


@pytest.mark.parametrize("part, changes, told", REFUSED)
def test_what_cannot_work_is_refused_before_any_work(tiny, tmp_path, monkeypatch, part, changes, told):
    given = options(tiny, tmp_path, part, **{k: v for k, v in changes.items() if hasattr(TrainConfig, k)})
    vars(given).update({k: v for k, v in changes.items() if not hasattr(TrainConfig, k)})
    monkeypatch.setattr(pretrained, "build", lambda *_: pytest.fail("work began"))
    with pytest.raises(MuseError, match=told):
        command.train_part(given)
    assert not (tmp_path / "run" / "config.json").exists()


def test_ranks_and_gpus_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(MuseError, match=r"a batch of 8 cannot be split over 3 rank\(s\)"):
        command.check("stage2", TrainConfig(batch=8))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(MuseError, match="3 GPUs are required and torch sees 1"):
        distributed.check_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")  # Slurm gave each process its own
    distributed.check_gpus(3)


def test_a_mistake_in_a_launched_command_is_one_line():
    with pytest.raises(MuseError, match="Perhaps you meant: --train.samples"):
        launch(["train", "stage2", "--train.smaples", 3], on_line=lambda line: None)
    with pytest.raises(MuseError, match="1 or more"):
        launch(["train", "stage2"], processes=0)
    with pytest.raises(MuseError, match="number of pieces"):  # torchrun's parser calls --n ambiguous
        launch(["generate", "a harp", "--n", 0], processes=2, on_line=lambda line: None)


def test_the_reason_of_a_failed_run_is_one_line():
    words = ["train", "stage2"]
    lost = "musekit: rank 1 lost another rank; its error is above or below this line"
    log = [lost, "musekit: note: a note", "musekit: cannot write checkpoint x: disk full", "torchrun: rank 1 ended"]
    assert failure(words, 2, log) == "`musekit train stage2` failed with 2: cannot write checkpoint x: disk full"
    trace = ["[rank1]: Traceback (most recent call last):", "[rank1]:   File", "[rank1]: ValueError: odd"]
    assert failure(words, 1, trace) == "`musekit train stage2` failed with 1: ValueError: odd"
