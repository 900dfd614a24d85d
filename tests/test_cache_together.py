"""Clips that a GPU works on together: each keeps its own row, and what cannot be read costs its neighbours nothing."""

import pytest
import torch
from fixtures import write_clips

from musekit.cache import Shards, read_clips
from musekit.cache.makers import batched
from musekit.cache.precompute import compute_rank, each_clip, groups
from musekit.config import mini, paper


def test_neighbours_of_one_shape_go_together():
    long, short = torch.zeros(1, 2, 9), torch.zeros(1, 2, 5)
    found = list(groups(zip("abcdefg", [long, long, long, short, "torn", long, long]), 2))
    assert [ids for ids, _ in found] == [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"]]


def test_each_clip_keeps_its_own_row():
    clips = {i: {"value": float(n), "length": 3 + (n > 4)} for n, i in enumerate("abcdefgh")}
    sizes = []

    def read(clip):
        if clip["value"] == 2:
            raise ValueError("torn")
        return torch.full((2, clip["length"]), clip["value"] if clip["value"] != 6 else torch.nan)

    def function(audio):
        sizes.append(len(audio))
        return audio.mean((1, 2))[:, None, None].expand(-1, audio.shape[2], 4)

    for threads in (0, 3):
        rows, aside = each_clip(clips, read, function, threads, 4)([*clips])
        assert aside == {"c": "ValueError: torn", "g": "the encoder gave no finite numbers"}
        assert rows["x"][:, 0, 0].tolist() == [0, 1, 3, 4, 5, 7] and rows["length"].tolist() == [3] * 4 + [4] * 2
    assert sizes == [2, 2, 3] * 2


@pytest.mark.parametrize("kind", ["spectra", "views", "latents", "embeddings", "transposed"])
def test_together_or_one_by_one_is_the_same_but_for_rounding(tiny, tmp_path, kind):
    """What a GPU does, on the CPU: threads that read, hash and hand over, and batches of three."""
    one, many = tmp_path / "one", tmp_path / "many"
    for folder, threads, size in ((one, 0, 1), (many, 2, 3)):
        write_clips(folder, "rrrrrrr")
        compute_rank(kind, folder, tiny.config, tiny.weights, (0, 1), False, False, threads, size, lambda: 0)
    keys = [clip["id"] for clip in read_clips(one)]
    rows = [Shards(folder / kind).all(keys).float() for folder in (one, many)]
    assert len(keys) == 7 and len({float(row.sum()) for row in rows[0]}) == 7
    torch.testing.assert_close(*rows, rtol=2e-3, atol=2e-3)


def test_what_hears_the_audio_itself_takes_one_clip_at_a_time():
    assert [k for k in ("spectra", "views", "latents", "embeddings", "transposed") if batched(k, mini())] == [
        "spectra", "views", "latents", "embeddings"
    ]  # fmt: skip
    assert not batched("latents", paper()) and not batched("embeddings", paper())
