#!/usr/bin/env bash
# vector-quantize-pytorch with affine_param: decoding the indices does not give the vectors that the quantizer gave.
#
# Guess before trying: in eval mode `get_output_from_indices(indices)` equals the quantized output, as it does with
# cosine similarity, projections, a learnable codebook, the rotation trick and a codebook for each head.
# Seen with vector-quantize-pytorch 1.32.0 and torch 2.13.0 (CPU): with `affine_param=True` the quantizer moves and
# scales its codebook to the mean and the spread of the data before it looks for the nearest code, and gives the moved
# code. Decoding reads the codebook as it is stored. For data around 5 the quantized vectors are around 5, the decoded
# ones around 0, without an error. ResidualVQ passes the option on and has the same gap.
# A codec or a language model on tokens is trained with one set of vectors and plays another. The right vectors come
# from the means and variances that the module keeps: (code - codebook mean) * (batch spread / codebook spread) + batch
# mean.
# Installs torch: 200 MB (CPU wheel) to several GB (CUDA).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 vector-quantize-pytorch==1.32.0 \
    'numpy>=2,<3'
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from vector_quantize_pytorch import ResidualVQ, VectorQuantize

torch.set_num_threads(1)


def quantizer(make, **options):
    """A quantizer that has seen some training batches of data around 5, with what it makes of one more."""
    torch.manual_seed(0)
    layer = make(dim=16, codebook_size=32, **options)
    for _ in range(100):
        layer(5 + torch.randn(4, 64, 16))
    layer.eval()
    with torch.no_grad():
        quantized, indices, _ = layer(5 + torch.randn(4, 64, 16))
        return layer, quantized, layer.get_output_from_indices(indices)


for name, make, options in (("VectorQuantize", VectorQuantize, {}), ("ResidualVQ", ResidualVQ, {"num_quantizers": 2})):
    _, quantized, decoded = quantizer(make, **options)
    assert torch.allclose(quantized, decoded, atol=1e-5)
    layer, quantized, decoded = quantizer(make, affine_param=True, **options)
    error = (quantized - decoded).abs().mean().item()
    print(f"{name} with affine_param: mean {quantized.mean():.2f} quantized, {decoded.mean():.2f} decoded, "
          f"mean difference {error:.2f}")
    assert error > 0.3
    if make is VectorQuantize:
        book = layer._codebook
        spread = (book.batch_variance.clamp(min=1e-5) / book.codebook_variance.clamp(min=1e-5)).sqrt()
        moved = (decoded - book.codebook_mean) * spread + book.batch_mean
        assert torch.allclose(quantized, moved, atol=1e-4)
        print("moved by hand:", (quantized - moved).abs().max().item())
PYTHON
