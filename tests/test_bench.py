"""The bench: counts are torch's own, result files say what was measured."""

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from musekit import bench
from musekit.bench import end_to_end, measure, networks, roofline
from musekit.bench.measure import Recorded, Work, frame
from musekit.bench.roofline import stage1_work, stage2_flops, stage2_work
from musekit.bench.train import training_flops
from musekit.config import MuseError, paper
from musekit.results import write_result
from musekit.stage1 import GuidedStage1, Stage1Inference
from musekit.stage2 import StableAudioMuQ

STABLE = networks.stage2_config("50M", quick=True)


def counted(call) -> int:
    """Operations by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("merge", [False, True])
def test_stage_1s_work_counted_by_hand_is_what_torch_counts(merge):
    config, batch, tokens = networks.stage1_config(quick=True), 3, 5
    network = networks.stage1(config).double()  # in float64 every product is one that the counter knows
    fast = Stage1Inference(network)
    said, mask = networks.prompt(config, batch, tokens)
    text = fast.text(said.double(), mask, merge=merge)
    velocity, x = GuidedStage1(fast, text, 3.0), torch.randn(batch, config.dim, dtype=torch.float64)
    moment = velocity.at(torch.tensor([0.5], dtype=torch.float64))[0]
    work = stage1_work(config, batch, tokens, torch.float32, merge)
    attention = 0 if merge else config.depth * batch * 4 * tokens * config.width  # a fused kernel is not counted
    assert work.flops == counted(lambda: velocity(moment, x)) + attention


def test_training_flops_are_three_times_those_of_the_forward_pass():
    network = networks.stage2(STABLE)
    batch = networks.training_batch(STABLE, 2, torch.device("cpu"), 16)
    forward = stage2_flops(STABLE, 2, batch["x_1"].shape[-1])
    condition = counted(lambda: network.condition(batch["embedding"], batch["seconds"]))
    assert training_flops(network, batch) == 3 * (forward + condition)


def test_the_full_sizes_are_the_published_ones():
    assert networks.stage1_config() == dataclasses.replace(paper().stage1, gaussian_rank=0)
    for size, many in (("50M", 50e6), ("271M", 271e6), ("500M", 500e6), ("1.05B", 1.05e9)):
        for config, of in (
            (networks.stage1_config(size), networks.Text2MuQFlow),
            (networks.stage2_config(size), StableAudioMuQ),
        ):
            with torch.device("meta"):
                count = networks.parameters(of(config))
            if of is networks.Text2MuQFlow:  # the original also counts query and key of a self-attention over one token
                count += config.depth * 2 * (config.width**2 + config.width)
            assert count == pytest.approx(many, rel=0.04), (size, of)
    assert networks.stage2_config() == paper().stage2
    floor = stage1_work(networks.stage1_config(), 1, 16, torch.bfloat16, False).bytes / 2
    assert floor == pytest.approx(185e6, rel=0.02)  # the numbers that a step of Stage 1 cannot but read


def test_the_floor_is_the_higher_of_both_roofs():
    ceilings = {"bandwidth": 10.0, "float32": 100.0}
    assert Work(flops=1000, bytes=1).floor(ceilings, torch.float32) == 10
    assert Work(flops=1, bytes=100).floor(ceilings, torch.float32) == 10
    assert set(roofline.ceilings(quick=True)) == {"bandwidth", "read", "triad", "float32", "bfloat16"}
    assert stage2_work(STABLE, 1, 16, torch.bfloat16).bytes < 2 * networks.parameters(networks.stage2(STABLE))


def test_recorded_rows_name_their_machine_and_missing_ones_their_command(tmp_path):
    missing = Recorded("sizes", tmp_path, gpu=True)
    assert not missing and missing.rows == []
    assert "NOT MEASURED" in missing.notice and "bench-sizes-gpu.json" in missing.notice
    rows = [{"stage": 1, "batch": 2}, {"stage": 2, "batch": 2}]
    write_result("bench-sizes", rows, tmp_path, load=0.0, ceilings={"bandwidth": 1.0}, note="quick: no speeds")
    found = Recorded("sizes", tmp_path)
    assert found and found.rows == rows and found.where(stage=2) == rows[1:] and found.ceilings == {"bandwidth": 1.0}
    assert "RECORDED by `musekit bench sizes`" in found.notice
    assert "no speeds" in found.notice and "no speeds" in found.stamp
    assert frame([]) is None and list(frame(rows)["stage"]) == [1, 2]


def test_an_unknown_bench_is_told_with_the_nearest_one(tmp_path):
    with pytest.raises(MuseError, match="did you mean 'stage1'"):
        bench.bench("stage-1", None, tmp_path)


SLOW = ("end-to-end", "ddp", "sizes", "paper", "lab")  # processes of their own, many networks


@pytest.mark.parametrize("what", [pytest.param(n, marks=[pytest.mark.long] * (n in SLOW)) for n in bench.BENCHES])
def test_every_bench_runs_quickly_and_marks_its_numbers(what, smoke_weights, tmp_path, capsys):
    rows = bench.bench(what, str(smoke_weights) if what in bench.READS_WEIGHTS else None, tmp_path, quick=True)
    content = json.loads((tmp_path / f"{measure.file_name(what, gpu=False)}.json").read_text())
    assert content["rows"] == rows and "no speeds" in content["provenance"]["note"]
    assert {"hardware", "versions", "command", "load", "device", "threads", "code"} <= content["provenance"].keys()
    assert all({"steps", "nfe", "dtype", "instructions", "load"} <= row.keys() for row in rows)
    assert len(capsys.readouterr().out.splitlines()) >= len(rows) + 1
    if "peer" in rows[0]:
        assert set(content["provenance"]["ceilings"]) == {"bandwidth", "read", "triad", "float32", "bfloat16"}
        assert all(row["steps"] and row["dtype"] and row["backend"] for row in rows)
        assert all(row["least"] <= row["seconds"] <= row["most"] for row in rows)
        assert any(row["floor_share"] for row in rows)
    if what == "end-to-end":
        assert len({tuple(row) for row in rows}) == 1  # one schema, so the rows make a table
        by_name = {row["what"]: row["value"] for row in rows}
        parts = sum(by_name[f"4 x 0.5 s, warm: {stage}"] for stage in end_to_end.STAGES)
        assert 0.7 < parts / by_name["4 x 0.5 s, warm: wall time"] <= 1.01  # the parts are the whole
    if what == "full":
        (row,) = rows
        assert sum(row[f"{part}_seconds"] for part in end_to_end.PARTS) == pytest.approx(row["value"])
        assert row["real_time"] == pytest.approx(row["batch"] * row["seconds_each"] / row["value"])
    if what == "train":  # recomputed activations are no work of the model's
        rate = content["provenance"]["ceilings"]["bfloat16"]
        assert [(r["stage"], r["recompute"]) for r in rows] == [(1, False), (1, False), (2, False), (2, True)]
        assert rows[2]["flops"] == rows[3]["flops"] > 0
        assert all(row["mfu"] == pytest.approx(row["flops"] / row["value"] / rate) for row in rows)
    if what == "ddp":
        assert [(row["ranks"], row["batch"], row["scaling"]) for row in rows] == [
            (1, 4, "weak"), (2, 8, "weak"), (2, 4, "strong")
        ]  # fmt: skip
        assert rows[0]["efficiency"] == 1 and rows[0]["sum_seconds"] == rows[0]["share"] == 0 < rows[1]["share"] < 1
        assert rows[2]["predicted"] == pytest.approx(rows[0]["seconds"] / 2 + rows[2]["sum_seconds"])
