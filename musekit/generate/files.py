"""`musekit generate`: pieces as WAV files, each with its recipe beside it. The same command resumes.

A piece is finished when its sidecar `<name>.json` is there: recipe, similarity, NFE and the hash of the WAV, which
is written first. Both are written aside and renamed, so a kill at any moment leaves whole files only. Under torchrun
the ranks share the micro-batches out; a piece's bits are those of its recipe, whoever makes it.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from musekit import distributed, prompts
from musekit.config import MuseError
from musekit.generate.prompt_files import Request
from musekit.generate.sheet import SHOWN, draw, short, table
from musekit.generate.wanted import Wanted, recipes, requests, share
from musekit.inference import micro_batches
from musekit.recipe import Recipe

STAGES = {"stage1": "text to embedding", "stage2": "embedding to latents", "codec": "latents to sound"}
PATIENCE = datetime.timedelta(days=30)  # how long a rank that has made its share waits for the others


@dataclass(frozen=True)
class Made:
    """A finished piece in the folder."""

    path: Path  # of the WAV
    recipe: Recipe
    similarity: float  # cosine of the prompt's and the sound's embedding
    nfe: dict[str, int]


def generate_files(options) -> list[Made]:
    """Make the pieces that `cli.Generate` asks for. Raises MuseError before anything is written, or with whole files.

    Memory is bounded by one micro-batch, however many pieces are asked for.
    """
    began, first = time.perf_counter(), distributed.rank() == 0
    tell = notice if first else lambda text: None
    asked = requests(options, tell)
    check_folder(options.out)

    from musekit.muse import Muse

    muse = Muse.from_pretrained(options.weights, dtype=options.dtype)  # the prompts are clean: no notices twice
    if options.threads is not None:
        set_threads(options.threads)
    wanted = recipes(muse, asked, options)
    with distributed.signals(interrupt=False) as stop, distributed.process_group(PATIENCE):
        missing = [w for w in share(wanted, distributed.rank(), distributed.world()) if read_made(w) is None]
        distributed.barrier()  # all have looked before any begins
        if kept := len(wanted) - sum(distributed.all_gather(len(missing))):
            say(f"{kept} of {len(wanted)} pieces are there already with this very recipe and are kept", first)
        if missing:
            load(muse, [t for r in asked for t in (r.prompt, r.negative_prompt) if t is not None], tell)
            make(muse, missing, began, stop)
        distributed.barrier()
    made = [read_made(w) for w in wanted] if first else []
    if None in made:
        raise MuseError(f"a piece in {options.out} was changed while others were made; run the same command again")
    if first:
        show(made, options, asked)
        if missing:
            seconds, wall = sum(w.recipe.seconds for w in missing), time.perf_counter() - began
            say(f"{seconds:.0f} s of sound in {wall:.1f} s, loading included")
    return made


def set_threads(threads: int) -> None:
    """Threads of this process's matrix products. Raises MuseError for no possible number."""
    import torch

    if not 1 <= threads <= 4096:
        raise MuseError(f"--threads must be from 1 to 4096, not {threads}")
    torch.set_num_threads(threads)


def show(made: list[Made], options, asked: Sequence[Request]) -> None:
    """The table, the contact sheet, and what the smoke preset is."""
    print(table(made))
    name, title = asked[0].stem, asked[0].prompt
    if options.prompts is not None:
        name = title = prompts.file_stem(options.prompts.stem)
        title += f": {len(made)} pieces" + (f", the first {SHOWN}" if len(made) > SHOWN else "")
    say(f"contact sheet: {draw(made, options.out / f'{name}.png', title)}")
    if made[0].recipe.preset == "smoke":
        say("these are the smoke preset's random weights: what you hear is noise, not music")


def load(muse, texts: list[str], tell: Callable[[str], None]) -> None:
    """Read and check every part now, so that a damaged file is told before the first step; tell which texts are cut."""
    for text in dict.fromkeys(texts):
        if muse.text.is_cut(text):
            most = muse.config.text.max_tokens
            tell(f"the text encoder reads the first {most} tokens (about {most * 3 // 4} words) of {short(text)!r}")
    for part in ("stage1", "stage2", "codec", "embedder"):
        getattr(muse, part)


