"""What `musekit generate` is asked for: its requests as recipes and the files that they become.

All of it is checked before any work; what cannot be made is told by its line in the file of prompts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from musekit.config import MuseError
from musekit.generate import prompt_files
from musekit.generate.prompt_files import Request
from musekit.generate.sheet import short
from musekit.inference import micro_batches
from musekit.recipe import Recipe, Settings, count


@dataclass(frozen=True)
class Wanted:
    """A piece that is asked for."""

    path: Path  # of the WAV
    recipe: Recipe


def requests(options, notice: Callable[[str], None]) -> list[Request]:
    """What the command line, or its file of prompts, asks for."""
    names = [f.name for f in dataclasses.fields(Settings) if hasattr(options, f.name)]
    settings = {name: getattr(options, name) for name in names}
    count(options.n)
    default = Request("", options.negative_prompt, options.seed, options.n, settings=settings)
    if options.prompts is not None:
        if options.prompt is not None:
            raise MuseError("give a PROMPT or --prompts FILE, not both")
        return prompt_files.read(options.prompts, default, notice)
    if options.prompt is None:
        raise MuseError('say what to hear: a PROMPT, for example "a sad piano melody", or --prompts FILE')
    values = {"prompt": options.prompt, "negative_prompt": options.negative_prompt}
    return [prompt_files.request(values, default, 0, notice)]


def recipes(muse, asked: Sequence[Request], options) -> list[Wanted]:
    """Every piece that is asked for, in order. Raises MuseError for what cannot be made, by line, before any work."""
    firsts, wrong = [], {}
    for request in asked:
        settings = Settings(**request.settings)
        with line_of(request, wrong):
            one, _ = (muse.recipe(request.prompt, s, settings, request.negative_prompt)
                      for s in (request.seed, request.seed + request.n - 1))  # fmt: skip
            firsts.append(one)
    prompt_files.refuse(options.prompts, wrong)
    check_space(options.out, [(r.stem, f, r.n) for r, f in zip(asked, firsts, strict=True)], muse.config.codec)
    wanted: dict[Path, tuple[Wanted, Request]] = {}
    for request, one in zip(asked, firsts, strict=True):
        for seed in range(request.seed, request.seed + request.n):
            piece = Wanted(options.out / f"{request.stem}-{seed}.wav", dataclasses.replace(one, seed=seed))
            before, whose = wanted.setdefault(piece.path, (piece, request))
            if before.recipe != piece.recipe:
                wrong[request.line] = (
                    f"its file {piece.path.name} is line {whose.line}'s too, with other settings; give one a"
                    ' "name" or another seed'
                )
    prompt_files.refuse(options.prompts, wrong)
    return [piece for piece, _ in wanted.values()]


@contextlib.contextmanager
def line_of(request: Request, wrong: dict[int, str]):
    """Keep a MuseError about a line of a file for later; one about the command line is raised."""
    try:
        yield
    except MuseError as error:
        if not request.line:
            raise
        wrong[request.line] = str(error)


def share(wanted: Sequence[Wanted], rank: int, world: int) -> list[Wanted]:
    """This rank's pieces: whole micro-batches, dealt round robin, whatever the others have done."""
    ends, mine = 0, []
    for number, chunk in enumerate(micro_batches(w.recipe for w in wanted)):
        begins, ends = ends, ends + len(chunk)
        mine += wanted[begins:ends] if number % world == rank else []
    return mine


def check_space(folder: Path, asked: Sequence[tuple[str, Recipe, int]], codec) -> None:
    """Raise MuseError when the pieces of (stem, recipe, n) cannot fit on the disk beside those that are there."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    there, need, n = [p.name for p in folder.glob("*.wav")] if folder.exists() else [], 0.0, 0
    for stem, recipe, pieces in asked:
        left = max(0, pieces - sum(name.startswith(f"{stem}-") for name in there))
        need, n = need + left * recipe.seconds * codec.sample_rate * 4, n + pieces
    free = shutil.disk_usage(place).free
    if need > free:
        raise MuseError(
            f"{n:,} pieces need {need / 2**30:,.0f} GiB, and {short(str(folder))!r} has {free / 2**30:,.0f} GiB free;"
            " ask for fewer with --n, or choose another --out"
        )
