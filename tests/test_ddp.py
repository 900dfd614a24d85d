"""Several ranks are one process: gradients, weights, draws and validation, over real processes and gloo."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from musekit import results
from musekit.runs import Run

CASES = {"1 rank": (1, 8), "2 ranks": (2, 4), "4 ranks": (4, 2), "2 ranks x 2 steps": (2, 2)}  # world, micro-batch
STEPS, BATCH = 20, 8


@pytest.fixture(scope="module")
def trained(ranks, tiny, tmp_path_factory):
    """Each case trained in float64 with SGD: {case: [(tensors, told) of each rank]}."""
    found = {}
    for number, (name, (world, micro_batch)) in enumerate(CASES.items()):
        folder = tmp_path_factory.mktemp(f"case{number}")
        job = {"task": "equivalence", "cache": str(tiny.cache), "folder": str(folder), "micro_batch": micro_batch}
        ranks.run(world, {**job, "steps": STEPS, "batch": BATCH}, folder / "log")
        found[name] = [
            (load_file(folder / f"rank{r}.safetensors"), json.loads((folder / f"rank{r}.json").read_text()))
            for r in range(world)
        ]
    return found


@pytest.mark.parametrize("case", [name for name in CASES if name != "1 rank"])
def test_gradients_and_weights_after_20_steps_are_those_of_one_process(trained, case):
    """Exact algebra, so exact to rounding: 1e-10 in float64, where clipping and EMA took part."""
    (one, told) = trained["1 rank"][0]
    assert max(told["norms"]) > 0.5  # some steps were clipped
    for tensors, also in trained[case]:
        for name, value in tensors.items():
            torch.testing.assert_close(value, one[name], atol=1e-10, rtol=0, msg=name)
        assert also["losses"] == pytest.approx(told["losses"], abs=1e-10)
        assert also["norms"] == pytest.approx(told["norms"], abs=1e-10)
    assert {"gradients.0", "ema.proj_out.weight", "weights.proj_out.weight"} <= trained[case][0][0].keys()
    moved = one["weights.proj_out.weight"] - one["ema.proj_out.weight"]
    assert moved.abs().max() > 1e-4 and one["gradients.0"].abs().max() > 1e-6  # the comparison has something to compare


def test_all_ranks_end_with_the_same_bits(trained):
    for found in trained.values():
        for tensors, told in found[1:]:
            assert told["losses"] == found[0][1]["losses"]
            assert all(torch.equal(value, found[0][0][name]) for name, value in tensors.items())


def test_the_sequence_of_samples_and_draws_is_the_same(trained):
    """Indices, crops, noise, times and dropout: every rank's share of each batch, in order, is the one rank's batch."""
    whole = trained["1 rank"][0][1]["drawn"]
    assert len(whole) == STEPS * BATCH == len(set(whole))
    for case, (world, _) in CASES.items():
        share = BATCH // world
        shares = [told["drawn"] for _, told in trained[case]]
        joined = [d for step in range(STEPS) for drawn in shares for d in drawn[step * share : (step + 1) * share]]
        assert joined == whole, case


def test_validation_is_the_same_to_the_bit_at_any_world_size_and_micro_batch(ranks, tiny, tmp_path):
    told = []
    for world, micro_batch in ((1, 16), (1, 1), (2, 3)):
        folder = tmp_path / f"{world}-{micro_batch}"
        folder.mkdir()
        job = {"task": "validation", "cache": str(tiny.cache), "folder": str(folder), "micro_batch": micro_batch}
        ranks.run(world, job, folder / "log")
        told += [json.loads((folder / f"rank{r}.json").read_text()) for r in range(world)]
    assert all(other == told[0] for other in told[1:])
    assert told[0].keys() == {"codec", "embedder", "stage1", "regression", "stage2"}


def train_words(tiny, folder: Path, samples: int, batch: int, *more: str) -> list[str]:
    """`musekit train stage2` of the smoke preset."""
    words = ["train", "stage2", "--preset", "smoke", "--cache", str(tiny.cache), "--run-folder", str(folder)]
    sizes = {"samples": samples, "batch": batch, "micro-batch": batch, "log-every": batch, "warmup": 8 * batch}
    for name, value in sizes.items():
        words += [f"--train.{name}", str(value)]
    return [*words, *more]


@pytest.mark.long
def test_curves_in_bf16_with_adamw_are_reported(ranks, tiny, tmp_path):
    """What users train with is not exact: how far the curves part is measured, and written to results/ddp.json."""
    rows, curves = [], {}
    for number, (name, (world, micro_batch)) in enumerate(CASES.items()):
        folder = tmp_path / f"{number}"
        ranks.run(
            world,
            train_words(tiny, folder, 3200, 8, "--train.micro-batch", str(micro_batch)),
            folder.with_suffix(".log"),
            timeout=600,
        )
        curves[name] = [r["loss"] for r in Run(folder).metrics()]
    one = torch.tensor(curves["1 rank"])
    for name, curve in curves.items():
        apart = (torch.tensor(curve) - one).abs()
        smooth = [sum(curve[i : i + 20]) / 20 for i in range(0, len(curve), 20)]
        row = {"case": name, "steps": len(curve), "largest_difference": float(apart.max()), "loss": smooth}
        rows.append(row | {"mean_difference": float(apart.mean()), "last_loss": smooth[-1]})
        assert len(curve) == 400 and smooth[-1] == pytest.approx(sum(curves["1 rank"][-20:]) / 20, rel=0.02)
    results.write_result(
        "ddp", rows, preset="smoke", what="stage2, bf16 autocast, AdamW, batch 8, loss as means of 20 steps"
    )
