"""`musekit generate`: pieces as WAV files, each with its recipe beside it. The same command resumes.

A piece is finished when its sidecar `<name>.json` is there: recipe, similarity, NFE and the hash of the WAV, which
is written first. Both are written aside and renamed, so a kill at any moment leaves whole files only.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from musekit import prompts
from musekit.config import MuseError
from musekit.recipe import Recipe

SHOWN = 16  # pieces in the contact sheet
STAGES = {"stage1": "text to embedding", "stage2": "embedding to latents", "codec": "latents to sound"}


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
    began = time.perf_counter()
    prompt = prompts.clean(options.prompt, notice=notice)
    negative = options.negative_prompt
    negative = negative if negative is None else prompts.clean(negative, "negative prompt", notice)
    check_folder(options.out)

    from musekit.sample import Muse, Settings, count  # torch comes with it

    count(options.n)
    muse = Muse.from_pretrained(options.weights, dtype=options.dtype, notice=notice)
    names = [name for name in Settings.__dataclass_fields__ if hasattr(options, name)]
    settings = Settings(**{name: getattr(options, name) for name in names})
    first, last = (muse.recipe(prompt, options.seed + i, settings, negative) for i in (0, options.n - 1))
    check_space(options.out, first, options.n, muse.config.codec.sample_rate)

    wanted = (muse.recipe(prompt, seed, settings, negative) for seed in range(first.seed, last.seed + 1))
    made, missing = [], []
    for recipe in wanted:
        kept = read_made(options.out, recipe)
        made += [kept] if kept else []
        missing += [] if kept else [recipe.seed]
    if made:
        say(f"{len(made)} of {options.n} pieces are there already with this very recipe and are kept")
    if missing:
        load(muse, [prompt] if negative is None else [prompt, negative])
        recipes = (muse.recipe(prompt, seed, settings, negative) for seed in missing)
        made += make(muse, recipes, len(missing), first, options.out, began)
    made.sort(key=lambda piece: piece.recipe.seed)
    print(table(made))
    say(f"contact sheet: {draw(made, options.out)}")
    if first.preset == "smoke":
        say("these are the smoke preset's random weights: what you hear is noise, not music")
    if missing:
        seconds, wall = len(missing) * first.seconds, time.perf_counter() - began
        say(f"{seconds:.0f} s of sound in {wall:.1f} s, loading included")
    return made


def load(muse, texts: list[str]) -> None:
    """Read and check every part now, so that a damaged file is told before the first step; tell which texts are cut."""
    for text in texts:
        if muse.text.is_cut(text):
            most = muse.config.text.max_tokens
            notice(f"the text encoder reads the first {most} tokens (about {most * 3 // 4} words) of {short(text)!r}")
    for part in ("stage1", "stage2", "codec", "embedder"):
        getattr(muse, part)


def make(muse, recipes: Iterator[Recipe], n: int, first: Recipe, folder: Path, began: float) -> list[Made]:
    """Sample n pieces and write each as soon as it is there, one micro-batch in memory at a time."""
    from tqdm import tqdm

    size, made = first.micro_batch, []
    total = -(-n // size) * (first.stage1_steps + first.stage2_steps) + n
    with tqdm(total=total, unit="step", disable=None, leave=False, dynamic_ncols=True) as bar:
        while rows := list(itertools.islice(recipes, size)):
            on_step = follow(bar, first, f"piece {len(made) + 1} of {n}")
            try:
                for piece in muse.stream(rows, on_step):
                    made.append(write(folder, piece))
                    if len(made) == 1:
                        bar.clear()
                        say(f"first sound after {time.perf_counter() - began:.1f} s: {made[0].path}")
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, MemoryError) or "memory" in str(error).lower():
                    raise MuseError("this machine has too little free memory; try --micro-batch 1") from error
                raise
            on_step("codec", len(rows), len(rows))
    return made


def follow(bar, first: Recipe, label: str) -> Callable[[str, int, int], None]:
    """An `on_step` that moves the bar through one micro-batch, from where the bar stands."""
    start, n1, n2 = bar.n, first.stage1_steps, first.stage2_steps
    before = {"stage1": 0, "stage2": n1, "codec": n1 + n2}

    def on_step(stage: str, i: int, _: int) -> None:
        bar.set_description(f"{label}: {STAGES[stage]}", refresh=False)
        bar.update(max(0, start + before[stage] + i - bar.n))

    return on_step


def file_name(recipe: Recipe) -> str:
    """Name of the WAV: the prompt's safe stem and the seed."""
    return f"{prompts.file_stem(recipe.prompt)}-{recipe.seed}.wav"


