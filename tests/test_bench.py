"""The bench: its hand count against torch's own, and its result file."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from musekit import bench
from musekit.config import MuseError, mini, smoke
from musekit.stage2 import StableAudioMuQ


@pytest.mark.parametrize("config", [mini().stage2, smoke().stage2], ids=["mini", "smoke"])
@pytest.mark.parametrize("rows, frames", [(2, 43), (1, 258)])
def test_stage_2s_work_counted_by_hand_is_what_torch_counts(config, rows, frames):
    with torch.device("meta"):
        network = StableAudioMuQ(config)
        held = network.condition(torch.zeros(rows, config.embedding_dim), torch.zeros(rows, 2))
        x, t = torch.zeros(rows, config.latent_dim, frames), torch.zeros(rows)
    with FlopCounterMode(display=False) as counter:
        network(x, t, held)
    assert bench.stage2_flops(config, rows, frames) == counter.get_total_flops()


def test_a_row_is_a_median_with_its_range_and_its_bar():
    row = bench.row("speed", [3.0, 1.0, 2.0], "x", "so", (">", 1.5))
    assert (row["value"], row["least"], row["most"], row["runs"]) == (2.0, 1.0, 3.0, 3)
    assert (row["bar"], row["met"]) == ("> 1.5", True)
    assert bench.row("time", [31.0], "s", "so", ("<", 30))["met"] is False


def test_the_bench_writes_every_measurement_with_provenance(smoke_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "RUNS", 1)
    monkeypatch.setattr(bench, "BATCHES", (1, 4))
    rows = bench.bench(str(smoke_weights), tmp_path / "results", seconds=0.5)
    content = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert content["rows"] == rows and content["name"] == "bench"
    assert len({tuple(row) for row in rows}) == 1  # one schema: a table can be made of it
    assert {"hardware", "versions", "command", "load", "weights", "dtype"} <= content["provenance"].keys()
    assert "smoke" in content["provenance"]["note"]
    by_name = {row["what"]: row["value"] for row in rows}
    wall = by_name["4 x 0.5 s, warm: wall time"]
    parts = sum(by_name[f"4 x 0.5 s, warm: {stage}"] for stage in bench.STAGES)
    assert 0.7 * wall < parts <= 1.01 * wall  # the parts are the whole
    assert by_name["4 x 0.5 s, warm: sound a second of work"] == pytest.approx(2 / wall)
    assert all(value > 0 for value in by_name.values())
    assert "first sound" in capsys.readouterr().out


def test_a_failing_command_is_told(monkeypatch):
    monkeypatch.setattr(bench, "RUNS", 1)
    with pytest.raises(MuseError, match="exit code 2"):
        bench.cold("no-such-weights", 0.5)
