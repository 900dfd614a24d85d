"""What is computed once from the clips of a cache, and by what.

spectra     the codec's compressed spectra     from audio (to train the codec)
views       the embedder's view                from audio (to train the embedder)
tokens      text token states and masks        from captions, by the frozen text encoder
latents     codec latents                      from audio, by the trained codec
embeddings  joint embeddings of the audio      from audio, by the trained embedder
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from musekit import encoders, pretrained, spectrum
from musekit.cache import SHARD, Shards, as_half, build_shards, caption_id, config_hash, merge_manifest, read_clips
from musekit.config import MuseConfig, MuseError, suggest

KINDS = ("tokens", "spectra", "views", "latents", "embeddings")


class SetAside(Exception):
    """A clip that was set aside when its view or spectrum was made, with the reason given then."""


def read_clip(cache: Path, clip: dict) -> torch.Tensor:
    """A clip's audio, (2, N) at its record's rate. Raises `corpus.folder.BadAudio` when it is not usable."""
    from musekit.corpus.folder import read_audio

    return torch.from_numpy(read_audio(cache / clip["path"], clip["sample_rate"]))


def each_clip(clips: dict[str, dict], read: Callable[[dict], torch.Tensor], function: Callable) -> Callable:
    """`compute` for `build_shards`: `function` of each clip alone; one that cannot be read is set aside."""

    def compute(ids: list[str]) -> tuple[dict, dict]:
        rows, set_aside = [], {}
        for i in ids:
            try:
                rows.append(as_half(function(read(clips[i])[None])[0]))
            except SetAside as before:
                set_aside[i] = str(before)
            except MuseError:
                raise  # the cache itself is damaged: no clip's fault
            except Exception as error:  # noqa: BLE001 - one bad file never ends the run; the manifest says why
                set_aside[i] = f"{type(error).__name__}: {error}"
        if not rows:
            return {"x": torch.zeros(0, 1, 1)}, set_aside
        longest = max(len(r) for r in rows)
        lengths = torch.tensor([len(r) for r in rows])
        return {"x": torch.stack([pad(r, longest) for r in rows]), "length": lengths}, set_aside

    return compute


def pad(x: torch.Tensor, length: int) -> torch.Tensor:
    """x (T, D) with zeros up to `length` rows."""
    return torch.nn.functional.pad(x, (0, 0, 0, length - len(x)))


def maker_and_function(kind: str, config: MuseConfig, weights: Path | None) -> tuple[str, Callable]:
    """What makes this kind (named by its weights' hash) and the function from audio (1, 2, N) to a row (1, T, D)."""
    rate = config.codec.sample_rate
    if kind == "spectra":
        front = config.codec
        return f"spectra {config_hash(front.n_fft, front.stft_hop, front.frames, front.power)}", (
            lambda audio: spectrum.compress(front, audio)
        )
    if kind == "views":
        return f"views {config_hash(config.embedder)}", lambda audio: encoders.view(config.embedder, audio, rate)
    if weights is None:
        raise MuseError(f"caching {kind} needs trained weights; give --weights FOLDER")
    if kind == "latents":
        codec, digest = pretrained.load_part(weights, "codec")
        return f"latents {digest[:16]}", lambda audio: codec.encode(audio).transpose(1, 2)
    network, digest = pretrained.load_part(weights, "embedder")
    embedder = encoders.JointEmbedder(network, encode_text=None)
    return f"embeddings {digest[:16]}", lambda audio: embedder.embed_audio(audio, rate)[:, None]


def from_front(kind: str, weights: Path) -> Callable:
    """Like `maker_and_function`'s, from a cached view or spectrum (1, T, D) instead of audio."""
    if kind == "embeddings":
        tower = pretrained.load_part(weights, "embedder")[0].audio_tower
        return lambda view: tower(view)[:, None]
    codec = pretrained.load_part(weights, "codec")[0]
    return lambda c: codec.posterior(codec.scaled(c))[0]


def seen(front: str | None, cache: Path, config: MuseConfig, clips: Iterable[str]) -> Shards | None:
    """The cached views or spectra, if this config's front end made them, of all these clips but those set aside."""
    if front is None or not (cache / front / "manifest.json").exists():
        return None
    shards = Shards(cache / front)
    right = shards.manifest["complete"] and shards.manifest["maker"] == maker_and_function(front, config, None)[0]
    return shards if right and set(clips) <= shards.index.keys() | shards.manifest["set_aside"].keys() else None


def captions_of(clips: Iterable[dict]) -> dict[str, str]:
    """{caption id: text} of every distinct caption."""
    return {caption_id(c["text"]): c["text"] for clip in clips for c in clip["captions"]}


def compute_rank(
    kind: str, cache: Path, config: MuseConfig, weights: Path | None, rank: int, world: int, show: bool
) -> None:
    """This rank's share of the shards of one kind."""
    from tqdm import tqdm

    torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    progress = (lambda shards, **kw: tqdm(shards, unit="shard", **kw)) if show else (lambda shards, **kw: shards)
    clips = {c["id"]: c for c in read_clips(cache)}
    if kind == "tokens":
        encode, texts = encoders.text_encoder(config.text), captions_of(clips.values())

        def compute(ids: list[str]) -> tuple[dict, dict]:
            tokens, mask = encode.together([texts[i] for i in ids])
            return {"x": as_half(tokens), "mask": mask}, {}

        build_shards(
            cache / kind,
            texts,
            f"tokens {config_hash(config.text)}",
            compute,
            progress=progress,
            rank=rank,
            world=world,
        )
        return
    maker, function = maker_and_function(kind, config, weights)

    def read(clip: dict) -> torch.Tensor:
        return read_clip(cache, clip)

    front = seen({"embeddings": "views", "latents": "spectra"}.get(kind), cache, config, clips)
    if front is not None:  # the network's own input is there already: most of the work is done

        def read(clip: dict) -> torch.Tensor:
            if clip["id"] not in front:
                raise SetAside(front.manifest["set_aside"][clip["id"]])
            return front.row(clip["id"], stop=front.row_length(clip["id"])).float()

        function = from_front(kind, weights)

    with torch.inference_mode():
        compute = each_clip(clips, read, function)
        build_shards(cache / kind, clips, maker, compute, progress=progress, rank=rank, world=world)


def precompute(
    kind: str,
    cache: Path,
    config: MuseConfig,
    weights: Path | None = None,
    workers: int = 1,
    show: bool = True,
) -> dict:
    """Compute what is missing of one kind, in `workers` processes; returns the manifest. Same command resumes."""
    if kind not in KINDS:
        raise suggest(kind, KINDS, "kind of cache")
    cache = Path(cache)
    if workers <= 1:
        compute_rank(kind, cache, config, weights, 0, 1, show)
    else:
        context = multiprocessing.get_context("spawn")
        arguments = [(kind, cache, config, weights, rank, workers, show and rank == 0) for rank in range(workers)]
        processes = [context.Process(target=compute_rank, args=a) for a in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise MuseError(f"a worker that made {kind} stopped; run the same command again to go on")
    manifest = json.loads((cache / kind / "manifest.json").read_text())
    return merge_manifest(cache / kind, manifest_size(kind, cache), manifest["maker"])


def manifest_size(kind: str, cache: Path) -> int:
    """Number of shards that a complete folder of this kind has."""
    clips = read_clips(cache)
    rows = len(captions_of(clips)) if kind == "tokens" else len(clips)
    return -(-rows // SHARD)


def build_cache(options) -> None:
    """`musekit cache`: the clips of a corpus, then each kind asked for."""
    from musekit.config import home, preset

    config = preset(options.preset)
    name = "scores" if options.corpus == "scores" else Path(options.corpus).name
    out = Path(options.out or home() / "caches" / name)
    if "clips" in options.kinds:
        if options.corpus == "scores":
            from musekit.corpus.clips import build_clips

            build_clips(out, n=options.n, workers=options.workers, seed=options.seed)
        else:
            from musekit.corpus.folder import read_folder

            read_folder(Path(options.corpus), out)
    for kind in KINDS:
        if kind in options.kinds:
            from musekit import pretrained

            weights = pretrained.find(options.weights) if kind in ("latents", "embeddings") else None
            manifest = precompute(kind, out, config, weights, options.workers)
            print(f"{kind}: {manifest['rows']:,} rows, {len(manifest['set_aside'])} set aside -> {out / kind}")
