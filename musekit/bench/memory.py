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

from musekit.bench.measure import Row, Setup, make_pieces, now, peak_bytes
from musekit.bench.networks import oobleck_codec
from musekit.oobleck import decode_overlapping

PARTS, WHOLE = 32, 1 << 30  # latent frames decoded at a time
STEPS = 2  # of Stage 2: peak memory does not depend on their number, the recorded seconds do
MMAP_THRESHOLD = -3  # glibc's name for it in `mallopt`


@torch.inference_mode()
def memory(setup: Setup) -> Iterator[Row]:
    """Oobleck's decoder at growing lengths, whole and in segments; then n pieces in micro-batches of m."""
    if not setup.quick:  # for the whole process; glibc: what one segment frees is returned before the next one
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)
    codec = oobleck_codec(setup.device, setup.quick)
    for frames in (8, 64) if setup.quick else (64, 128, 256):
        latents = torch.randn(1, codec.config.latent_dim, frames, device=setup.device)
        for size, how in ((WHOLE, "whole"), (PARTS, f"in parts of {PARTS} frames")):
            decode = functools.partial(decode_overlapping, hop=codec.hop, reach=codec.reach, frames=size)
            call = functools.partial(decode, lambda z: codec.vae.decode(z).sample, latents)
            yield measured(f"Oobleck decoder {how}", "frames", frames, call, setup.device) | {"dtype": "float32"}
    if (muse := setup.muse) is None:
        return
    make = functools.partial(make_pieces, muse, seconds=0.5 if setup.quick else muse.config.sample.seconds, steps=STEPS)
    make(1, 1)
    for n, size in ((1, 1), (4, 2)) if setup.quick else ((1, 1), (4, 1), (4, 4), (8, 4), (16, 4), (16, 16)):
        what = f"{muse.config.name}: {n} pieces, micro-batch {size}, {STEPS} steps"
        row = measured(what, "pieces", n, functools.partial(make, n, size), muse.device)
        yield row | {"micro_batch": size, "steps": STEPS, "dtype": str(muse.autocast_dtype)[6:]}


def measured(what: str, unit: str, value: int, call, device) -> Row:
    """One row: the bytes before and at the peak, and the seconds."""
    began = now(device)
    peak = peak_bytes(call, device)
    return {"what": what, "unit": unit, "value": value, "seconds": now(device) - began} | peak
