r"""Stage 1 on a GPU for few rows: products of a matrix and a handful of vectors, with all that surrounds them.

One token a sample makes every product a reading of weights, and a GPU reads fast only when little else is launched
between. So a layer is five launches, where PyTorch's operators make some twenty: each program reads its rows of the
weights *first*, then whatever the launch before it wrote, and does the norm or the softmax in front of the product
and the activation or the gated residual behind it in its own registers. Sums are in float32.

    own      h' = h + g1 (W (LN(h) s1 + a1) + b)        scores   A (LN(h') s2 + a2) + bias
    values   h' += g2 (softmax(scores) C + b)           ff_in    u = GELU(W (LN(h') s3 + a3) + b)
    ff_out   h' += g3 (W u + b)

With `ahead` a launch may begin before the one in front of it has ended, and reads its weights meanwhile
(programmatic dependent launch, compute capability 9.0 and later). The kernels are Triton's, which comes with torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PLAIN, NORM, SOFTMAX = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # what happens to x before the product
NONE, GELU, GATED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # what happens to y after it


@triton.jit
def both(a, b, c, d):
    """Two sums at once."""
    return a + c, b + d


@triton.jit
def product(
    x, weight, bias, shift, scale, gate, idle, out,
    K, N, rows, texts, heads, length,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, HEADS: tl.constexpr,
    BEFORE: tl.constexpr, AFTER: tl.constexpr, OWN: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """out (rows, N) from x (rows, K) and weight (N, K), or (rows, N, K) where each row has its OWN.

    Programs: (columns / BLOCK_N, 1 or rows). SOFTMAX: x holds `heads` x `length` scores. GATED: y is multiplied by
    `gate` (N,) and added to `out`, or to x where BEFORE is NORM and K = N. Rows from `texts` on have OWN weights no
    more: their y is `idle` (N,).
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    row = (tl.program_id(1) if OWN else 0) + tl.arange(0, ROWS)
    at, real = k, k < K
    if BEFORE == SOFTMAX:  # a head's scores in a row of their own
        head, place = k // (BLOCK_K // HEADS), k % (BLOCK_K // HEADS)
        at, real = head * length + place, (head < heads) & (place < length)
    within = n < N
    mine = tl.minimum(tl.program_id(1), texts - 1) if OWN else 0
    w = tl.load(weight + mine * N * K + n[:, None] * K + at[None, :], mask=within[:, None] & real[None, :], other=0.0)
    b = tl.load(bias + (mine * N if BEFORE != SOFTMAX and OWN else 0) + n, mask=within, other=0.0).to(tl.float32)
    if BEFORE == NORM:  # these are no launch's results either
        scaled = tl.load(scale + k, mask=real, other=0.0)
        shifted = tl.load(shift + k, mask=real, other=0.0)
    if AHEAD:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    there = (row < rows)[:, None]
    first = (tl.zeros_like(row) + mine if OWN else row)[:, None] * K
    a = tl.load(x + first + at[None, :], mask=there & real[None, :], other=-float("inf") if BEFORE == SOFTMAX else 0.0)
    a = a.to(tl.float32)  # (ROWS, BLOCK_K)
    if BEFORE == NORM:
        total, squares = tl.reduce((a, a * a), 1, both)
        mean = total / K
        a = (a - mean[:, None]) * tl.rsqrt(squares / K - mean * mean + 1e-5)[:, None]
        a = a * scaled[None, :] + shifted[None, :]
    if BEFORE == SOFTMAX:
        square = tl.reshape(a, (HEADS, BLOCK_K // HEADS))
        top = tl.maximum(tl.max(square, 1), -1e30)
        square = tl.exp(square - top[:, None])
        square = square / tl.maximum(tl.sum(square, 1), 1e-30)[:, None]
        a = tl.reshape(square, (ROWS, BLOCK_K))
    y = tl.sum(w.to(tl.float32)[None, :, :] * a[:, None, :], 2) + b[None, :]  # (ROWS, BLOCK_N)
    if AFTER == GELU:
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    to, write = row[:, None] * N + n[None, :], there & within[None, :]
    if AFTER == GATED:
        if OWN:
            y = tl.where(row[:, None] < texts, y, tl.load(idle + n, mask=within, other=0.0)[None, :])
        before = x if BEFORE == NORM else out
        y = tl.load(before + to, mask=write, other=0.0) + tl.load(gate + n, mask=within, other=0.0)[None, :] * y
    tl.store(out + to, y, mask=write)


# (columns, BLOCK_K) -> (BLOCK_N, warps): the fastest on an H100 for the paper preset's Stage 1 at batch 1
SHAPES = {(1024, 1024): (2, 1), (4096, 1024): (4, 1), (1024, 4096): (4, 8), (256, 1024): (2, 2)}


def shape(columns: int, block_k: int) -> tuple[int, int]:
    """(BLOCK_N, warps): enough programs to fill a GPU, each with some 16 kB of weights in flight."""
    if (columns, block_k) in SHAPES:
        return SHAPES[columns, block_k]
    block_n = max(1, min(8, triton.next_power_of_2(columns) // 256, 16384 // block_k))
    return block_n, max(1, min(8, block_n * block_k // 1024))


def launch(
    x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, before=PLAIN, after=NONE, *,
    norm: tuple[Tensor, Tensor] | None = None, gate: Tensor | None = None, idle: Tensor | None = None,
    texts: int = 0, heads: int = 1, ahead: bool = False,
) -> Tensor:  # fmt: skip
    """One launch of `product`, returns `out`; texts: so many rows have weights of their own, 0: all share one."""
    (N, K), own = weight.shape[-2:], texts > 0
    groups = (texts if after is NONE else len(out)) if own else 1  # nobody reads scores of rows without text
    wide, length = triton.next_power_of_2(heads), K // heads
    block_k = wide * triton.next_power_of_2(length) if before is SOFTMAX else triton.next_power_of_2(K)
    block_n, warps = shape(N * groups, block_k)
    shift, scale = norm or (x, x)  # what is not read may be anything
    gate, idle = (x if given is None else given for given in (gate, idle))
    product[(triton.cdiv(N, block_n), groups)](
        x, weight, bias, shift, scale, gate, idle, out, K, N, len(out), texts, heads, length,
        ROWS=1 if own else triton.next_power_of_2(len(x)), BLOCK_N=block_n, BLOCK_K=block_k, HEADS=wide,
        BEFORE=before.value, AFTER=after.value, OWN=own, AHEAD=ahead, num_warps=warps,
        **({"launch_pdl": True} if ahead else {}),
    )  # fmt: skip
    return out


def velocity(network, x: Tensor, modulation: Tensor, text, ahead: bool = False) -> Tensor:
    """`Prepared1.__call__` without its Gaussian part: x (rows, 512), modulation (layers, 9, D), a merged text.

    Rows beyond the text's have no text; they come last.
    """
    state, (_, texts, length, width) = x.new_empty, text.keys.shape
    h = launch(x, network.enter.weight, network.enter.bias, state(len(x), width), ahead=ahead)
    other, scores = torch.empty_like(h), state(texts, length)
    inner = state(len(x), len(network.layers[0].ff_in.weight))
    for i, layer in enumerate(network.layers):
        a1, b1, g1, a2, b2, g2, a3, b3, g3 = modulation[i].unbind(0)
        columns = text.values[i].transpose(1, 2).contiguous()  # as `Prepared1.text` has laid them on a GPU: no copy
        own = {"texts": texts, "ahead": ahead}
        launch(h, layer.own.weight, layer.own.bias, other, NORM, GATED, norm=(a1, b1), gate=g1, ahead=ahead)
        launch(other, text.keys[i], text.bias[i], scores, NORM, norm=(a2, b2), **own)
        crossed = {"gate": g2, "idle": layer.null, "heads": network.heads}
        launch(scores, columns, layer.out.bias, other, SOFTMAX, GATED, **crossed, **own)
        launch(other, layer.ff_in.weight, layer.ff_in.bias, inner, NORM, GELU, norm=(a3, b3), ahead=ahead)
        launch(inner, layer.ff_out.weight, layer.ff_out.bias, other, PLAIN, GATED, gate=g3, ahead=ahead)
        h, other = other, h
    return launch(
        h, network.leave.weight, network.leave.bias, torch.empty_like(x), NORM, norm=network.still, ahead=ahead
    )
