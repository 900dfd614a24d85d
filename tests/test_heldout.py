"""Embeddings of held-out clips: the file that is written from a cache, and what is refused."""

import shutil

import pytest
import torch

from musekit import heldout, pretrained
from musekit.cache import Shards, read_clips
from musekit.cache.precompute import read_clip
from musekit.config import MuseError
from musekit.encoders import JointEmbedder
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


def test_without_cached_embeddings_they_are_computed_from_the_audio(tiny, weights, tmp_path):
    """They equal the embedder's own ones clip by clip; embeddings of other weights are not used."""
    cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    build_reference(cache, weights)
    with_cache = read_reference(weights).embeddings
    shutil.rmtree(cache / "embeddings")
    build_reference(cache, weights)
    found = read_reference(weights)
    torch.testing.assert_close(found.embeddings, with_cache, atol=2e-3, rtol=0)
    embedder = JointEmbedder(pretrained.load_part(weights, "embedder")[0], encode_text=None)
    record = {c["id"]: c for c in read_clips(cache)}[found.clips[0]["id"]]
    own = embedder.embed_audio(read_clip(cache, record)[None], 44100)[0]
    torch.testing.assert_close(found.embeddings[0], own, atol=2e-3, rtol=0)
    assert heldout.cached_embeddings(tiny.cache, "another embedder's hash", found.clips) is None


def test_missing_damaged_and_foreign_files_are_refused(tiny, weights):
    with pytest.raises(MuseError, match="missing; restore it, or make it"):
        read_reference(weights)
    path = build_reference(tiny.cache, weights)
    whole = path.read_bytes()
    for damaged in (whole[:-40], b"", whole[:200]):
        path.write_bytes(damaged)
        with pytest.raises(MuseError, match="damaged"):
            read_reference(weights)
    path.write_bytes(whole)
    torch.manual_seed(1)
    pretrained.save_part(weights, "embedder", pretrained.build("embedder", tiny.config), tiny.config)
    with pytest.raises(MuseError, match="not made by this folder's embedder"):
        read_reference(weights)


def test_spread_is_the_mean_distance_of_pairs():
    assert spread(torch.tensor([[0.0, 0], [3, 4], [0, 4]])) == pytest.approx((5 + 4 + 3) / 3)
    assert spread(torch.zeros(1, 2)) != spread(torch.zeros(1, 2))
