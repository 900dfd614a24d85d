"""What is computed once from the clips of a cache, and by what.

spectra     the codec's compressed spectra     from audio (to train the mini codec)
views       the embedder's view                from audio (to train the mini embedder)
tokens      text token states and masks        from captions, by the frozen text encoder
latents     codec latents                      from audio, by the trained codec
embeddings  joint embeddings of the audio      from audio, by the trained embedder
transposed  the same in ten other keys         from views, by the trained mini embedder: more pieces for Stage 1
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from musekit import distributed, encoders, pretrained
from musekit.cache import SHARD, Shards, as_half, build_shards, caption_id, merge_manifest, read_clips, read_sidecar
from musekit.cache.makers import PARTS, batched, from_front, maker, maker_and_function
from musekit.cache.sources import Sources
from musekit.cache.workers import run as run_workers
from musekit.config import MuseConfig, MuseError, suggest

TOGETHER = 16  # clips that a GPU works on at once; one of 12 s fills a small part of it
KINDS = ("tokens", "spectra", "views", "latents", "embeddings", "transposed")


class SetAside(Exception):
    """A clip that was set aside when its view or spectrum was made, with the reason given then."""


def read_clip(cache: Path, clip: dict) -> torch.Tensor:
    """A clip's audio, (2, N) at its record's rate. Raises `corpus.folder.BadAudio` when it is not usable."""
    from musekit.corpus.sound import read_audio

    stretch = (clip["start"], clip["seconds"]) if "start" in clip else ()  # else the whole file
    return torch.from_numpy(read_audio(cache / clip["path"], clip["sample_rate"], *stretch))


def ahead(function: Callable, items: Iterable, threads: int) -> Iterator:
    """`function` of each item, in order; up to so many are computed ahead, in threads."""
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


def groups(read: Iterable[tuple[str, torch.Tensor | str]], size: int) -> Iterator[tuple[list[str], list]]:
    """(ids, what was read of them): neighbours of one shape, at most `size`; what could not be read stays alone."""
    ids, held = [], []
    for i, x in read:
        if held and (len(held) == size or isinstance(x, str) or isinstance(held[0], str) or x.shape != held[0].shape):
            yield ids, held
            ids, held = [], []
        ids.append(i)
        held.append(x)
    if held:
        yield ids, held


def each_clip(
    clips: dict[str, dict], read: Callable[[dict], torch.Tensor], function: Callable, threads: int = 0, size: int = 1
) -> Callable:
    """`compute` for `build_shards`: `function` of each clip alone, or of up to `size` equally long neighbours at once.

    One that cannot be read is set aside. `threads` read ahead while `function` works, where that is on a GPU. Raises
    MuseError when `function` fails, or its rows have different widths: that is no clip's fault.
    """

    def try_read(i: str) -> torch.Tensor | str:
        try:
            return read(clips[i])[None]
        except SetAside as before:
            return str(before)
        except MuseError:
            raise  # the cache itself is damaged: no clip's fault
        except Exception as error:  # noqa: BLE001 - one bad file never ends the run; the manifest says why
            return f"{type(error).__name__}: {error}"

    def compute(ids: list[str]) -> tuple[dict, dict]:
        rows, set_aside = [], {}
        for some, audio in groups(zip(ids, ahead(try_read, ids, threads)), size):
            if isinstance(audio[0], str):
                set_aside[some[0]] = audio[0]
                continue
            try:
                made = as_half(function(torch.cat(audio) if audio[1:] else audio[0]).cpu())
            except MuseError:
                raise
            except Exception as error:
                told = (str(error).splitlines() or [""])[0]
                raise MuseError(f"the encoder failed at the clip {some[0]}: {type(error).__name__}: {told}") from error
            for i, row in zip(some, made, strict=True):
                if not row.isfinite().all():
                    set_aside[i] = "the encoder gave no finite numbers"
                elif rows and row.shape[1:] != rows[0].shape[1:]:
                    shapes = f"{tuple(row.shape)} after {tuple(rows[0].shape)}"
                    raise MuseError(f"the encoder's rows have different shapes: {shapes} at the clip {i}")
                else:
                    rows.append(row)
        if not rows:
            return {"x": torch.zeros(0, 1, 1)}, set_aside
        longest = max(len(r) for r in rows)
        lengths = torch.tensor([len(r) for r in rows])
        return {"x": torch.stack([pad(r, longest) for r in rows]), "length": lengths}, set_aside

    return compute


def pad(x: torch.Tensor, length: int) -> torch.Tensor:
    """x (T, D) with zeros up to `length` rows."""
    return torch.nn.functional.pad(x, (0, 0, 0, length - len(x)))


def seen(front: str | None, cache: Path, config: MuseConfig, sources: Sources) -> Shards | None:
    """The cached views or spectra, if this config's front end made them, of all these clips but those set aside, from
    the sound that the clips have now.
    """
    if front is None or not (cache / front / "manifest.json").exists():
        return None
    shards, clips = Shards(cache / front), sources.clips.keys()
    right = shards.manifest["complete"] and shards.manifest["maker"] == maker(front, config)
    if not right or not clips <= shards.index.keys() | shards.manifest["set_aside"].keys():
        return None
    for shard in shards.manifest["shards"]:
        path, told = cache / front / shard["file"], read_sidecar((cache / front / shard["file"]).with_suffix(".json"))
        ids = clips & {*shard["ids"], *shard["set_aside"]}
        if path.exists() and sources.unchanged(ids, told.get("sources"), path.stat().st_mtime) is None:
            return None
    return shards


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
    size: int,
    stop: Callable[[], int],
) -> None:
    """This rank's share (rank, of how many) of the shards of one kind, `size` clips at once where the kind allows."""
    from tqdm import tqdm

    torch.set_num_threads(1 if share[1] > 1 else torch.get_num_threads())
    progress = (lambda shards, **kw: tqdm(shards, unit="shard", **kw)) if show else (lambda shards, **kw: shards)
    clips = {c["id"]: c for c in read_clips(cache)}
    how = {"progress": progress, "rank": share[0], "world": share[1], "verify": verify, "stop": stop}
    if kind == "tokens":
        texts = captions_of(clips.values())
        encode = encoders.text_encoder(config.text)

        def compute(ids: list[str]) -> tuple[dict, dict]:
            tokens, mask = encode.encode_batch([texts[i] for i in ids])
            return {"x": as_half(tokens.cpu()), "mask": mask.cpu()}, {}

        build_shards(cache / kind, texts, maker(kind, config), compute, **how)
        return
    sources = Sources(cache, clips)
    trained_here = kind in PARTS and not pretrained.public(PARTS[kind], config)
    front = {"embeddings": "views", "transposed": "views", "latents": "spectra"}[kind] if trained_here else None
    front = seen(front, cache, config, sources)
    if front is None:
        name, function = maker_and_function(kind, config, weights)

        def read(clip: dict) -> torch.Tensor:
            if threads:  # ahead, in one of several: hash the file too, and give the GPU its copy
                sources.of([clip["id"]])
                return read_clip(cache, clip).to(distributed.device())
            return read_clip(cache, clip)

    else:  # the network's own input is there already: most of the work is done
        name, function, threads = maker(kind, config, weights), from_front(kind, weights), 0

        def read(clip: dict) -> torch.Tensor:
            if clip["id"] not in front:
                raise SetAside(front.manifest["set_aside"][clip["id"]])
            return front.row(clip["id"], stop=front.row_length(clip["id"])).float()

    with torch.inference_mode():
        compute = each_clip(clips, read, function, threads, size if batched(kind, config) else 1)
        build_shards(cache / kind, clips, name, compute, sources=sources, **how)


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
) -> dict:
    """Compute what is missing of one kind, in `workers` processes; returns the manifest. Same command resumes.

    share: (rank, of how many) where several such commands share the work; `remake=False` raises MuseError instead of
    making again what other weights have made; `verify` makes shards again that differ from their hash. On a GPU there
    is one process, for which the other workers read ahead. Raises `Stopped` after the shard in hand when `stop()`.
    """
    if kind not in KINDS:
        raise suggest(kind, KINDS, "kind of cache")
    cache, name = Path(cache), maker(kind, config, weights)
    before = read_sidecar(cache / kind / "manifest.json")
    if not remake and before.get("rows") and before.get("maker") != name:
        raise MuseError(
            f"{cache / kind} was made by other weights or settings ({before.get('maker')}, not {name}): give --remake"
            f" to make its {before['rows']:,} rows again, or another --out"
        )
    gpu = distributed.device().type == "cuda"
    processes, threads, size = (1, max(2, workers), TOGETHER) if gpu else (max(1, workers), 0, 1)
    shares = [(share[0] * processes + i, share[1] * processes) for i in range(processes)]
    each = [(kind, cache, config, weights, s, show and i == 0, verify, threads, size) for i, s in enumerate(shares)]
    if processes == 1:
        compute_rank(*each[0], stop)
    else:
        run_workers(compute_rank, each, stop, kind)
    return merge_manifest(cache / kind, manifest_size(kind, cache), name)


def manifest_size(kind: str, cache: Path) -> int:
    """Number of shards that a complete folder of this kind has."""
    clips = read_clips(cache)
    rows = len(captions_of(clips)) if kind == "tokens" else len(clips)
    return -(-rows // SHARD)
