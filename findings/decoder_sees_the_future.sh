#!/usr/bin/env bash
# Three options of x-transformers' Decoder let each token see the tokens after it, and the padding behind it.
#
# Guess before trying: a Decoder is causal with every option that it accepts: what comes later cannot change the output
# of an earlier position.
# Seen with x-transformers 2.31.10 and torch 2.13.0 (CPU): with `attn_orthog_projected_values`,
# `attn_orthog_projected_values_per_head` or `orthog_residual` it can. They share a helper which takes the part of one
# tensor that is orthogonal to another. It flattens all but the batch first, so the projection is on one vector made of
# the whole sequence instead of one for each token (and each head). Without these options the change is exactly 0.
# The training loss is then measured by a model that has a glimpse of its targets, generation has no such
# glimpse, and with a mask the outputs still depend on what the padding is.
# Installs torch: 200 MB (CPU wheel) to several GB (CUDA).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 x-transformers==2.31.10 'numpy>=2,<3'
"$folder/venv/bin/python" -W ignore - 2> /dev/null <<'PYTHON'
import torch
from x_transformers import Decoder, TransformerWrapper

tokens = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(1))
other = tokens.clone()
other[:, 12:] = (tokens[:, 12:] + 7) % 50  # differs from position 12 on
mask = torch.arange(20).expand(2, 20) < 12  # of which 12 are real, the rest is padding


def change(**options):
    """How much the outputs at positions 0 to 11 move when tokens 12 to 19 do, without and with a mask."""
    torch.manual_seed(0)
    layers = Decoder(dim=64, depth=2, heads=4, attn_dim_head=16, **options)
    model = TransformerWrapper(num_tokens=50, max_seq_len=64, attn_layers=layers).eval()
    with torch.no_grad():
        return [float((model(tokens, mask=m) - model(other, mask=m))[:, :12].abs().max()) for m in (None, mask)]


assert change() == [0, 0]
for option in ("attn_orthog_projected_values", "attn_orthog_projected_values_per_head", "orthog_residual"):
    plain, masked = change(**{option: True})
    print(f"{option}: earlier outputs change by {plain:.4f}, behind a mask by {masked:.4f}")
    assert plain > 0.005 and masked > 0.005
print("without these options: 0")
PYTHON
