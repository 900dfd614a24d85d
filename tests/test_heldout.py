"""Embeddings of held-out clips: the file that is written from a cache, and what is refused."""

import shutil

import pytest
import torch

from musekit import pretrained
from musekit.cache import Shards, read_clips
from musekit.config import MuseError
from musekit.heldout import build_reference, read_reference, spread


@pytest.fixture
def weights(tiny, tmp_path):
    return shutil.copytree(tiny.weights, tmp_path / "weights")


def test_held_out_clips_come_back_with_their_embeddings(tiny, weights):
    path = build_reference(tiny.cache, weights)
    found = read_reference(weights)
    held_out = {c["id"]: c for c in read_clips(tiny.cache) if c["split"] != "train"}
    assert {c["id"] for c in found.clips} == set(held_out) and len(held_out) == 3
    assert path.stat().st_size < 20_000
    torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(3))
    shards = Shards(tiny.cache / "embeddings")
    for row, clip in zip(found.embeddings, found.clips):
        torch.testing.assert_close(row, shards.row(clip["id"])[0].float(), atol=2e-3, rtol=0)
        assert clip["captions"] == held_out[clip["id"]]["captions"] and "path" not in clip
    assert found.matching({}) == [0, 1, 2]
    rows = found.matching({"instrument": found.clips[1]["instrumentation"]})
    assert 1 in rows and all(found.clips[i]["instrumentation"] == found.clips[1]["instrumentation"] for i in rows)
    assert found.matching({"instrument": "bagpipe"}) == []


def test_missing_damaged_and_foreign_files_are_refused(tiny, weights):
    with pytest.raises(MuseError, match="missing; restore it, or make it"):
        read_reference(weights)
    path = build_reference(tiny.cache, weights)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(MuseError, match="damaged"):
        read_reference(weights)
    path.write_bytes(whole)
    torch.manual_seed(1)
    pretrained.save_part(weights, "embedder", pretrained.build("embedder", tiny.config), tiny.config)
    with pytest.raises(MuseError, match="not made by this folder's embedder"):
        read_reference(weights)
    with pytest.raises(MuseError, match="lacks embeddings by .*; make them: musekit cache --kinds embeddings"):
        build_reference(tiny.cache, weights)


def test_spread_is_the_mean_distance_of_pairs():
    assert spread(torch.tensor([[0.0, 0], [3, 4], [0, 4]])) == pytest.approx((5 + 4 + 3) / 3)
    assert spread(torch.zeros(1, 2)) != spread(torch.zeros(1, 2))
