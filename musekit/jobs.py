"""From prompts to jobs: everything that `musekit generate` checks before any work.

A file of prompts is plain text, one prompt per line, or JSON Lines, one object per line:

    {"prompt": "a sad piano melody"}
    {"prompt": "an organ chorale", "negative_prompt": "slow", "seed": 7, "n": 4, "seconds": 6, "name": "chorale"}

The command line gives what a line leaves out. Errors name the lines.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from musekit.config import MuseError
from musekit.files import decode
from musekit.recipe import Recipe, Settings, clean_prompt, count, file_stem

MAX_ERRORS_SHOWN = 5  # wrong lines of a file of prompts
STALE_SECONDS = 3600  # age at which a temporary file must be what a killed process left


@dataclass(kw_only=True)
class Request(Settings):
    """n pieces for one prompt: a line of a file of prompts. Piece i has the seed `seed + i`."""

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    n: int | None = None
    name: str | None = None  # of the files; None: the prompt

    @property
    def stem(self) -> str:
        """The beginning of the files' names."""
        return file_stem(self.name or self.prompt)

    @property
    def settings(self) -> Settings:
        """How to sample these pieces."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})

    def completed(self, default: Request, notice: Callable[[str], None]) -> Request:
        """The request with the values of `default` where it has none. Raises MuseError for an impossible value."""
        values = {k: v for k, v in vars(default).items() if getattr(self, k) is None}
        full = replace(self, **values, prompt=clean_prompt(self.prompt, notice=notice))
        if full.negative_prompt is not None:
            full.negative_prompt = clean_prompt(full.negative_prompt, "negative prompt", notice)
        count(full.n)
        return full


@dataclass(frozen=True)
class Job:
    """One piece: its recipe and the WAV that it becomes."""

    path: Path
    recipe: Recipe


def read_requests(options, note: Callable[[str], None]) -> dict[int, Request]:
    """{line number: request} of the file of prompts; {0: request} of the command line's prompt."""
    given = {f.name: getattr(options, f.name) for f in fields(Request) if hasattr(options, f.name)}
    default = Request(**given | {"prompt": options.prompt or ""})
    count(options.n)
    if options.prompts is None:
        if options.prompt is None:
            raise MuseError('give a PROMPT, for example "a sad piano melody", or --prompts FILE')
        return {0: default.completed(default, note)}
    if options.prompt is not None:
        raise MuseError("give a PROMPT or --prompts FILE, not both")
    path = Path(options.prompts)
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".txt"):
        raise MuseError(f"{path} is neither .jsonl (one JSON object per line) nor .txt (one prompt per line)")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MuseError(f"cannot read {path}: {error.strerror or error}; give a file to --prompts") from error
    except UnicodeDecodeError as error:
        raise MuseError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    requests, errors = {}, {}
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold other separators
        if not line.strip():
            continue
        try:
            plain = path.suffix.lower() == ".txt"
            request = Request(prompt=line) if plain else decode(line, Request, "the line", known_only=True)
            requests[number] = request.completed(default, lambda text, k=number: note(f"line {k}: {text}"))
        except MuseError as error:
            errors[number] = str(error)
    raise_errors(path, errors)
    if not requests:
        raise MuseError(f"{path} contains no prompt")
    return requests


def raise_errors(path: Path, errors: dict[int, str]) -> None:
    """Raise one MuseError for the wrong lines of a file of prompts, if there are any; line 0 is the command line."""
    if 0 in errors:
        raise MuseError(errors[0])
    if errors:
        shown = "; ".join(f"line {number}: {why}" for number, why in list(errors.items())[:MAX_ERRORS_SHOWN])
        more = f"; and {len(errors) - MAX_ERRORS_SHOWN} more" if len(errors) > MAX_ERRORS_SHOWN else ""
        raise MuseError(f"{path}, {shown}{more}. Nothing was generated; correct or remove these lines")


def plan(muse, requests: dict[int, Request], options) -> list[Job]:
    """All pieces in order. Raises MuseError, which names the lines, for recipes or files that are impossible."""
    recipes, errors = {}, {}
    for line, request in requests.items():
        try:
            for seed in (request.seed + request.n - 1, request.seed):
                recipes[line] = muse.recipe(request.prompt, seed, request.settings, request.negative_prompt)
        except MuseError as error:
            errors[line] = str(error)
    raise_errors(options.prompts, errors)
    wanted = [(requests[line].n, recipe.seconds) for line, recipe in recipes.items()]
    check_space(options.out, wanted, muse.config.codec.sample_rate)
    jobs: dict[Path, Job] = {}
    owner: dict[Path, int] = {}
    for line, request in requests.items():
        for seed in range(request.seed, request.seed + request.n):
            job = Job(options.out / f"{request.stem}-{seed}.wav", replace(recipes[line], seed=seed))
            if jobs.setdefault(job.path, job).recipe != job.recipe:
                errors[line] = (
                    f"its file {job.path.name} is line {owner[job.path]}'s too, with other settings; give one a"
                    ' "name" or another seed'
                )
            owner.setdefault(job.path, line)
    raise_errors(options.prompts, errors)
    return list(jobs.values())


def check_folder(folder: Path) -> None:
    """Raise MuseError unless files can be written into the folder; removes temporary files of killed processes."""
    try:
        place = existing(folder)
        if not place.is_dir():
            raise MuseError(f"{short(str(folder))!r}: {place.name!r} is a file, not a folder; choose another --out")
        probe = place / f".musekit-{os.getpid()}.part"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # a process on another machine may have the same id
        for stale in folder.glob(".*.part") if folder.exists() else ():
            if time.time() - stale.stat().st_mtime > STALE_SECONDS:
                stale.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise MuseError(f"cannot write into {short(str(folder))!r}: {why}; choose another --out") from error


def check_space(folder: Path, wanted: Sequence[tuple[int, float]], sample_rate: int) -> None:
    """Raise MuseError when the disk cannot hold the pieces, given as (number, seconds), beside the existing ones."""
    there = sum(path.stat().st_size for path in folder.glob("*.wav"))
    need = sum(n * seconds for n, seconds in wanted) * sample_rate * 4 - there
    free = shutil.disk_usage(existing(folder)).free
    if need > free:
        raise MuseError(
            f"{sum(n for n, _ in wanted):,} pieces need {need / 2**30:,.0f} GiB, and {short(str(folder))!r} has"
            f" {free / 2**30:,.0f} GiB free; reduce --n, or choose another --out"
        )


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    place = folder.resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def batches_of(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """The jobs in micro-batches."""
    from musekit.inference import micro_batches

    start = 0
    for recipes in micro_batches(job.recipe for job in jobs):
        yield jobs[start : start + len(recipes)]
        start += len(recipes)


def share(jobs: Sequence[Job], rank: int, world: int) -> list[Job]:
    """The jobs of one rank: every world-th micro-batch, whichever pieces exist already."""
    return [job for i, batch in enumerate(batches_of(jobs)) if i % world == rank for job in batch]


def notice(text: str) -> None:
    """Print a line on standard error that is not part of the result."""
    print(f"musekit: note: {text}", file=sys.stderr, flush=True)


def short(text: str, length: int = 80) -> str:
    """A text, cut for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."
