"""Makers: what makes each kind of cached thing, and the name by which a cache knows it again.

A cache whose shards bear another name was made by other weights or settings, and is not mixed with these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from musekit import distributed, encoders, pretrained
from musekit.cache import config_hash
from musekit.codec import compress
from musekit.config import CodecConfig, EmbedderConfig, MuseConfig, MuseError, identity

PARTS = {"latents": "codec", "embeddings": "embedder", "transposed": "embedder"}  # kinds that weights make, and whose
FRONTS = {"spectra": "codec", "views": "embedder"}  # what the mini networks read, and which


def named(config) -> str:
    """A hash of what made a kind; fields that came later (`parts.later`) change it only where they say something."""
    first = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.repr}
    told = identity(config)
    return config_hash(config) if told == first else config_hash(config, sorted(told.items()))


def maker(kind: str, config: MuseConfig, weights: Path | None = None) -> str:
    """What makes this kind: its weights' hash, or its settings. Nothing is loaded.

    Raises MuseError when there are no weights, or the preset has no such kind.
    """
    if kind in FRONTS and pretrained.public(FRONTS[kind], config):
        raise MuseError(f"the preset {config.name} has no {kind}: a public model hears the audio itself; leave it out")
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
        heard = config.embedder  # of which a view depends on no more than this
        front = EmbedderConfig(sample_rate=heard.sample_rate, bands=heard.bands, onset_bands=heard.onset_bands)
        return f"views {named(front)}"
    part = PARTS[kind]
    if kind == "transposed" and pretrained.public(part, config):
        raise MuseError(f"the preset {config.name} has no {kind}: a public model hears no view; leave it out")
    if pretrained.public(part, config):
        return f"{kind} {pretrained.public_hash(part, config)[:16]}"
    if weights is None:
        raise MuseError(f"caching {kind} needs trained weights; give --weights FOLDER")
    return f"{kind} {pretrained.read_hashes(pretrained.find(weights)).get(part, '')[:16]}"


def maker_and_function(kind: str, config: MuseConfig, weights: Path | None) -> tuple[str, Callable]:
    """What makes this kind (`maker`) and the function from audio (B, 2, N) to rows (B, T, D), on this rank's GPU.

    B is 1 where the kind is not `batched`.
    """
    name, rate, device = maker(kind, config, weights), config.codec.sample_rate, distributed.device()
    if kind == "spectra":
        return name, lambda audio: compress(config.codec, audio.to(device))
    if kind == "views":
        return name, lambda audio: encoders.features(config.embedder, audio.to(device), rate)
    part = PARTS[kind]
    if pretrained.public(part, config):
        network, _ = pretrained.load_public(part, config)
    else:
        network = pretrained.load_part(weights, part)[0].to(device)
    return name, from_sound(kind, network, rate)


def batched(kind: str, config: MuseConfig) -> bool:
    """Whether a kind's function takes several clips at once: what the networks trained here do, in one key."""
    return kind in FRONTS or (kind in ("latents", "embeddings") and not pretrained.public(PARTS[kind], config))


def from_sound(kind: str, network, rate: int) -> Callable:
    """The function from audio (B, 2, N) at `rate` Hz to rows (B, T, D) of a codec or an embedder (see `batched`)."""
    device = distributed.device()
    if kind == "latents":
        return lambda audio: network.encode(audio.to(device)).transpose(1, 2)
    if kind == "transposed":
        config = network.config
        return lambda audio: in_other_keys(network, encoders.features(config, audio.to(device), rate))
    if isinstance(network, encoders.MiniEmbedder):
        return lambda audio: network.audio_tower(encoders.features(network.config, audio.to(device), rate))[:, None]
    embedder = encoders.joint(network, None)
    return lambda audio: embedder.embed_audio(audio.to(device), rate)[:, None]


def from_front(kind: str, weights: Path) -> Callable:
    """Like `maker_and_function`'s, from a cached view or spectrum (1, T, D) instead of audio."""
    device = distributed.device()
    network = pretrained.load_part(weights, PARTS[kind])[0].to(device)
    if kind == "embeddings":
        return lambda view: network.audio_tower(view.to(device))[:, None]
    if kind == "transposed":
        return lambda view: in_other_keys(network, view.to(device))
    return lambda c: network.posterior(network.scaled(c.to(device)))[0]


def in_other_keys(network: encoders.MiniEmbedder, view: Tensor) -> Tensor:
    """The embeddings (1, 10, 512) of one view (1, T, D) moved by each of `encoders.SHIFTS`."""
    moved = torch.stack([encoders.transpose(view[0], network.config.bands, shift) for shift in encoders.SHIFTS])
    return network.audio_tower(moved)[None]