def make(muse, missing: list[Wanted], began: float, stop: Callable[[], int]) -> None:
    """Sample pieces and write each as soon as it is there, one micro-batch in memory at a time."""
    from tqdm import tqdm

    batches = list(micro_batches(w.recipe for w in missing))
    n, done, first = len(missing), 0, distributed.rank() == 0
    total = sum(rows[0].stage1_steps + rows[0].stage2_steps + len(rows) for rows in batches)
    with tqdm(total=total, unit="step", disable=None if first else True, leave=False, dynamic_ncols=True) as bar:
        for rows in batches:
            if code := stop():
                rank = distributed.rank()
                say(f"rank {rank} stopped on a signal; {done} of its {n} pieces are done; the same command goes on")
                raise distributed.Stopped(code)
            on_step = follow(bar, rows[0], f"piece {done + 1} of {n}")
            try:
                for piece in muse.stream(rows, on_step):
                    write(missing[done].path, piece)
                    done += 1
                    if done == 1:
                        bar.clear()
                        say(f"first sound after {time.perf_counter() - began:.1f} s: {missing[0].path}", first)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, MemoryError) or "memory" in str(error).lower():
                    raise MuseError("this machine has too little free memory; try --micro-batch 1") from error
                raise
            on_step("codec", len(rows), len(rows))


def follow(bar, first: Recipe, label: str) -> Callable[[str, int, int], None]:
    """An `on_step` that moves the bar through one micro-batch, from where the bar stands."""
    start, n1, n2 = bar.n, first.stage1_steps, first.stage2_steps
    before = {"stage1": 0, "stage2": n1, "codec": n1 + n2}

    def on_step(stage: str, i: int, _: int) -> None:
        bar.set_description(f"{label}: {STAGES[stage]}", refresh=False)
        bar.update(max(0, start + before[stage] + i - bar.n))

    return on_step


def write(path: Path, piece) -> None:
    """Write one `sample.Piece` as a 16-bit WAV that carries its recipe, then its sidecar."""
    import soundfile

    from musekit.files import write_atomic

    recipe, data = piece.recipe, io.BytesIO()
    with soundfile.SoundFile(data, "w", piece.sample_rate, 2, subtype="PCM_16", format="WAV") as file:
        file.comment = recipe.to_json()
        file.write(piece.audio.T.numpy())
    if path.exists() or sidecar(path).exists():
        notice(f"{path} was there with another recipe, or unfinished, and is replaced")
    sidecar(path).unlink(missing_ok=True)
    write_atomic(path, data.getvalue())
    content = {
        "recipe": asdict(recipe),
        "similarity": round(piece.similarity, 6),
        "nfe": piece.nfe,
        "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
    }
    write_atomic(sidecar(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def sidecar(path: Path) -> Path:
    """Where a WAV's recipe lies."""
    return path.with_suffix(".json")


def read_made(wanted: Wanted) -> Made | None:
    """The whole, finished piece of exactly this recipe, if it is there."""
    path, recipe = wanted.path, wanted.recipe
    try:
        content = json.loads(sidecar(path).read_text())
        same = content["recipe"] == asdict(recipe)
        if same and content["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest():
            return Made(path, recipe, float(content["similarity"]), dict(content["nfe"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no such piece, cut short, or altered: it is made again
    return None


def check_folder(folder: Path) -> None:
    """Raise MuseError unless files can be written there; leaves nothing behind."""
    try:
        place = folder.resolve()
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise MuseError(f"{short(str(folder))!r}: {place.name!r} is a file, not a folder; choose another --out")
        probe = place / f".musekit-{os.getpid()}.part"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another machine's process may have the same number
        for stale in folder.glob(".*.part") if folder.exists() else ():  # what a kill left behind, an hour ago or more
            if time.time() - stale.stat().st_mtime > 3600:
                stale.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise MuseError(f"cannot write into {short(str(folder))!r}: {why}; choose another --out") from error


def say(text: str, first: bool = True) -> None:
    """A line of the result, on standard output, at once even through a pipe; from the first rank only."""
    if first:
        print(text, flush=True)


def notice(text: str) -> None:
    """A line that is not the result, on standard error."""
    print(f"musekit: note: {text}", file=sys.stderr, flush=True)
