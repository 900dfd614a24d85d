"""`musekit bench memory`: what does peak memory grow with?

Generation runs in micro-batches, so any number of pieces takes the memory of one micro-batch. A longer piece takes
more memory in Stage 2 and, unless it is decoded in overlapping segments, in the codec.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator

import torch

from musekit.bench.measure import Row, now, peak_bytes
from musekit.bench.networks import Decoder
from musekit.muse import Muse, Settings

PARTS, WHOLE = 32, 1 << 30  # latent frames decoded at a time
STEPS = 2  # of Stage 2: peak memory does not depend on their number, the recorded seconds do
MMAP_THRESHOLD = -3  # glibc's name for it in `mallopt`


def memory(setup) -> Iterator[Row]:
    """All rows: {"what", "setting", "value", "before_bytes", "peak_bytes", "seconds", "steps", "dtype"}."""
    if not setup.quick:  # for the whole process; glibc: what one segment frees is returned before the next one
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)
    yield from codec(setup.device, setup.quick)
    if setup.muse is not None:
        yield from pieces(setup.muse, setup.quick)


@torch.inference_mode()
def codec(device, quick: bool) -> Iterator[Row]:
    """Oobleck's decoder, published shape, random weights: growing lengths, whole and in overlapping segments."""
    decoder = Decoder(device, quick)
    for frames in (8, 64) if quick else (64, 128, 256):
        latents = torch.randn(1, decoder.channels, frames, device=device)
        for size in (WHOLE, PARTS):
            how = "whole" if size == WHOLE else f"in parts of {PARTS} frames"
            call = functools.partial(decoder, latents, size)
            yield measured(f"Oobleck decoder {how}", "frames", frames, call, device) | {"dtype": "float32"}


def pieces(muse: Muse, quick: bool) -> Iterator[Row]:
    """Peak memory of n pieces in micro-batches of m: it follows m, not n."""
    seconds = 0.5 if quick else muse.config.sample.seconds
    cases = ((1, 1), (4, 2)) if quick else ((1, 1), (4, 1), (4, 4), (8, 4), (16, 4), (16, 16))

    def make(n: int, size: int) -> None:
        options = Settings(seconds=seconds, micro_batch=size, steps=STEPS)
        for _ in muse.stream(muse.recipe("a sad piano melody", seed, options) for seed in range(n)):
            pass

    make(1, 1)
    for n, size in cases:
        what = f"{muse.config.name}: {n} pieces, micro-batch {size}, {STEPS} steps"
        row = measured(what, "pieces", n, lambda n=n, size=size: make(n, size), muse.device)
        yield row | {"micro_batch": size, "steps": STEPS, "dtype": str(muse.autocast_dtype)[6:]}


def measured(what: str, setting: str, value: int, call, device) -> Row:
    """One row: the bytes before and at the peak, and the seconds."""
    began = now(device)
    peak = peak_bytes(call, device)
    return {"what": what, "setting": setting, "value": value, "unit": setting, "seconds": now(device) - began} | peak
