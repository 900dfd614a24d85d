"""`musekit bench memory`: what does memory grow with?

Generation runs in micro-batches, so any number of pieces takes the memory of one micro-batch; a longer piece takes
more of Stage 2 and, unless it is decoded in overlapping parts, of the codec.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings

import torch

from musekit import oobleck
from musekit.bench.measure import Row, now, peak_bytes
from musekit.muse import Muse, Settings

PARTS, WHOLE = 32, 1 << 30  # latent frames decoded at a time
MMAP_THRESHOLD = -3  # glibc's name for it in `mallopt`


def memory(device: torch.device, quick: bool = False, muse: Muse | None = None) -> list[Row]:
    """All rows: {"what", "setting", "value", "before_bytes", "peak_bytes", "seconds"}."""
    if not quick:  # for the whole process
        with contextlib.suppress(OSError, AttributeError):  # glibc: what a part has freed goes back before the next one
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)
    rows = codec(device, quick)
    return rows + (pieces(muse, quick) if muse is not None else [])


def pieces(muse: Muse, quick: bool) -> list[Row]:
    """Peak memory of n pieces in micro-batches of m: it follows m, not n."""
    seconds, rows = 0.5 if quick else muse.config.sample.seconds, []
    settings = ((1, 1), (4, 2)) if quick else ((1, 1), (4, 1), (4, 4), (8, 4), (16, 4), (16, 16))

    def make(n: int, size: int) -> None:
        options = Settings(seconds=seconds, micro_batch=size, steps=2)
        for _ in muse.stream(muse.recipe("a sad piano melody", seed, options) for seed in range(n)):
            pass

    make(1, 1)
    for n, size in settings:
        what = f"{muse.config.name}: {n} pieces, micro-batch {size}"
        rows.append(taken(what, "pieces", n, lambda n=n, size=size: make(n, size), muse.device) | {"micro_batch": size})
    return rows


def codec(device, quick: bool) -> list[Row]:
    """Oobleck's decoder, published shape, random weights: growing lengths, whole and in overlapping parts."""
    from diffusers import AutoencoderOobleck

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        vae = (
            AutoencoderOobleck(**({"encoder_hidden_size": 16, "decoder_channels": 2} if quick else {}))
            .to(device)
            .eval()
        )
    channels, hop = vae.config.decoder_input_channels, vae.hop_length
    reach, rows = oobleck.decoder_reach(vae.decoder, hop), []
    with torch.inference_mode():
        for frames in (8, 64) if quick else (64, 128, 256):
            latents = torch.randn(1, channels, frames, device=device)
            for size in (WHOLE, PARTS):
                how = "whole" if size == WHOLE else f"in parts of {PARTS} frames"

                def decode(latents=latents, size=size):
                    oobleck.decode_overlapping(lambda z: vae.decode(z).sample, latents, hop, reach, size)

                rows.append(taken(f"Oobleck decoder {how}", "frames", frames, decode, device))
    return rows


def taken(what: str, setting: str, value: int, call, device) -> Row:
    """One row: the bytes before and at the most, and the seconds."""
    began = now(device)
    peak = peak_bytes(call, device)
    row = {"what": what, "setting": setting, "value": value, "seconds": now(device) - began, "unit": setting}
    return row | {"before_bytes": peak and peak[0], "peak_bytes": peak and peak[1]}
