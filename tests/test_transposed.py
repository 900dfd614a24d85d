"""Embeddings of the clips in ten other keys: their values, and which of them Stage 1 learns from."""

import shutil
from collections import Counter

import pytest
import torch

from musekit import flow, pretrained
from musekit.cache import Shards, read_clips
from musekit.cache.precompute import precompute
from musekit.config import MuseError, smoke
from musekit.encoders import SHIFTS
from musekit.train.data import Stage1Data

HALF = 2e-3  # rows are stored in half precision


def shifted(view: torch.Tensor, bands: int, semitones: int) -> torch.Tensor:
    """A view (T, D) in another key, band by band: two to a semitone, silence where none comes from; attacks stay."""
    moved = view.clone()
    for band in range(bands):
        source = band - 2 * semitones
        moved[:, band] = view[:, source] if 0 <= source < bands else 0
    return moved


@pytest.fixture(scope="module")
def rows(tiny) -> dict[str, torch.Tensor]:
    """{clip: the audio tower of its view in each key, one by one (10, 512)}."""
    network, _ = pretrained.load_part(tiny.weights, "embedder")
    views, bands, found = Shards(tiny.cache / "views"), tiny.config.embedder.bands, {}
    with torch.inference_mode():
        for clip in read_clips(tiny.cache):
            view = views.row(clip["id"], stop=views.row_length(clip["id"])).float()
            found[clip["id"]] = torch.cat([network.audio_tower(shifted(view, bands, s)[None]) for s in SHIFTS])
    return found


def test_a_row_is_the_audio_tower_of_the_transposed_view(tiny, rows):
    shards, own = Shards(tiny.cache / "transposed"), Shards(tiny.cache / "embeddings")
    assert sorted(SHIFTS) == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
    for key, expected in rows.items():
        row = shards.row(key).float()
        assert row.shape == (10, 512) and shards.row_length(key) == 10
        torch.testing.assert_close(row, expected, atol=2 * HALF, rtol=0)
        distance = (row - own.row(key).float()).abs().amax(dim=1)
        assert distance.min() > 5 * HALF  # each key has another embedding


def test_all_keys_are_drawn_equally_and_a_caption_that_names_one_keeps_the_clips_own(tiny, rows):
    dataset, index = Stage1Data(tiny.cache, "train", tiny.config), 4
    clip, n = dataset.clips[index], 1100
    free, named = (next(c for c in clip["captions"] if ("key" in c["asks"]) == key) for key in (False, True))
    keys = torch.cat([dataset.embeddings[index][None], rows[clip["id"]]])  # its own, then the ten others

    def drawn(caption: dict, counter: int) -> int:
        distance = (keys - dataset.x_1(index, caption, flow.Draws(0, counter))).abs().amax(dim=1)
        assert distance.min() < 2 * HALF < distance.sort()[0][1]
        return int(distance.argmin())

    found = Counter(drawn(free, counter) for counter in range(n))
    assert set(found) == set(range(11))
    assert all(abs(times - n / 11) < 5 * (n / 11) ** 0.5 for times in found.values())
    assert {drawn(named, counter) for counter in range(50)} == {0}
    samples = [dataset.sample(index, flow.Draws(0, counter), flow.Draws(0, 0)) for counter in range(100)]
    assert len({tuple(s["x_1"].tolist()) for s in samples}) == 11  # and so it reaches training


def test_a_held_out_clip_keeps_its_key_and_a_cache_without_the_kind_has_the_clips_own(tiny, tmp_path):
    valid = Stage1Data(tiny.cache, "valid", tiny.config)
    for counter in range(30):
        sample = valid.sample(0, flow.Draws(0, counter), flow.Draws(0, 0))
        assert torch.equal(sample["x_1"], valid.embeddings[0])
    for name in ("clips.jsonl", "clips", "tokens", "embeddings"):
        (tmp_path / name).symlink_to(tiny.cache / name)
    plain = Stage1Data(tmp_path, "train", tiny.config)
    sample = plain.sample(2, flow.Draws(0, 5), flow.Draws(0, 0))
    assert torch.equal(sample["x_1"], plain.embeddings[2])


def test_another_embedders_rows_are_refused(tiny, tmp_path):
    cache, weights = shutil.copytree(tiny.cache, tmp_path / "cache"), tmp_path / "weights"
    torch.manual_seed(1)
    pretrained.save_part(weights, "embedder", pretrained.build("embedder", smoke()), smoke())
    precompute("transposed", cache, smoke(), weights, show=False)
    with pytest.raises(MuseError, match="different embedders; .*--kinds embeddings transposed --remake"):
        Stage1Data(cache, "train", smoke())
    precompute("embeddings", cache, smoke(), weights, show=False)
    assert len(Stage1Data(cache, "train", smoke()))
