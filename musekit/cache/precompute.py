"""`musekit cache`: the clips of a corpus, then each kind of rows; in one process, several ranks, or a Slurm array.

views       the embedder's features            from audio (to train the mini embedder)
tokens      text token states and masks        from captions, by the frozen text encoder
latents     codec latents                      from audio, by the trained codec
embeddings  joint embeddings of the audio      from audio, by the trained embedder

Shards have a name (`maker`) for the weights or settings that computed them; those of another name are never mixed in.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import torch
from torch import Tensor

from musekit import distributed, gpu, pretrained
from musekit.cache import Manifest, build_shards, caption_id, config_hash, read_clips
from musekit.config import EmbedderConfig, MuseConfig, MuseError, identity, preset, suggest
from musekit.corpus import families, plan, readers
from musekit.corpus.processes import end_if
from musekit.corpus.sound import Sound, read_audio
from musekit.encoders.mini import JointEmbedder, features
from musekit.encoders.muq import MuQ
from musekit.encoders.text import text_encoder

KINDS = ("tokens", "views", "latents", "embeddings")
PARTS = {"latents": "codec", "embeddings": "embedder"}  # kinds that need a part's weights
FRONTS = {"views": "embedder"}  # the input features of the embedder that is trained here


def named(config) -> str:
    """A hash of a config; fields that came `later` change it only where they are not at their default."""
    first = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.repr}
    values = identity(config)
    return config_hash(config) if values == first else config_hash(config, sorted(values.items()))


def maker(kind: str, config: MuseConfig, weights: Path | None = None) -> str:
    """The name of what computes this kind: the hash of its weights, or of its settings. Nothing is loaded.

    Raises MuseError when there are no weights, or the preset has no such kind.
    """
    part = PARTS.get(kind) or FRONTS.get(kind) or "text"
    if pretrained.public(part, config):
        if kind in FRONTS:
            raise MuseError(f"the preset {config.name} has no {kind}: a public model reads the audio; leave it out")
        length = f" of {config.text.max_tokens}" if kind == "tokens" else ""
        return f"{kind} {pretrained.public_hash(part, config)[:16]}{length}"
    if kind == "tokens":
        return f"tokens {named(config.text)}"
    if kind == "views":
        full = config.embedder  # a view depends on these three fields only
        front = EmbedderConfig(sample_rate=full.sample_rate, bands=full.bands, onset_bands=full.onset_bands)
        return f"views {named(front)}"
    if weights is None:
        raise MuseError(f"caching {kind} needs trained weights; give --weights FOLDER")
    return f"{kind} {pretrained.read_hashes(pretrained.find(weights)).get(part, '')[:16]}"


def from_audio(kind: str, config: MuseConfig, weights: Path | None) -> Callable[[Tensor], Tensor]:
    """The function from a clip's audio (1, 2, N) to its row (1, T, D), on this rank's GPU."""
    rate, device = config.codec.sample_rate, gpu.device()
    if kind == "views":
        return lambda audio: features(config.embedder, audio.to(device), rate)
    if pretrained.public(PARTS[kind], config):
        network, _ = pretrained.load_public(PARTS[kind], config)
    else:
        network = pretrained.load_part(weights, PARTS[kind])[0].to(device)
    if kind == "latents":
        return lambda audio: network.encode(audio.to(device)).transpose(1, 2)
    embedder = network if isinstance(network, MuQ) else JointEmbedder(network, None)
    return lambda audio: embedder.embed_audio(audio.to(device), rate)[:, None]


def read_clip(cache: Path, clip: dict, opened: Callable[[Path], Sound] = Sound) -> Tensor:
    """A clip's audio, (2, N) at its record's rate. Raises `corpus.sound.BadAudio` when it is not usable."""
    start, seconds = (clip["start"], clip["seconds"]) if "start" in clip else (0.0, None)  # the whole file
    sound = opened(Path(cache) / clip["path"])
    return torch.from_numpy(read_audio(sound, clip["sample_rate"], start, seconds))


def inputs_of(kind: str, cache: Path) -> dict[str, dict | str]:
    """What rows of a kind are computed from: {clip id: its record}, or for tokens {caption id: text}."""
    if kind == "tokens":
        clips = read_clips(cache, fields=["id", "captions"])
        return {caption_id(c["text"]): c["text"] for clip in clips for c in clip["captions"]}
    return {c["id"]: c for c in read_clips(cache, fields=["id", "path", "start", "seconds", "sample_rate"])}


def compute_of(
    kind: str, cache: Path, config: MuseConfig, weights: Path | None, inputs: dict, readers: int = 1
) -> Callable:
    """`compute` for `build_shards`, with its network loaded. A clip that cannot be read is set aside.

    readers: threads that read whole files ahead of the network. The clips of a long file come one after another.
    """
    opened, threads = functools.lru_cache(1)(Sound), ThreadPoolExecutor(readers)
    network = text_encoder(config.text) if kind == "tokens" else from_audio(kind, config, weights)
    if kind == "tokens":
        network.model.to(gpu.device())

    def encode_texts(ids: list[str]) -> tuple[dict, dict]:
        tokens, mask = network.encode_batch([inputs[i] for i in ids])
        return {"x": tokens.half().cpu(), "mask": mask.cpu()}, {}

    def read(key: str) -> Tensor | str:
        try:
            return read_clip(cache, inputs[key], opened if "start" in inputs[key] else Sound)
        except Exception as error:  # noqa: BLE001 - one bad file never ends the run; the manifest says why
            return f"{type(error).__name__}: {error}"

    # the latents of silence, which follows a piece that has ended: the middle frame of 2 s
    silence = network(torch.zeros(1, 2, 2 * config.codec.sample_rate))[0].half().cpu() if kind == "latents" else None

    def encode_clips(ids: list[str]) -> tuple[dict, dict]:
        rows, set_aside = [], {}
        ahead = readers > 1 and not any("start" in inputs[key] for key in ids)
        for key, audio in zip(ids, (threads.map if ahead else map)(read, ids)):
            if isinstance(audio, str):
                set_aside[key] = audio
                continue
            row = network(audio[None])[0].half().cpu()
            if row.isfinite().all():
                rows.append(row)
            else:
                set_aside[key] = "the encoder gave no finite numbers"
        if not rows:
            return {"x": torch.zeros(0, 1, 1)}, set_aside
        lengths = torch.tensor([len(row) for row in rows])
        found = {"x": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), "length": lengths}
        if silence is not None:
            found["silence"] = silence[len(silence) // 2].expand(len(rows), -1)
        return found, set_aside

    return encode_texts if kind == "tokens" else encode_clips


@functools.cache
def _loaded(*what) -> Callable:
    torch.set_num_threads(1)
    return torch.inference_mode()(compute_of(*what, inputs_of(*what[:2])))


def compute_in_worker(what: tuple, ids: list[str]) -> tuple[dict, dict]:
    """`compute_of(*what)` in a worker process, which loads its network at the first call."""
    return _loaded(*what)(ids)


def precompute(
    kind: str, cache: Path, config: MuseConfig, weights: Path | None = None, workers: int = 1, **options
) -> Manifest:
    """Compute the missing rows of one kind, in `workers` processes (on a GPU: one); returns the manifest.

    options: those of `build_shards`, which also says what is raised.
    """
    if kind not in KINDS:
        raise suggest(kind, KINDS, "kind of cache")
    cache, name = Path(cache), maker(kind, config, weights)
    inputs = inputs_of(kind, cache)
    if workers == 1 or gpu.device().type == "cuda":
        workers, compute = 1, compute_of(kind, cache, config, weights, inputs, workers)
    else:
        compute = functools.partial(compute_in_worker, (kind, cache, config, weights))
    clips = None if kind == "tokens" else inputs
    with torch.inference_mode():
        return build_shards(cache / kind, inputs, name, compute, clips=clips, workers=workers, **options)


def share_of(text: str) -> tuple[int, int]:
    """(rank, of how many) of this process: torchrun's ranks within the share "INDEX/COUNT". Raises MuseError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise MuseError(f"--share {text}: give INDEX/COUNT with INDEX from 0 to COUNT - 1, for example 0/4")
    return int(found[1]) * distributed.world() + distributed.rank(), int(found[2]) * distributed.world()