def write(folder: Path, piece) -> Made:
    """Write one `sample.Piece` as a 16-bit WAV that carries its recipe, then its sidecar."""
    import soundfile

    from musekit.runs import write_atomic

    recipe, data = piece.recipe, io.BytesIO()
    with soundfile.SoundFile(data, "w", piece.sample_rate, 2, subtype="PCM_16", format="WAV") as file:
        file.comment = recipe.to_json()
        file.write(piece.audio.T.numpy())
    path = folder / file_name(recipe)
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
    return Made(path, recipe, content["similarity"], piece.nfe)


def sidecar(path: Path) -> Path:
    """Where a WAV's recipe lies."""
    return path.with_suffix(".json")


def read_made(folder: Path, recipe: Recipe) -> Made | None:
    """The whole, finished piece of exactly this recipe in the folder, if there is one."""
    path = folder / file_name(recipe)
    try:
        content = json.loads(sidecar(path).read_text())
        same = content["recipe"] == asdict(recipe)
        if same and content["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest():
            return Made(path, recipe, float(content["similarity"]), dict(content["nfe"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no such piece, cut short, or altered: it is made again
    return None


def draw(made: list[Made], folder: Path) -> Path:
    """The contact sheet of the first pieces; returns its path."""
    import soundfile

    from musekit import plots
    from musekit.runs import write_atomic

    clips, sample_rate = [], 0
    for piece in made[:SHOWN]:
        audio, sample_rate = soundfile.read(piece.path, dtype="float32", always_2d=True)
        clips.append((f"seed {piece.recipe.seed}   similarity {piece.similarity:.2f}", audio.T))
    recipe = made[0].recipe
    title = plots.plain(recipe.prompt, 90) + (" (smoke preset: noise)" if recipe.preset == "smoke" else "")
    figure = plots.contact_sheet(clips, sample_rate, title=title)
    path, data = folder / f"{prompts.file_stem(recipe.prompt)}.png", io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_atomic(path, data.getvalue())
    return path


def table(made: list[Made]) -> str:
    """One line a piece."""
    width = max(4, *(len(str(piece.recipe.seed)) for piece in made))
    lines = [f"{'seed':>{width}}  seconds  similarity  file"]
    for p in made:
        lines.append(f"{p.recipe.seed:>{width}}  {p.recipe.seconds:7.2f}  {p.similarity:10.3f}  {p.path}")
    return "\n".join(lines)


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
        probe.unlink()
        for stale in folder.glob(".*.part") if folder.exists() else ():  # what a kill left behind, an hour ago or more
            if time.time() - stale.stat().st_mtime > 3600:
                stale.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise MuseError(f"cannot write into {short(str(folder))!r}: {why}; choose another --out") from error


def check_space(folder: Path, recipe: Recipe, n: int, sample_rate: int) -> None:
    """Raise MuseError when n pieces cannot fit on the disk beside those that are there."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    stem = prompts.file_stem(recipe.prompt)
    there = sum(1 for _ in folder.glob(f"{stem}-*.wav")) if folder.exists() else 0
    need, free = max(0, n - there) * recipe.seconds * sample_rate * 4, shutil.disk_usage(place).free
    if need > free:
        raise MuseError(
            f"{n:,} pieces need {need / 2**30:,.0f} GiB, and {short(str(folder))!r} has {free / 2**30:,.0f} GiB free;"
            " ask for fewer with --n, or choose another --out"
        )


def short(text: str, length: int = 80) -> str:
    """Text that may be long, cut for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def say(text: str) -> None:
    """A line of the result, on standard output, at once even through a pipe."""
    print(text, flush=True)


def notice(text: str) -> None:
    """A line that is not the result, on standard error."""
    print(f"musekit: note: {text}", file=sys.stderr, flush=True)
