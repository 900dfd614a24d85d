"""Stage 1's blocks for one guided sample on a GPU: five Triton kernels per block in the place of about twelve.

With two rows, conditional and unconditional, a block only reads its matrices once, and the time of so many small
kernels is their number. Each kernel computes two rows of a product in float32, with the layer norm before it and what
follows it (softmax of a head, GELU, gate and residual). It is launched while the one before it still runs
(programmatic dependent launch), and reads its matrix until that has ended.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

EARLY = True  # whether GPUs that can do so (Hopper and newer) launch early


@triton.jit
def pair(
    out, x, weight, bias, shift, scale, gate, residual, null, stride_x, stride_out, stride_n, stride_k,
    K: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, AFTER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """out[r, n] = after(sum_k weight[n, k] x[r, k] + bias[n]) for rows r = 0, 1 and this program's BLOCK of n.

    NORM: layer norm of x's rows, then scale and shift. AFTER: "softmax" over the block (one head's scores; row 0 only),
    "gelu", "add" gate times the result to the residual, or "cross", the same with the vector `null` for row 1.
    """
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    n, k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, K)
    w = tl.load(weight + n[:, None] * stride_n + k[None, :] * stride_k).to(tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()  # before anything that an earlier kernel has written is read, or overwritten
    a, b = tl.load(x + k).to(tl.float32), tl.load(x + stride_x + k).to(tl.float32)
    if NORM:
        c, d = tl.load(scale + k), tl.load(shift + k)
        a, b = a - tl.sum(a, 0) / K, b - tl.sum(b, 0) / K
        a = a * tl.rsqrt(tl.sum(a * a, 0) / K + 1e-5) * c + d
        b = b * tl.rsqrt(tl.sum(b * b, 0) / K + 1e-5) * c + d
    offset = tl.load(bias + n).to(tl.float32)
    first = tl.sum(w * a[None, :], 1) + offset
    if AFTER == "softmax":
        first = tl.exp(first - tl.max(first, 0))
        tl.store(out + n, first / tl.sum(first, 0))
    else:
        if AFTER == "cross":
            second = tl.load(null + n)
        else:
            second = tl.sum(w * b[None, :], 1) + offset
        if AFTER == "gelu":
            first = 0.5 * first * (1 + tl.erf(first * 0.7071067811865476))
            second = 0.5 * second * (1 + tl.erf(second * 0.7071067811865476))
        else:
            g = tl.load(gate + n)
            first = tl.load(residual + n) + g * first
            second = tl.load(residual + stride_out + n) + g * second
        tl.store(out + n, first)
        tl.store(out + stride_out + n, second)


def product(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, after: str, block: int, **more) -> Tensor:
    """`pair` for x (2, K) or a single row, weight (N, K) with any strides; more: norm = (shift, scale), gate, residual,
    null."""
    (N, K), (shift, scale) = weight.shape, more.get("norm", (bias, bias))
    others = [more.get(name, bias) for name in ("gate", "residual", "null")]
    strides = x.stride(0) if x.dim() == 2 else 0, out.stride(0), *weight.stride()
    early = EARLY and x.is_cuda and torch.cuda.get_device_capability() >= (9, 0)
    options = {"K": K, "BLOCK": block, "NORM": "norm" in more, "AFTER": after, "EARLY": early}
    options |= {"num_warps": 8} | ({"launch_pdl": True} if early else {})
    pair[(N // block,)](out, x, weight, bias, shift, scale, *others, *strides, **options)
    return out


def blocks(layers, h: Tensor, modulations: Tensor, keys: Tensor, values: Tensor, bias: Tensor, heads: int) -> Tensor:
    """h (2, D) after all layers (`stage1.Stage1Layer`), with modulations (layers, 9, D) and the text's merged keys and
    values (layers, 1, H L, D) and bias (layers, 1, 1, H L). Overwrites the given h."""
    other, weights = torch.empty_like(h), h.new_empty(1, keys.shape[2])
    inner = h.new_empty(2, len(layers[0].ff_in[1]), dtype=keys.dtype)
    for i, layer in enumerate(layers):
        a1, b1, g1, a2, b2, g2, a3, b3, g3 = modulations[i].unbind(0)
        product(h, *layer.attention, other, "add", 8, norm=(a1, b1), gate=g1, residual=h)
        product(other, keys[i, 0], bias[i, 0, 0], weights, "softmax", keys.shape[2] // heads, norm=(a2, b2))
        more = {"gate": g2, "residual": other, "null": layer.null}
        product(weights[0], values[i, 0].T, layer.out[1], h, "cross", 16, **more)
        product(h, *layer.ff_in, inner, "gelu", 16, norm=(a3, b3))
        product(inner, *layer.ff_out, other, "add", 4, gate=g3, residual=h)
        h, other = other, h
    return h
