"""An estimate of what caching a published data set costs, from rates that are measured here and counts that are cited.

    hours = sum over kinds of rows x (seconds to read and encode one) / processes

The encoders have the published shapes and random weights: their speed is that of the trained ones, and nothing has to
be fetched. Each rate comes from the cache's own code on synthetic sound: decode, encode, write a shard.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from musekit import distributed, encoders, pretrained
from musekit.cache import SHARD, as_half, build_shards
from musekit.cache.makers import FRONTS, PARTS, batched, from_sound, maker_and_function
from musekit.cache.precompute import TOGETHER, each_clip, read_clip
from musekit.config import MuseConfig, preset
from musekit.results import write_result

# clips, seconds of each, format, captions that the reader gives each clip at most; sounds of MusicBench's tests A and B
# are counted twice, as its rows are
DATA_SETS = {
    "MusicBench": {"clips": 52_768 + 400, "seconds": 10.0, "format": "wav", "captions": 3},
    "Music4All": {"clips": 109_269, "seconds": 30.0, "format": "mp3", "captions": 3},
}
SOURCES = "clips and seconds: as published; captions: the most that the reader gives a clip, so an upper bound"
PROCESSES = (1, 2, 4, 8, 16)
BUDGET = 8.0  # seconds of measurement of one rate
WORDS = "a slow and tender piece for piano and strings in a minor key with long notes and a distant choir " * 3


def kinds_of(config: MuseConfig) -> list[str]:
    """What a cache of the preset holds of each clip: a public model hears the audio itself, and in its own key."""
    always = ("latents", "embeddings")
    return [k for k, part in (FRONTS | PARTS).items() if k in always or not pretrained.public(part, config)]


def random_function(kind: str, config: MuseConfig) -> Callable:
    """The encoder of a kind with random weights, from audio (1, 2, N) to a row (1, T, D)."""
    if kind not in PARTS:
        return maker_and_function(kind, config, None)[1]
    part = PARTS[kind]
    if not pretrained.public(part, config):
        network = pretrained.build(part, config)
    elif kind == "embeddings":
        return random_muq(config)
    else:
        from musekit.oobleck import Oobleck

        network = Oobleck(config.codec)
    return from_sound(kind, network.eval().requires_grad_(False).to(distributed.device()), config.codec.sample_rate)


def random_muq(config: MuseConfig) -> Callable:
    """MuQ-MuLan-large's audio tower: MuQ's conformer (12 x 1024) and 8 layers of 768 on its states, 10 s at a time."""
    from muq import MuQ, MuQConfig
    from muq.muq_mulan.modules.transformer import Transformer
    from transformers import Wav2Vec2ConformerConfig

    from musekit.encoders.mini import mono

    device = distributed.device()
    shape = Wav2Vec2ConformerConfig(
        hidden_size=1024, num_hidden_layers=12, num_attention_heads=16, intermediate_size=4096,
        position_embeddings_type="rotary",
    ).to_dict()  # fmt: skip
    shape = {k: v for k, v in shape.items() if not isinstance(v, dict)}
    stat = {"melspec_2048_mean": 6.8, "melspec_2048_std": 18.4, "melspec_2048_cnt": 1}
    backbone = MuQ(MuQConfig(stat=stat, w2v2_config=shape)).eval().to(device)
    tower = torch.nn.Sequential(torch.nn.Linear(1024, 768), Transformer(768, 8)).eval().to(device)
    head = torch.nn.Linear(768, config.embedder.dim).to(device)

    def embed(audio: torch.Tensor) -> torch.Tensor:
        clips = mono(audio, config.codec.sample_rate, 24000)[0].split(240_000)
        rows = [head(tower(backbone(c[None].to(device)).last_hidden_state).mean(1)) for c in clips]
        return torch.stack(rows, dim=1).mean(1, keepdim=True)

    return embed


def random_text(config: MuseConfig) -> Callable:
    """The text encoder's states of n captions, (n, L, D) and masks; of a public one random weights, random tokens."""
    if not pretrained.public("text", config):
        encode = encoders.text_encoder(config.text)
        return lambda n: encode.encode_batch([WORDS] * n)
    from transformers import T5Config, T5EncoderModel

    device = distributed.device()
    shape = {"d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "gated-gelu"}
    model = T5EncoderModel(T5Config(d_model=config.text.dim, **shape)).eval().to(device)

    def states(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(3, 32_000, (n, config.text.max_tokens), device=device)
        mask = torch.ones_like(ids)
        return model(input_ids=ids, attention_mask=mask).last_hidden_state, mask.bool()

    return states


def write_sounds(folder: Path, seconds: float, suffix: str, n: int) -> dict[str, dict]:
    """n synthetic clips (chords in noise, 44.1 kHz stereo) and their records."""
    import soundfile

    clips = {}
    for i in range(n):
        rng = np.random.default_rng(i)
        t = np.arange(round(44100 * seconds))[:, None] / 44100
        wave = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(100, 3000, 6)) / 12 + 0.05 * rng.normal(
            size=(len(t), 2)
        )
        soundfile.write(folder / f"{i}.{suffix}", np.clip(wave, -1, 1).astype(np.float32), 44100)
        clips[f"{suffix}-{i}"] = {"path": f"{i}.{suffix}", "sample_rate": 44100, "start": 0.0, "seconds": seconds}
    return clips


def timed(folder: Path, compute: Callable, ids: list[str]) -> tuple[float, float]:
    """(seconds, bytes) of one row, made and written in shards: one row to warm up, then all until the budget is spent.

    Where one row takes more than the budget it is the measurement.
    """

    def make(name: str, ids: list[str]) -> tuple[float, int]:
        began = time.perf_counter()
        build_shards(folder / name, ids, "estimate", compute)
        spent = time.perf_counter() - began
        return spent, sum(path.stat().st_size for path in (folder / name).iterdir())

    spent, made = make("first", ids[:1])
    if spent > BUDGET > 0:
        return spent, made
    rows, spent, made = 0, 0.0, 0
    while rows == 0 or spent < BUDGET:
        more, size = make(str(rows), ids)
        rows, spent, made = rows + len(ids), spent + more, made + size
    return spent / rows, made / rows


def rates(config: MuseConfig) -> Iterator[dict]:
    """Measured: seconds and bytes of a row of each kind for each data set's clips, and of reading alone."""
    gpu = distributed.device().type == "cuda"
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        folder = Path(place)
        text = random_text(config)

        def captions(ids: list[str]) -> tuple[dict, dict]:
            states, mask = text(len(ids))
            return {"x": as_half(states.cpu()), "mask": mask.cpu()}, {}

        seconds, size = timed(folder / "tokens", captions, [f"{i:02d}" for i in range(SHARD)])
        yield {"measure": "rate", "kind": "tokens", "of": "a caption", "seconds": seconds, "bytes": size}
        functions = {kind: random_function(kind, config) for kind in kinds_of(config)}
        for name, data in DATA_SETS.items():
            sounds = folder / name
            sounds.mkdir()
            clips = write_sounds(sounds, data["seconds"], data["format"], 4)

            def read(clip: dict, sounds=sounds) -> torch.Tensor:
                return read_clip(sounds, clip)

            began = time.perf_counter()
            for clip in clips.values():
                read(clip)
            of = f"a clip of {data['seconds']:g} s, {data['format']}"
            seconds = (time.perf_counter() - began) / len(clips)
            yield {"measure": "rate", "kind": "reading", "data": name, "of": of, "seconds": seconds, "bytes": 0}
            for kind, function in functions.items():
                threads, size = (2, TOGETHER if batched(kind, config) else 1) if gpu else (0, 1)
                compute = each_clip(clips, read, function, threads, size)
                seconds, size = timed(folder / name / kind, compute, list(clips))
                yield {"measure": "rate", "kind": kind, "data": name, "of": of, "seconds": seconds, "bytes": size}


def totals(measured: list[dict]) -> list[dict]:
    """The estimate: rows, hours in one process, GB and files of each kind and of each data set as a whole."""
    rows = []
    for name, data in DATA_SETS.items():
        kinds = [r for r in measured if r["kind"] != "reading" and r.get("data", name) == name]
        for r in kinds:
            n = data["clips"] * (data["captions"] if r["kind"] == "tokens" else 1)
            files = 2 * -(-n // SHARD) + 1
            made = {"rows": n, "hours": n * r["seconds"] / 3600, "gigabytes": n * r["bytes"] / 1e9, "files": files}
            rows.append({"measure": "estimate", "data": name, "kind": r["kind"], **made})
        mine = [r for r in rows if r["data"] == name]
        whole = {key: sum(r[key] for r in mine) for key in ("rows", "hours", "gigabytes", "files")}
        rows.append({"measure": "estimate", "data": name, "kind": "all", **whole})
    return rows


def estimate(name: str, results: Path) -> Path:
    """`musekit cache --estimate`: measure, print, write <results>/cache-estimate-<preset>.json; returns its path."""
    config, load = preset(name), os.getloadavg()[0]
    distributed.check_gpus()
    measured = []
    for row in rates(config):
        print(
            f"measured  {row['kind']:10s} {1000 * row['seconds']:10.1f} ms, {row['bytes'] / 1e3:9.1f} kB: {row['of']}"
        )
        measured.append(row)
    told = totals(measured)
    print(f"\nestimate for the preset {name} on {distributed.device()}: hours in N processes, each with such a device")
    print(f"{'':21s}{'rows':>9s} {'GB':>8s} {'files':>7s}   N =" + "".join(f"{n:9d}" for n in PROCESSES))
    for r in told:
        hours = "".join(f"{r['hours'] / n:9.2f}" for n in PROCESSES)
        print(f"{r['data']:10s} {r['kind']:10s}{r['rows']:9,} {r['gigabytes']:8.1f} {r['files']:7,}      {hours}")
    print(f"not measured: the network's and the file system's share. {SOURCES}.")
    more = {"preset": name, "estimate": True, "counts": SOURCES, "load": load}
    path = write_result(f"cache-estimate-{name}", [*measured, *told], results, **more)
    print(f"written: {path}")
    return path
