"""What a config's numbers may be: read from a file, they are any; built from them, a network is not.

Types are `config.from_dict`'s business. Here a number out of range, or two that do not fit each other, becomes one
line that names the field.
"""

from __future__ import annotations

import dataclasses

from musekit.config import MuseConfig, MuseError, suggest

COUNT = (1, 2**20)  # of any whole number that has no narrower range here
REAL = (0.0, 1e6)
RANGE = {
    "codec.latent_dim": (1, 4096),
    "codec.sample_rate": (8000, 384_000),
    "embedder.sample_rate": (8000, 384_000),
    "codec.n_fft": (16, 2**17),
    "codec.linear_bins": (0, 2**16),
    "codec.high_bands": (0, 2**12),
    "codec.phase_iterations": (0, 1000),
    "codec.encoder_depth": (0, 256),
    "codec.decoder_depth": (0, 256),
    "codec.power": (0.01, 1.0),
    "text.max_tokens": (1, 4096),
    "embedder.depth": (0, 256),
    "embedder.bands": (144, 24 * 20),
    "stage1.depth": (0, 256),
    "stage1.ff_mult": (1, 64),
    "stage1.gaussian_rank": (0, 2**16),
    "stage1.condition_dropout": (0.0, 1.0),
    "stage2.depth": (0, 256),
    "stage2.ff_mult": (0.01, 64.0),
    "stage2.patch": (1, 64),
    "stage2.condition_dropout": (0.0, 1.0),
    "stage2.max_seconds": (0.001, 1e6),
    "sample.guidance_scale": (0.0, 100.0),
    "sample.stage1_guidance_scale": (0.0, 100.0),
    "sample.stage1_autoguidance": (0.0, 100.0),
    "sample.seconds": (0.001, 1e6),
}
WIDE = 2**14  # the widest layer that is taken at its word
KINDS = {"codec.kind": ("spectral", "oobleck"), "text.kind": ("minilm", "t5"), "embedder.kind": ("mini", "muq")}


def check(config: MuseConfig, where: str = "") -> None:
    """Raise MuseError for a config that cannot be built; `where` is the file that it came from."""
    at = f" in {where}" if where else ""
    for part in ("codec", "text", "embedder", "stage1", "stage2", "sample"):
        for f in dataclasses.fields(getattr(config, part)):
            name, value = f"{part}.{f.name}", getattr(getattr(config, part), f.name)
            if name in KINDS and value not in KINDS[name]:
                raise suggest(value, KINDS[name], f"{name}{at}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            usual = (
                REAL if isinstance(f.default, float) else (1, WIDE) if "width" in f.name or "dim" in f.name else COUNT
            )
            low, high = RANGE.get(name, usual)
            if not low <= value <= high:
                raise MuseError(f"{name}{at} must be from {low:.10g} to {high:.10g}, not {value!r:.40}")
    for problem in misfits(config):
        raise MuseError(f"{problem}{at}")


def misfits(config: MuseConfig):
    """What does not fit together, in words."""
    codec, embedder, one, two = config.codec, config.embedder, config.stage1, config.stage2
    pairs = {  # two names of one number
        ("stage1.dim", "embedder.dim"): (one.dim, embedder.dim),
        ("stage2.embedding_dim", "embedder.dim"): (two.embedding_dim, embedder.dim),
        ("stage2.latent_dim", "codec.latent_dim"): (two.latent_dim, codec.latent_dim),
        ("stage1.text_dim", "text.dim"): (one.text_dim, config.text.dim),
    }
    for (a, b), (x, y) in pairs.items():
        if x != y:
            yield f"{a} = {x} and {b} = {y} must be equal"
    multiples = {  # the first is cut in parts of the second's size
        ("stage1.width", "stage1.heads"): (one.width, one.heads),
        ("stage2.width", "stage2.head_dim"): (two.width, two.head_dim),
        ("stage2.width", "stage2.kv_heads * stage2.head_dim"): (two.width, two.kv_heads * two.head_dim),
        ("stage2.head_dim", "4"): (two.head_dim, 4),  # rotary positions turn pairs in half of a head
        ("stage1.width", "2"): (one.width, 2),  # cosines and sines of time
        ("stage2.time_dim", "2"): (two.time_dim, 2),
        ("stage2.number_dim", "2"): (two.number_dim, 2),
        ("embedder.bands", "24"): (embedder.bands, 24),  # quarter tones of an octave
        ("codec.n_fft", "2"): (codec.n_fft, 2),
    }
    for (a, b), (x, y) in multiples.items():
        if x % y:
            yield f"{a} = {x} must be a multiple of {b}" + ("" if b.isdigit() else f" = {y}")
    if one.gaussian_rank >= one.dim:
        yield f"stage1.gaussian_rank = {one.gaussian_rank} must be below stage1.dim = {one.dim}"
    if codec.linear_bins + 8 * codec.high_bands > codec.n_fft // 2 + 1 or not codec.linear_bins + codec.high_bands:
        yield "codec.linear_bins + 8 codec.high_bands must be from 1 to codec.n_fft / 2 + 1"
    if codec.stft_hop > codec.n_fft:
        yield f"codec.stft_hop = {codec.stft_hop} must be at most codec.n_fft = {codec.n_fft}"
    if two.stable_audio and (two.modulation or two.patch != 1):
        yield "stage2.stable_audio wants modulation = false and patch = 1: that is how its weights were made"
