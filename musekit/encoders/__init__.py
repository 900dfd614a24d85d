"""Frozen text encoders and joint text-audio embedders; with `oobleck`, the only importers of pretrained libraries.

TextEncoder(texts) -> tokens (B, L, D), mask (B, L)
JointEmbedder.embed_text(texts) -> (B, 512)    .embed_audio(audio (B, 1 or 2, N), sample_rate) -> (B, 512)
"""

from __future__ import annotations

from musekit.encoders.mini import (
    LONG_WINDOW,
    JointEmbedder,
    MiniEmbedder,
    TonalPool,
    features,
    features_size,
    log_frequency_filters,
    mel_filters,
    transpose,
)
from musekit.encoders.muq import MuQ
from musekit.encoders.text import TextEncoder, text_encoder

__all__ = ["LONG_WINDOW", "JointEmbedder", "MiniEmbedder", "MuQ", "TextEncoder", "TonalPool", "features"]
__all__ += ["features_size", "log_frequency_filters", "mel_filters", "text_encoder", "transpose"]
