"""Several ranks are one process: gradients, weights, draws and validation, over real processes and gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import free_ports
from safetensors.torch import load_file

from musekit import results
from musekit.runs import Run
from musekit.train.data import DATA

CASES = {"1 rank": (1, 8), "2 ranks": (2, 4), "4 ranks": (4, 2), "2 ranks x 2 steps": (2, 2)}  # world, micro-batch
PARTS = {  # each rank holds a part of the weights: of all ranks', or of those of its machine
    "2 ranks x 2 steps with parts": (2, 2, {"shard": True}),
    "2 x 2 ranks with parts": (4, 2, {"shard": True, "machines": 2}),
}


def trained(ranks, tiny, folder: Path, world: int, micro_batch: int, more: dict | None = None) -> list:
    """Tensors and metrics of each rank, trained in float64 with SGD."""
    folder.mkdir()
    job = {"task": "equivalence", "cache": str(tiny.cache), "folder": str(folder), "micro_batch": micro_batch}
    ranks.run(world, job | (more or {}), folder / "log")
    files = [folder / f"rank{r}" for r in range(world)]
    return [(load_file(f"{file}.safetensors"), json.loads(Path(f"{file}.json").read_text())) for file in files]


@pytest.fixture(scope="module")
def single(ranks, tiny, tmp_path_factory):
    """The tensors and metrics of a single rank."""
    return trained(ranks, tiny, tmp_path_factory.mktemp("single") / "run", *CASES["1 rank"])[0]


LONG = [pytest.param(case, marks=pytest.mark.long) for case in ("4 ranks", "2 x 2 ranks with parts")]


@pytest.mark.parametrize("case", ["2 ranks x 2 steps", "2 ranks x 2 steps with parts", *LONG])
def test_several_ranks_are_one(ranks, tiny, single, tmp_path, case):
    """20 steps with clipping, a moving average and dropout: exact algebra, so 1e-10 in float64. All ranks end with the
    same bits, and validation is the same to the bit on any number of ranks."""
    (one, metrics), found = single, trained(ranks, tiny, tmp_path / "run", *(CASES | PARTS)[case])
    assert max(metrics["norms"]) > 0.5  # some steps were clipped
    for tensors, also in found:
        for name, value in tensors.items():
            torch.testing.assert_close(value, one[name], atol=1e-10, rtol=0, msg=name)
            assert name not in found[-1][0] or torch.equal(value, found[-1][0][name])
        assert also["losses"] == found[0][1]["losses"] == pytest.approx(metrics["losses"], abs=1e-10)
        assert also["norms"] == pytest.approx(metrics["norms"], abs=1e-10)
        assert also["validation"] == metrics["validation"]
    assert {"gradients.0", "ema.proj_out.weight", "weights.proj_out.weight"} <= found[0][0].keys()
    moved = one["weights.proj_out.weight"] - one["ema.proj_out.weight"]
    assert moved.abs().max() > 1e-4 and one["gradients.0"].abs().max() > 1e-6  # there is something to compare
    assert len(metrics["losses"]) == 20 and metrics["validation"].keys() == DATA.keys()


def test_a_run_goes_on_with_other_ranks_and_with_parts_of_the_weights(ranks, tiny, single, tmp_path):
    """Stopped on 2 ranks with parts, then on 1, ended on 2 with whole weights: as a single rank without a stop."""
    job = {"task": "equivalence", "cache": str(tiny.cache), "folder": str(tmp_path), "micro_batch": 4}
    ranks.run(2, job | {"shard": True, "steps": 7}, tmp_path / "log")
    ranks.run(1, job | {"steps": 6}, tmp_path / "log")
    assert Run(tmp_path).load()["samples"] == 13 * 8
    ranks.run(2, job, tmp_path / "log")
    for name, value in load_file(tmp_path / "rank0.safetensors").items():
        torch.testing.assert_close(value, single[0][name], atol=1e-10, rtol=0, msg=name)


ENDING = """
import sys
from pathlib import Path
import torch
from torch import nn
from musekit import distributed

class Network(nn.Linear):
    def training_loss(self, x):
        return self(x).sum()

def work(how):
    with distributed.process_group():
        kept.append(distributed.wrap(Network(2, 2)))
        kept[0](torch.ones(1, 2)).backward()
        if how == "stopped":
            raise distributed.Stopped(75)

code, kept = 0, []
try:
    work(sys.argv[1])
except SystemExit as end:
    code = end.code
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
sys.exit(code if "pt_gloo_runloop\\n" not in threads else 99)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("how, code", [("done", 0), ("stopped", 75)])
def test_gloos_threads_end_with_the_process_group(how, code):
    """In new interpreters, with a network that lives on. A thread that also does can abort a rank while Python ends."""
    place = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    words = [sys.executable, "-c", ENDING, how]
    both = [subprocess.Popen(words, env=place | {"RANK": str(rank)}, stderr=subprocess.DEVNULL) for rank in (0, 1)]
    assert [process.wait(120) for process in both] == [code, code]


def train_words(tiny, folder: Path, samples: int, batch: int, *more: str) -> list[str]:
    """`musekit train stage2` of the smoke preset."""
    words = ["train", "stage2", "--preset", "smoke", "--cache", str(tiny.cache), "--run-folder", str(folder)]
    sizes = {"samples": samples, "batch": batch, "micro-batch": batch, "log-every": batch, "warmup": 8 * batch}
    for name, value in sizes.items():
        words += [f"--train.{name}", str(value)]
    return [*words, *more]


@pytest.mark.long
def test_curves_in_bf16_with_adamw_are_reported(results_folder, ranks, tiny, tmp_path):
    """What users train with is not exact: how far the curves part is measured, and written to ddp.json."""
    rows, curves = [], {}
    for number, (name, (world, micro_batch)) in enumerate(CASES.items()):
        folder = tmp_path / f"{number}"
        words = train_words(tiny, folder, 3200, 8, "--train.micro-batch", str(micro_batch))
        ranks.run(world, words, folder.with_suffix(".log"), timeout=600)
        curves[name] = [r["loss"] for r in Run(folder).metrics()]
    one = torch.tensor(curves["1 rank"])
    for name, curve in curves.items():
        apart = (torch.tensor(curve) - one).abs()
        smooth = [sum(curve[i : i + 20]) / 20 for i in range(0, len(curve), 20)]
        row = {"case": name, "steps": len(curve), "largest_difference": float(apart.max()), "loss": smooth}
        rows.append(row | {"mean_difference": float(apart.mean()), "last_loss": smooth[-1]})
        assert len(curve) == 400 and smooth[-1] == pytest.approx(sum(curves["1 rank"][-20:]) / 20, rel=0.02)
    what = "stage2, bf16 autocast where the CPU has units for it, AdamW, batch 8, loss as means of 20 steps"
    results.write_result("ddp", rows, results_folder, preset="smoke", what=what)
