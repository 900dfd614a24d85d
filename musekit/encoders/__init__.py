"""Frozen text encoders and joint text-audio embedders; with `oobleck`, the only importers of pretrained libraries.

TextEncoder(texts) -> tokens (B, L, D), mask (B, L)
JointEmbedder.embed_text(texts) -> (B, 512)    .embed_audio(audio (B, 1 or 2, N), sample_rate) -> (B, 512)
"""

from __future__ import annotations

from musekit.encoders.mini import (
    LONG,
    SHIFTS,
    JointEmbedder,
    MiniEmbedder,
    TonalPool,
    attribute_of,
    log_frequency_filters,
    mel_filters,
    transpose,
    view,
    view_size,
)
from musekit.encoders.muq import MuQ
from musekit.encoders.text import T5, MiniLM, TokenStates, text_encoder

__all__ = [
    "LONG",
    "SHIFTS",
    "JointEmbedder",
    "MiniEmbedder",
    "MiniLM",
    "MuQ",
    "T5",
    "TokenStates",
    "TonalPool",
    "attribute_of",
    "joint",
    "log_frequency_filters",
    "mel_filters",
    "text_encoder",
    "transpose",
    "view",
    "view_size",
]


def joint(network: MiniEmbedder | MuQ, encode_text: TokenStates | None) -> JointEmbedder | MuQ:
    """The joint embedding of a loaded part: the mini towers read text through `encode_text`, MuQ has its own."""
    return network if isinstance(network, MuQ) else JointEmbedder(network, encode_text)
