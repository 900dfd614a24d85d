"""Computes each kind of cached rows from the clips of a cache, in one process or several.

spectra     the codec's compressed spectra     from audio (to train the mini codec)
views       the embedder's features            from audio (to train the mini embedder)
tokens      text token states and masks        from captions, by the frozen text encoder
latents     codec latents                      from audio, by the trained codec
embeddings  joint embeddings of the audio      from audio, by the trained embedder
transposed  the same in ten other keys         from audio, by the trained mini embedder: more pieces for Stage 1
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path

import torch

from musekit import distributed, encoders
from musekit.cache import store
from musekit.cache.makers import KINDS, batched, from_audio, maker
from musekit.cache.store import Manifest, Sources, as_half, build_shards, caption_id, read_clips
from musekit.config import MuseConfig, MuseError, suggest

GPU_BATCH = 16  # clips that a GPU computes at once; one of 12 s fills a small part of it


def read_clip(cache: Path, clip: dict) -> torch.Tensor:
    """A clip's audio, (2, N) at its record's rate. Raises `corpus.sound.BadAudio` when it is not usable."""
    from musekit.corpus.sound import read_audio

    part = (clip["start"], clip["seconds"]) if "start" in clip else ()  # else the whole file
    return torch.from_numpy(read_audio(Path(cache) / clip["path"], clip["sample_rate"], *part))


def prefetch(function: Callable, items: Iterable, threads: int) -> Iterator:
    """`function` of each item, in order; threads compute up to `threads` items in advance."""
    if threads < 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def each_clip(
    clips: dict[str, dict], read: Callable[[dict], torch.Tensor], function: Callable, threads: int = 0, size: int = 1
) -> Callable:
    """`compute` for `build_shards`: `function` of each clip, or of up to `size` equally long neighbours at once.

    A clip that cannot be read is set aside. `threads` read ahead while `function` works on a GPU.
    """

    def try_read(key: str) -> tuple[str, torch.Tensor | str]:
        try:
            return key, read(clips[key])[None]
        except Exception as error:  # noqa: BLE001 - one bad file never ends the run; the manifest says why
            return key, f"{type(error).__name__}: {error}"

    def compute(ids: list[str]) -> tuple[dict, dict]:
        rows, set_aside = [], {}
        for _, same in groupby(prefetch(try_read, ids, threads), lambda pair: getattr(pair[1], "shape", pair[0])):
            while some := list(islice(same, size)):
                keys, audio = zip(*some)
                if isinstance(audio[0], str):
                    set_aside[keys[0]] = audio[0]
                    continue
                for key, row in zip(keys, as_half(function(torch.cat(audio)).cpu()), strict=True):
                    if row.isfinite().all():
                        rows.append(row)
                    else:
                        set_aside[key] = "the encoder gave no finite numbers"
        if not rows:
            return {"x": torch.zeros(0, 1, 1)}, set_aside
        lengths = torch.tensor([len(row) for row in rows])
        return {"x": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), "length": lengths}, set_aside

    return compute


def captions_of(clips: Iterable[dict]) -> dict[str, str]:
    """{caption id: text} of every distinct caption."""
    return {caption_id(c["text"]): c["text"] for clip in clips for c in clip["captions"]}


def compute_rank(
    kind: str,
    cache: Path,
    config: MuseConfig,
    weights: Path | None,
    share: tuple[int, int],
    show: bool,
    verify: bool,
    threads: int,
    stop: Callable[[], int],
) -> None:
    """Compute the rows that the share (rank, of how many) owns. `threads` read ahead for a GPU; 0: there is none."""
    torch.set_num_threads(1 if share[1] > 1 else torch.get_num_threads())
    how = {"show": show, "rank": share[0], "world": share[1], "verify": verify, "stop": stop}
    name = maker(kind, config, weights)
    if kind == "tokens":
        texts = captions_of(read_clips(cache, fields=["id", "captions"]))
        encode = encoders.text_encoder(config.text)

        def encode_texts(ids: list[str]) -> tuple[dict, dict]:
            tokens, mask = encode.encode_batch([texts[i] for i in ids])
            return {"x": as_half(tokens.cpu()), "mask": mask.cpu()}, {}

        build_shards(cache / kind, texts, name, encode_texts, **how)
        return
    clips = {c["id"]: c for c in read_clips(cache, fields=["id", "path", "start", "seconds", "sample_rate"])}
    sources = Sources(cache, clips)

    def read(clip: dict) -> torch.Tensor:
        if threads:  # in one of several threads: hash the file too, and copy to the GPU
            sources.of(clip["id"])
        return read_clip(cache, clip).to(distributed.device())

    with torch.inference_mode():
        size = GPU_BATCH if threads and batched(kind, config) else 1
        compute = each_clip(clips, read, from_audio(kind, config, weights), threads, size)
        build_shards(cache / kind, clips, name, compute, sources=sources, **how)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold signals back in this block; processes that are started in it never get them (Windows: no effect)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_processes(function: Callable, each: list[tuple], stop: Callable[[], int], what: str) -> None:
    """`function(*arguments, stop)` for each arguments in a process of its own; all of them end when one fails.

    Raises MuseError when a process raises one or dies, and `Stopped` when `stop()` says so: every process then ends
    after its shard in hand.
    """
    context = multiprocessing.get_context("spawn")
    halt, errors = context.Event(), context.SimpleQueue()
    processes = [context.Process(target=_process, args=(halt, errors, function, arguments)) for arguments in each]
    with signals_blocked():  # only the parent answers signals
        for process in processes:
            process.start()
    while running := [process for process in processes if process.exitcode is None]:
        if stop() or any(process.exitcode for process in processes):
            halt.set()
        running[0].join(0.1)
    if not errors.empty():
        raise MuseError(errors.get())
    if code := stop():
        raise distributed.Stopped(code)
    if any(process.exitcode for process in processes):
        raise MuseError(f"a process that computes {what} died; run the same command again to go on")


def _process(halt, errors, function: Callable, arguments: tuple) -> None:
    try:
        function(*arguments, lambda: 75 * halt.is_set())
    except MuseError as error:
        errors.put(str(error))
        raise SystemExit(2) from None


def precompute(
    kind: str,
    cache: Path,
    config: MuseConfig,
    weights: Path | None = None,
    workers: int = 1,
    show: bool = True,
    *,
    share: tuple[int, int] = (0, 1),
    remake: bool = True,
    verify: bool = False,
    stop: Callable[[], int] = lambda: 0,
) -> Manifest:
    """Compute the missing rows of one kind, in `workers` processes; returns the manifest. The same call resumes.

    share: (rank, of how many) where several such calls share the work. `remake=False` raises MuseError instead of
    replacing rows of other weights. `verify` replaces shards that differ from their hash. On a GPU there is one
    process, for which the other workers read ahead. Raises `Stopped` after the shard in hand when `stop()` says so.
    """
    if kind not in KINDS:
        raise suggest(kind, KINDS, "kind of cache")
    cache, name = Path(cache), maker(kind, config, weights)
    other = [shard for shard in store.read_shards(cache / kind) if shard["maker"] != name]
    if other and not remake:
        raise MuseError(
            f"{cache / kind} was made by other weights or settings ({other[0]['maker']}, not {name}): give --remake to"
            f" make its {sum(len(shard['ids']) for shard in other):,} rows again, or another --out"
        )
    clips = read_clips(cache, fields=["id", "captions"])
    wanted = captions_of(clips) if kind == "tokens" else [clip["id"] for clip in clips]
    gpu = distributed.device().type == "cuda"
    processes, threads = (1, max(2, workers)) if gpu else (max(1, workers), 0)
    shares = [(share[0] * processes + i, share[1] * processes) for i in range(processes)]
    each = [(kind, cache, config, weights, s, show and i == 0, verify, threads) for i, s in enumerate(shares)]
    if processes == 1:
        compute_rank(*each[0], stop)
    else:
        run_processes(compute_rank, each, stop, kind)
    return store.merge_manifest(cache / kind, wanted, name)
