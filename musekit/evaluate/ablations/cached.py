"""ablation-cache: frozen encoders make the same embedding of a clip each time. What does making it again cost, and does
the cache's half precision change what is learned?

Time: milliseconds a training sample, for what each stage learns from. Result: two small Stage 1 of the same seed on the
same few clips, one on cached embeddings, one on embeddings made from the audio in float32 (and kept in memory, so that
this ablation takes a minute: a training on the fly would make them each time, which the projection counts).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from musekit.config import MINI_TRAINING
from musekit.evaluate.ablations import small
from musekit.evaluate.quality import Quality
from musekit.evaluate.subject import Subject, bar, read_audio, table
from musekit.muse import Settings
from musekit.train.data import Stage1Data

TIMED, CLIPS, SAMPLES = 24, 128, 25_600


def milliseconds(work: Callable[[dict], object], clips: list[dict], text: str) -> float:
    """Mean wall time (ms) of `work` for a clip; the first, which warms up, is left out where there are more."""
    took = []
    for clip in bar(clips, text):
        began = time.perf_counter()
        work(clip)
        took.append(time.perf_counter() - began)
    took = took[1:] or took
    return 1000 * sum(took) / len(took)


@torch.inference_mode()
def measure_time(subject: Subject, n: int) -> list[dict]:
    """One row a stage: what a clip costs from the cache and from its audio; the preset's training both ways."""
    from musekit.cache import Shards

    clips, rows = subject.split("train")[:n], []
    muse = subject.muse

    def embed(clip: dict):
        audio, rate = read_audio(subject.path(clip))
        return muse.embedder.embed_audio(torch.from_numpy(audio)[None], rate)

    def encode(clip: dict):
        audio, _ = read_audio(subject.path(clip))
        return muse.codec.encode(torch.from_numpy(audio)[None].to(muse.device)).cpu()  # waits for a GPU

    for part, kind, work in (("stage1", "embeddings", embed), ("stage2", "latents", encode)):
        if not (subject.cache / kind / "manifest.json").exists() or (
            "codec" not in subject.hashes and kind == "latents"
        ):
            continue
        shards = Shards(subject.cache / kind)
        cached = milliseconds(lambda clip, s=shards: s.row(clip["id"]).float(), clips, f"reading {kind}")
        made = milliseconds(work, clips, f"making {kind}")
        samples = MINI_TRAINING[part].samples
        row = {"measure": "time", "part": part, "what": kind, "n": n, "cached_ms": cached, "on_the_fly_ms": made}
        row |= {"times": made / cached, "samples": samples, "projected": True}
        rows.append(row | {"cached_minutes": samples * cached / 6e4, "on_the_fly_minutes": samples * made / 6e4})
    return rows


def measure_result(subject: Subject, clips: int, samples: int) -> list[dict]:
    """What is learned from cached embeddings and from fresh ones."""
    config, found, rows = small.small(subject.muse.config), {}, []
    how = small.settings("stage1", subject.quick, **({} if subject.quick else {"samples": samples}))
    validation = Stage1Data(subject.cache, "valid", config)
    quality, sets = Quality(subject), {}
    for name in ("cached", "on the fly"):
        dataset = small.subset(Stage1Data(subject.cache, "train", config), clips)
        dataset.transposed = None  # both learn from these clips alone, each from its own embeddings of them
        if name == "on the fly":
            fresh = [
                subject.muse.embedder.embed_audio(torch.from_numpy(audio)[None], rate)[0]
                for audio, rate in (read_audio(subject.path(c)) for c in bar(dataset.clips, "embedding on the fly"))
            ]
            half, dataset.embeddings = dataset.embeddings, torch.stack(fresh)
            rounding = float((half - dataset.embeddings).abs().max())
        found[name] = small.train(subject, "stage1", config, how, dataset, label=name, show=f"embeddings {name}")
        sets[name] = quality.sample(found[name].muse(subject), Settings())
    for name, run in found.items():
        row = {"measure": "result", "embeddings": name, "clips": clips}
        row["valid_loss"] = small.held_out_loss("stage1", run.ema, validation, how)
        row |= quality.row(sets[name], sets["cached"]) | small.about(config, "stage1", run, how)
        row |= {"largest_rounding": rounding}
        rows.append(row | {"cosine_to_cached": float((sets[name].captions * sets["cached"].captions).sum(1).mean())})
    return rows


def measure_cache(subject: Subject) -> None:
    """Writes results/ablation-cache.json."""
    timed = measure_time(subject, 2 if subject.quick else TIMED)
    result = measure_result(subject, 4 if subject.quick else CLIPS, SAMPLES)
    table(timed, "part", "what", "cached_ms", "on_the_fly_ms", "times", "cached_minutes", "on_the_fly_minutes")
    columns = ("valid_loss", "kernel_distance", "low", "high", "against_low", "against_high", "cosine_to_cached")
    table(result, "embeddings", "clips", *columns)
    subject.write("ablation-cache", timed + result, embedding=subject.embedding_name)
