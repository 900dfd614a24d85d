#!/usr/bin/env bash
# rotary-embedding-torch with xPos and cached keys gives a token other attention than it had in training.
#
# Guess before trying: the last query against the cached keys has the scores that it has in the whole sequence, since
# `rotate_queries_with_cached_keys` is made for that and knows xPos (issue 27 asked for it, and it was added in 0.6.3).
# Seen with rotary-embedding-torch 0.9.1 and torch 2.13.0 (CPU): without xPos the scores are the same. With
# `use_xpos=True` they differ by up to 0.1 at 16 tokens and by up to 7.5 at 1,024, where their own spread is 5.4. xPos
# scales by powers that are counted from the middle of the sequence; keys are counted from the middle of the cache,
# the queries from the middle of the few that are passed. With all queries at once the scores are right.
# A model that was trained with xPos gets worse with each generated token, which looks like a model that cannot go on
# for long. Rotating as many queries as there are keys (zeros before the new one) is the remedy.
# Installs torch: 200 MB (CPU wheel) to several GB (CUDA).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 rotary-embedding-torch==0.9.1 'numpy>=2,<3'
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from rotary_embedding_torch import RotaryEmbedding

torch.set_num_threads(1)
torch.manual_seed(0)


def scores(queries, keys):
    return keys[0, 0] @ queries[0, 0, -1]


for length, most in ((16, 0.5), (128, 4), (1024, 40)):
    queries, keys = torch.randn(2, 1, 1, length, 64)
    plain = RotaryEmbedding(dim=64)
    trained = scores(plain.rotate_queries_or_keys(queries), plain.rotate_queries_or_keys(keys))
    cached = scores(*RotaryEmbedding(dim=64).rotate_queries_with_cached_keys(queries[:, :, -1:], keys))
    assert torch.allclose(trained, cached, atol=1e-3)
    trained = scores(*RotaryEmbedding(dim=64, use_xpos=True).rotate_queries_and_keys(queries, keys))
    cached = scores(*RotaryEmbedding(dim=64, use_xpos=True).rotate_queries_with_cached_keys(queries[:, :, -1:], keys))
    error = (trained - cached).abs().max().item()
    print(f"{length} keys: scores with xPos differ by up to {error:.2f}, their spread is {trained.std():.2f}")
    assert most / 10 < error < most
    padded = torch.cat([torch.zeros_like(queries[:, :, 1:]), queries[:, :, -1:]], 2)
    cached = scores(*RotaryEmbedding(dim=64, use_xpos=True).rotate_queries_with_cached_keys(padded, keys))
    assert torch.allclose(trained, cached, atol=1e-3)
PYTHON
