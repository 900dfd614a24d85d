"""Makers: what computes each kind of cached rows, and the name under which the cache recognises it.

Shards of another name were computed by other weights or settings, and are never mixed with these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from musekit import distributed, encoders, pretrained
from musekit.cache.store import config_hash
from musekit.codec import compress
from musekit.config import CodecConfig, EmbedderConfig, MuseConfig, MuseError, identity

KINDS = ("tokens", "spectra", "views", "latents", "embeddings", "transposed")
PARTS = {"latents": "codec", "embeddings": "embedder", "transposed": "embedder"}  # kinds that need a part's weights
FRONTS = {"spectra": "codec", "views": "embedder"}  # the input features of the parts that are trained here


def named(config) -> str:
    """A hash of a config; fields that came `later` change it only where they are not at their default."""
    first = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.repr}
    values = identity(config)
    return config_hash(config) if values == first else config_hash(config, sorted(values.items()))


def maker(kind: str, config: MuseConfig, weights: Path | None = None) -> str:
    """The name of what computes this kind: the hash of its weights, or of its settings. Nothing is loaded.

    Raises MuseError when there are no weights, or the preset has no such kind.
    """
    part = PARTS.get(kind) or FRONTS.get(kind)
    public = pretrained.public(part, config) if part else False
    if public and kind in (*FRONTS, "transposed"):
        raise MuseError(f"the preset {config.name} has no {kind}: a public model reads the audio itself; leave it out")
    if kind == "tokens":
        if pretrained.public("text", config):
            return f"tokens {pretrained.public_hash('text', config)[:16]} of {config.text.max_tokens}"
        return f"tokens {named(config.text)}"
    if kind == "spectra":
        front, plain = config.codec, CodecConfig()
        settings = (front.n_fft, front.stft_hop, front.frames, front.power)
        bands = (front.linear_bins, front.high_bands, front.sample_rate)
        usual = bands == (plain.linear_bins, plain.high_bands, plain.sample_rate)  # named before these took part
        return f"spectra {config_hash(*settings) if usual else config_hash(*settings, *bands)}"
    if kind == "views":
        full = config.embedder  # a view depends on these three fields only
        front = EmbedderConfig(sample_rate=full.sample_rate, bands=full.bands, onset_bands=full.onset_bands)
        return f"views {named(front)}"
    if public:
        return f"{kind} {pretrained.public_hash(part, config)[:16]}"
    if weights is None:
        raise MuseError(f"caching {kind} needs trained weights; give --weights FOLDER")
    return f"{kind} {pretrained.read_hashes(pretrained.find(weights)).get(part, '')[:16]}"


def batched(kind: str, config: MuseConfig) -> bool:
    """Whether a kind's function takes several clips at once: only the networks trained here do."""
    return kind in FRONTS or (kind in ("latents", "embeddings") and not pretrained.public(PARTS[kind], config))


def from_audio(kind: str, config: MuseConfig, weights: Path | None) -> Callable[[Tensor], Tensor]:
    """The function from audio (B, 2, N) to rows (B, T, D), on this rank's GPU. B is 1 unless the kind is `batched`."""
    rate, device = config.codec.sample_rate, distributed.device()
    if kind == "spectra":
        return lambda audio: compress(config.codec, audio.to(device))
    if kind == "views":
        return lambda audio: encoders.features(config.embedder, audio.to(device), rate)
    if pretrained.public(PARTS[kind], config):
        network, _ = pretrained.load_public(PARTS[kind], config)
    else:
        network = pretrained.load_part(weights, PARTS[kind])[0].to(device)
    if kind == "latents":
        return lambda audio: network.encode(audio.to(device)).transpose(1, 2)
    if not isinstance(network, encoders.MiniEmbedder):
        embedder = encoders.joint(network, None)
        return lambda audio: embedder.embed_audio(audio.to(device), rate)[:, None]
    config = network.config
    if kind == "embeddings":
        return lambda audio: network.audio_tower(encoders.features(config, audio.to(device), rate))[:, None]

    def in_other_keys(audio: Tensor) -> Tensor:
        """(1, 2, N) -> (1, 10, 512): the embeddings of one clip transposed by each of `encoders.SHIFTS`."""
        view = encoders.features(config, audio.to(device), rate)[0]
        moved = [encoders.transpose(view, config.bands, shift) for shift in encoders.SHIFTS]
        return network.audio_tower(torch.stack(moved))[None]

    return in_other_keys
