"""Where the time of a call goes, by kind of work: the operations of torch's profiler in a few groups."""

from __future__ import annotations

import os
from collections.abc import Callable

from musekit.bench.measure import Row

GROUPS = {  # {kind: parts of operations' names}; the first match counts
    "matrix products": ("linear", "mm", "matmul", "gemm"),
    "attention": ("attention", "softmax"),
    "Fourier transforms": ("fft",),
    "overlap-add": ("unfold_backward",),  # of the inverse transforms' frames
    "norms": ("norm",),
    "copies": ("cat", "copy", "clone", "contiguous", "pad", "gather", "index", "stack", "flip", "reorder"),
    "bookkeeping": (
        "view", "slice", "select", "strided", "empty", "expand", "transpose", "permute", "squeeze", "narrow", "reshape",
        "chunk", "split", "unbind", "resize", "detach", "alias", "flatten", "item", "_to", "zeros", "ones", "fill",
    ),
    "elementwise": (
        "add", "mul", "silu", "gelu", "sub", "div", "pow", "exp", "log", "abs", "cos", "sin", "polar", "clamp", "where",
        "remainder", "cumm", "sgn", "sqrt", "mean", "sum", "bitwise", "arange", "stft", "rsub",
    ),
}  # fmt: skip


def where_time_goes(call: Callable[[], object], runs: int = 3) -> list[Row]:
    """{"kind", "share", "ms", "calls"} of `call`, largest first, after one untimed run; what is in no group is "other".

    Times are self times, without the operations that an operation calls, so they add up to the whole.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise it reports on standard error that there is no GPU
    from torch.autograd.profiler import profile

    call()
    with profile() as seen:
        for _ in range(runs):
            call()
    groups: dict[str, list[float]] = {}
    for event in seen.key_averages():
        kind = next((k for k, words in GROUPS.items() if any(w in event.key.lower() for w in words)), "other")
        total = groups.setdefault(kind, [0.0, 0])
        total[0] += event.self_cpu_time_total / 1000 / runs
        total[1] += event.count // runs
    whole = sum(ms for ms, _ in groups.values())
    rows = [{"kind": k, "share": ms / whole, "ms": ms, "calls": int(n)} for k, (ms, n) in groups.items()]
    return sorted(rows, key=lambda row: -row["ms"])
