"""The estimate: its arithmetic, its file, and that each rate comes from the cache's own code."""

import pytest

from musekit import cli
from musekit.cache import estimate
from musekit.config import paper, smoke
from musekit.results import read_result


def test_totals_are_rows_times_rates():
    """Music4All in the paper's shapes: 109,269 x 646 frames x 64 channels x 2 bytes = 9.04 GB."""
    measured = [
        {"kind": "tokens", "seconds": 0.01, "bytes": 2 * 128 * 768},
        {"kind": "reading", "data": "Music4All", "seconds": 9.0, "bytes": 0},  # part of the kinds' own times
        {"kind": "latents", "data": "Music4All", "seconds": 0.5, "bytes": 2 * 646 * 64},
        {"kind": "latents", "data": "MusicBench", "seconds": 0.2, "bytes": 2 * 216 * 64},
    ]
    told = {(r["data"], r["kind"]): r for r in estimate.totals(measured)}
    latents, tokens, whole = (told["Music4All", kind] for kind in ("latents", "tokens", "all"))
    assert latents["hours"] == pytest.approx(109_269 * 0.5 / 3600) and latents["gigabytes"] == pytest.approx(
        9.04, abs=0.01
    )
    assert latents["files"] == 2 * 1708 + 1  # shards of 64 rows and their sidecars, a manifest
    assert tokens["rows"] == 3 * 109_269 and tokens["gigabytes"] == pytest.approx(64.4, abs=0.1)
    assert (
        whole["hours"] == pytest.approx(latents["hours"] + tokens["hours"])
        and whole["files"] == latents["files"] + tokens["files"]
    )
    assert told["MusicBench", "latents"]["rows"] == 53_168 and set(told) == {
        (d, k) for d in estimate.DATA_SETS for k in ("tokens", "latents", "all")
    }


def test_only_what_a_preset_has_is_measured():
    """MuQ-MuLan and Oobleck hear the audio itself: no spectra, no views, and nothing in other keys."""
    assert estimate.kinds_of(paper()) == ["latents", "embeddings"]
    assert set(estimate.kinds_of(smoke())) == {"spectra", "views", "latents", "embeddings", "transposed"}


def test_the_command_measures_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "BUDGET", 0.0)
    small = {"clips": 100, "seconds": 2.0, "captions": 3}
    monkeypatch.setattr(estimate, "DATA_SETS", {"A": {**small, "format": "wav"}, "B": {**small, "format": "mp3"}})
    cli.main(["cache", "--preset", "smoke", "--estimate", "--results", str(tmp_path)])
    out = capsys.readouterr().out
    assert "estimate for the preset smoke" in out and "an upper bound" in out
    result = read_result("cache-estimate-smoke", tmp_path)
    assert result["provenance"]["estimate"] is True and result["provenance"]["hardware"]
    assert result["provenance"]["load"] >= 0  # what else ran meanwhile slows what is measured
    measured = {(r["kind"], r.get("data")): r for r in result["rows"] if r["measure"] == "rate"}
    kinds = ("reading", "spectra", "views", "latents", "embeddings", "transposed")
    assert set(measured) == {("tokens", None), *((kind, data) for kind in kinds for data in "AB")}
    assert all(r["seconds"] > 0 for r in measured.values())
    config = smoke()
    row = 2 * 44 * config.codec.latent_dim  # 2 s: 44 frames in half precision; the rest is headers and sidecars
    assert row < measured["latents", "A"]["bytes"] < row + 1500
    assert (
        measured["embeddings", "A"]["bytes"]
        < measured["latents", "A"]["bytes"] + 1024
        < measured["spectra", "A"]["bytes"]
    )