def make_clips(
    options, name: str, folder: Path | None, out: Path, config: MuseConfig, stop: Callable[[], int]
) -> list[str]:
    """Make the clips of the corpus; returns a table of them. Ranks that waited while they were made do nothing."""
    out.mkdir(parents=True, exist_ok=True)
    clips, lock = out / "clips.jsonl", filelock.FileLock(out / ".lock")
    before = clips.stat().st_mtime_ns if clips.exists() else 0
    while not lock.is_locked:
        end_if(stop)
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=0.2)
    with lock:
        lock.release()  # the loop's own
        if clips.exists() and clips.stat().st_mtime_ns != before:
            return []
        if name == "scores":
            made = plan.build_clips(out, n=options.n, workers=options.workers, seed=options.seed, stop=stop)
            return readers.table("clips", len(made), "of scores", families.set_aside(out))
        seconds = options.seconds or float(math.floor(config.window_seconds))
        return readers.read_corpus(name, folder, out, seconds, stop)[1]


def build_cache(options) -> None:
    """`musekit cache`: the clips of a corpus, then each kind that is asked for."""
    config = preset(options.preset)
    distributed.check_gpus()
    if options.seconds is not None and not 1 <= options.seconds <= 600:
        raise MuseError(f"--seconds {options.seconds:g}: clips last from 1 to 600 s")
    for name, least in (("n", 1), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise MuseError(f"--{name} must be {least} or more, not {getattr(options, name)}")
    out, share = options.folder(), share_of(options.share)
    corpus = readers.choose(options.corpus, options.data) if "clips" in options.kinds else None
    trained = [kind for kind in PARTS if kind in options.kinds and not pretrained.public(PARTS[kind], config)]
    weights = pretrained.find(options.weights) if trained else None
    with distributed.signals() as stop:
        try:
            lines, empty = make_clips(options, *corpus, out, config, stop) if corpus else [], []
            for kind in (k for k in KINDS if k in options.kinds):
                manifest = precompute(
                    kind, out, config, weights if kind in trained else None, options.workers, share=share,
                    show=share[0] == 0, remake=options.remake, verify=options.verify, stop=stop,
                )  # fmt: skip
                more = "" if manifest["complete"] else "; more to come from other ranks, or from this command again"
                reasons = {key: why.removeprefix("BadAudio: ") for key, why in manifest["set_aside"].items()}
                lines += readers.table(kind, manifest["rows"], f"-> {out / kind}{more}", reasons)
                empty += [kind] if manifest["complete"] and not manifest["rows"] else []
        except distributed.Stopped:
            print(f"stopped by a signal; what is finished is in {out}: run the same command again")
            raise
    print("\n".join(lines))
    if empty:
        raise MuseError(f"nothing was taken ({', '.join(empty)}); the table above says why")
