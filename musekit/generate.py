"""`musekit generate`: pieces as WAV files, each with its recipe. The same command makes only what is missing.

A piece is finished when its `<name>.json` exists: recipe, similarity, network evaluations and the hash of the WAV,
which is written first. Both files are written atomically, so a kill at any moment leaves whole files only. Under
torchrun the ranks share the micro-batches; the bits of a piece depend on its recipe only.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from musekit.config import MuseError
from musekit.files import read_json, write_atomic
from musekit.jobs import Job, Request, batches_of, check_folder, notice, plan, read_requests, share, short
from musekit.recipe import Recipe, file_stem

STAGES = {"stage1": "text to embedding", "stage2": "embedding to latents", "codec": "latents to audio"}
BARRIER_TIMEOUT = datetime.timedelta(days=30)  # how long a rank that has finished its share waits for the others
MAX_ROWS_SHOWN = 100  # pieces in the table
MAX_CLIPS_SHOWN = 16  # pieces in the contact sheet


@dataclass(frozen=True)
class Finished(Job):
    """A finished piece."""

    similarity: float  # cosine of the embeddings of the prompt and of the audio
    nfe: dict[str, int]


@dataclass
class Sidecar:
    """The content of a piece's `<name>.json`."""

    recipe: Recipe
    similarity: float
    nfe: dict[str, int]
    sha256: str  # of the WAV


def generate_files(options) -> list[Finished]:
    """Make the pieces that the options of `commands.Generate` describe; returns all of them on rank 0, else [].

    Memory does not grow with the number of pieces. Raises MuseError before anything is written, or when the disk or the
    memory is full; finished pieces remain.
    """
    began = time.perf_counter()
    note = notice if os.environ.get("RANK", "0") == "0" else lambda text: None
    requests = read_requests(options, note)
    check_folder(options.out)

    import torch

    from musekit import distributed
    from musekit.muse import Muse

    muse, first = Muse.from_pretrained(options.weights, dtype=options.dtype), distributed.rank() == 0
    if options.threads is not None:
        if not 1 <= options.threads <= 4096:
            raise MuseError(f"--threads must be from 1 to 4096, not {options.threads}")
        torch.set_num_threads(options.threads)
    jobs = plan(muse, requests, options)
    with distributed.signals(interrupt=False) as stop, distributed.process_group(BARRIER_TIMEOUT):
        missing = [job for job in share(jobs, distributed.rank(), distributed.world()) if read_finished(job) is None]
        distributed.barrier()  # no rank starts before all have looked
        if (kept := len(jobs) - sum(distributed.all_gather(len(missing)))) and first:
            print(f"{kept} of {len(jobs)} pieces exist already with the same recipe and are kept", flush=True)
        if missing:
            load(muse, requests.values(), note)
            make(muse, missing, began, stop)
        distributed.barrier()
    if not first:
        return []
    pieces = [read_finished(job, verify=False) for job in jobs]
    if None in pieces:
        raise MuseError(f"a piece in {options.out} was changed during this run; run the same command again")
    show(pieces, options, requests)
    if missing:
        seconds = sum(job.recipe.seconds for job in missing)
        print(f"{seconds:.0f} s of audio in {time.perf_counter() - began:.1f} s, including loading", flush=True)
    return pieces


def load(muse, requests: Iterable[Request], note: Callable[[str], None]) -> None:
    """Load all components, so that a damaged file is reported before the first step; report prompts that are cut."""
    texts = [text for r in requests for text in (r.prompt, r.negative_prompt) if text is not None]
    tokens = muse.config.text.max_tokens
    for text in dict.fromkeys(texts):
        if muse.text.is_cut(text):
            note(f"the text encoder reads the first {tokens} tokens (about {tokens * 3 // 4} words) of {short(text)!r}")
    for part in ("stage1", "stage2", "codec", "embedder"):
        getattr(muse, part)


def make(muse, missing: list[Job], began: float, stop: Callable[[], int]) -> None:
    """Sample the missing pieces and write each one when it is finished. Raises `distributed.Stopped` after a signal."""
    from tqdm import tqdm

    from musekit import distributed

    batches = list(batches_of(missing))
    n, done, first = len(missing), 0, distributed.rank() == 0
    total = sum(b[0].recipe.stage1_steps + b[0].recipe.stage2_steps + len(b) for b in batches)
    with tqdm(total=total, unit="step", disable=None if first else True, leave=False, dynamic_ncols=True) as bar:
        for batch in batches:
            if code := stop():
                finished_now = f"{done} of {n} pieces of rank {distributed.rank()} are finished"
                print(f"stopped on a signal; {finished_now}; run the same command to continue", flush=True)
                raise distributed.Stopped(code)
            on_step = progress(bar, batch[0].recipe, f"piece {done + 1} of {n}")
            try:
                for piece in muse.stream([job.recipe for job in batch], on_step):
                    write(missing[done].path, piece)
                    done += 1
                    if done == 1 and first:
                        bar.clear()
                        print(f"first piece after {time.perf_counter() - began:.1f} s: {missing[0].path}", flush=True)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, MemoryError) or "memory" in str(error).lower():
                    raise MuseError("this machine has too little free memory; try --micro-batch 1") from error
                raise
            on_step("codec", len(batch), len(batch))


