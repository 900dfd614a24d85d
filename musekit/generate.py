"""`musekit generate`: pieces as WAV files, each with its recipe. The same command makes only what is missing.

A piece is finished when its `<name>.json` exists: recipe, similarity, network evaluations and the hash of the WAV,
which is written first. Both files are written atomically, so a kill at any moment leaves whole files only. Under
torchrun the ranks share the micro-batches; the bits of a piece depend on its recipe only.

A file of prompts is plain text, one prompt per line, or JSON Lines, one object per line:

    {"prompt": "a sad piano melody"}
    {"prompt": "an organ chorale", "negative_prompt": "slow", "seed": 7, "n": 4, "seconds": 6, "name": "chorale"}

The command line gives what a line leaves out. All lines are checked before any work.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from musekit.config import MuseError
from musekit.files import decode, read_json, write_atomic
from musekit.recipe import Recipe, Settings, clean_prompt, count, file_stem

STAGES = {"stage1": "text to embedding", "stage2": "embedding to latents", "codec": "latents to audio"}
BARRIER_TIMEOUT = datetime.timedelta(days=30)  # how long a rank that has finished its share waits for the others
MAX_ERRORS_SHOWN = 5  # wrong lines of a file of prompts
MAX_ROWS_SHOWN = 100  # pieces in the table
MAX_CLIPS_SHOWN = 16  # pieces in the contact sheet
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


@dataclass(frozen=True)
class Made(Job):
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


def generate_files(options) -> list[Made]:
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
        missing = [job for job in share(jobs, distributed.rank(), distributed.world()) if finished(job) is None]
        distributed.barrier()  # no rank starts before all have looked
        if (kept := len(jobs) - sum(distributed.gathered(len(missing)))) and first:
            print(f"{kept} of {len(jobs)} pieces exist already with the same recipe and are kept", flush=True)
        if missing:
            load(muse, requests.values(), note)
            make(muse, missing, began, stop)
        distributed.barrier()
    if not first:
        return []
    made = [finished(job, verify=False) for job in jobs]
    if None in made:
        raise MuseError(f"a piece in {options.out} was changed while others were made; run the same command again")
    show(made, options, requests)
    if missing:
        seconds = sum(job.recipe.seconds for job in missing)
        print(f"{seconds:.0f} s of audio in {time.perf_counter() - began:.1f} s, including loading", flush=True)
    return made


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


def load(muse, requests, note: Callable[[str], None]) -> None:
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


def finished(job: Job, verify: bool = True) -> Made | None:
    """The finished piece of exactly this recipe; None when it is missing or damaged. verify: compare the WAV's hash."""
    try:
        found = read_json(job.path.with_suffix(".json"), Sidecar)
        same = found.recipe == job.recipe and job.path.exists()
        if same and (not verify or found.sha256 == hashlib.sha256(job.path.read_bytes()).hexdigest()):
            return Made(job.path, job.recipe, found.similarity, found.nfe)
    except (OSError, MuseError):
        pass
    return None


def show(made: list[Made], options, requests: dict[int, Request]) -> None:
    """Print the table of pieces and draw the contact sheet."""
    width = max(4, *(len(str(piece.recipe.seed)) for piece in made))
    print(f"{'seed':>{width}}  seconds  similarity  file")
    for p in made[:MAX_ROWS_SHOWN]:
        print(f"{p.recipe.seed:>{width}}  {p.recipe.seconds:7.2f}  {p.similarity:10.3f}  {p.path}")
    if len(made) > MAX_ROWS_SHOWN:
        print(f"... and {len(made) - MAX_ROWS_SHOWN:,} more in {options.out}")
    request = next(iter(requests.values()))
    name, title = request.stem, request.prompt
    if options.prompts is not None:
        name = file_stem(options.prompts.stem)
        title = f"{name}: {len(made)} pieces"
        title += f", the first {MAX_CLIPS_SHOWN}" if len(made) > MAX_CLIPS_SHOWN else ""
    print(f"contact sheet: {draw(made[:MAX_CLIPS_SHOWN], options.out / f'{name}.png', title)}")
    if made[0].recipe.preset == "smoke":
        print("these are the smoke preset's random weights: the audio is noise, not music")
    sys.stdout.flush()


def draw(made: list[Made], path: Path, title: str) -> Path:
    """Draw the contact sheet, waveform and spectrogram of each piece; returns its path."""
    import soundfile

    from musekit.show.pictures import contact_sheet
    from musekit.show.style import plain

    clips, several = [], len({piece.recipe.prompt for piece in made}) > 1
    for piece in made:
        audio, sample_rate = soundfile.read(piece.path, dtype="float32", always_2d=True)
        prompt = f"{plain(piece.recipe.prompt, 40)}   " if several else ""
        clips.append((f"{prompt}seed {piece.recipe.seed}   similarity {piece.similarity:.2f}", audio.T))
    title = plain(title, 90) + (" (smoke preset: noise)" if made[0].recipe.preset == "smoke" else "")
    figure, data = contact_sheet(clips, sample_rate, title=title), io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_atomic(path, data.getvalue())
    return path


def notice(text: str) -> None:
    """Print a line on standard error that is not part of the result."""
    print(f"musekit: note: {text}", file=sys.stderr, flush=True)


def short(text: str, length: int = 80) -> str:
    """A text, cut for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."
