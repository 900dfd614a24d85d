"""Frozen text encoders and joint text-audio embedders; with `oobleck`, the only importers of pretrained libraries.

TextEncoder(texts) -> tokens (B, L, D), mask (B, L)
JointEmbedder.embed_text(texts) -> (B, 512)    .embed_audio(audio (B, 1 or 2, N), sample_rate) -> (B, 512)
"""