def progress(bar, first: Recipe, label: str) -> Callable[[str, int, int], None]:
    """An `on_step` that moves a tqdm bar through one micro-batch, starting at the bar's position."""
    start, n1, n2 = bar.n, first.stage1_steps, first.stage2_steps
    before = {"stage1": 0, "stage2": n1, "codec": n1 + n2}

    def on_step(stage: str, i: int, _: int) -> None:
        bar.set_description(f"{label}: {STAGES[stage]}", refresh=False)
        bar.update(max(0, start + before[stage] + i - bar.n))

    return on_step


def write(path: Path, piece) -> None:
    """Write a `muse.Piece` as a 16-bit WAV with its recipe as comment, then its JSON file."""
    import soundfile

    recipe, data, sidecar = piece.recipe, io.BytesIO(), path.with_suffix(".json")
    with soundfile.SoundFile(data, "w", piece.sample_rate, 2, subtype="PCM_16", format="WAV") as file:
        file.comment = recipe.to_json()
        file.write(piece.audio.T.numpy())
    if path.exists() or sidecar.exists():
        notice(f"{path} existed with another recipe, or unfinished, and is replaced")
    sidecar.unlink(missing_ok=True)
    write_atomic(path, data.getvalue())
    content = Sidecar(recipe, round(piece.similarity, 6), piece.nfe, hashlib.sha256(data.getvalue()).hexdigest())
    write_atomic(sidecar, json.dumps(asdict(content), indent=1, ensure_ascii=False) + "\n")


def read_finished(job: Job, verify: bool = True) -> Finished | None:
    """The finished piece of exactly this recipe; None when it is missing or damaged. verify: compare the WAV's hash."""
    try:
        found = read_json(job.path.with_suffix(".json"), Sidecar)
        same = found.recipe == job.recipe and job.path.exists()
        if same and (not verify or found.sha256 == hashlib.sha256(job.path.read_bytes()).hexdigest()):
            return Finished(job.path, job.recipe, found.similarity, found.nfe)
    except (OSError, MuseError):
        pass
    return None


def show(pieces: list[Finished], options, requests: dict[int, Request]) -> None:
    """Print the table of pieces and draw the contact sheet."""
    width = max(4, *(len(str(piece.recipe.seed)) for piece in pieces))
    print(f"{'seed':>{width}}  seconds  similarity  file")
    for p in pieces[:MAX_ROWS_SHOWN]:
        print(f"{p.recipe.seed:>{width}}  {p.recipe.seconds:7.2f}  {p.similarity:10.3f}  {p.path}")
    if len(pieces) > MAX_ROWS_SHOWN:
        print(f"... and {len(pieces) - MAX_ROWS_SHOWN:,} more in {options.out}")
    request = next(iter(requests.values()))
    name, title = request.stem, request.prompt
    if options.prompts is not None:
        name = file_stem(options.prompts.stem)
        title = f"{name}: {len(pieces)} pieces"
        title += f", the first {MAX_CLIPS_SHOWN}" if len(pieces) > MAX_CLIPS_SHOWN else ""
    print(f"contact sheet: {draw(pieces[:MAX_CLIPS_SHOWN], options.out / f'{name}.png', title)}")
    if pieces[0].recipe.preset == "smoke":
        print("these are the smoke preset's random weights: the audio is noise, not music")
    sys.stdout.flush()


def draw(pieces: list[Finished], path: Path, title: str) -> Path:
    """Draw the contact sheet, waveform and spectrogram of each piece; returns its path."""
    import soundfile

    from musekit.show.pictures import contact_sheet
    from musekit.show.style import plain

    clips, several = [], len({piece.recipe.prompt for piece in pieces}) > 1
    for piece in pieces:
        audio, sample_rate = soundfile.read(piece.path, dtype="float32", always_2d=True)
        prompt = f"{plain(piece.recipe.prompt, 40)}   " if several else ""
        clips.append((f"{prompt}seed {piece.recipe.seed}   similarity {piece.similarity:.2f}", audio.T))
    title = plain(title, 90) + (" (smoke preset: noise)" if pieces[0].recipe.preset == "smoke" else "")
    figure, data = contact_sheet(clips, sample_rate, title=title), io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_atomic(path, data.getvalue())
    return path
