"""`musekit generate`: pieces as WAV files, each with its recipe. The same command makes only what is missing.

A file of prompts is plain text (.txt), one prompt per line, or JSON Lines: {"prompt": "an organ chorale",
"negative_prompt": "slow", "seed": 7, "n": 4, "seconds": 6, "name": "chorale"}, all but the prompt optional.

A piece is finished when its `<name>.json` exists: recipe, similarity, network evaluations and the hash of the WAV,
which is written first, both atomically. Under torchrun the ranks share the micro-batches.
"""

import contextlib
import datetime
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from musekit.config import MuseError
from musekit.controls import LONGEST, Controls
from musekit.files import decode, read_json, sha256, write_atomic
from musekit.prompts import read_prompt
from musekit.recipe import Recipe, Settings, clean_prompt, count, file_stem
from musekit.tune import melody_of

STAGES = {"stage1": "text to embedding", "stage2": "embedding to latents", "codec": "latents to audio"}
BARRIER_TIMEOUT = datetime.timedelta(days=30)  # how long a rank that has finished its share waits for the others
MAX_ROWS_SHOWN = 100  # pieces in the table
MAX_CLIPS_SHOWN = 16  # pieces in the contact sheet


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

    def completed(self, options, note: Callable[[str], None]) -> "Request":
        """The request with the command line's values where it has none. Raises MuseError for an impossible one."""
        missing = [f.name for f in fields(self) if f.name != "name" and getattr(self, f.name) is None]
        full = replace(self, **{name: getattr(options, name) for name in missing})
        full.prompt = clean_prompt(full.prompt, notice=note)
        if full.negative_prompt is not None:
            full.negative_prompt = clean_prompt(full.negative_prompt, "negative prompt", note)
        count(full.n)
        full.melody = full.melody and melody_of(full.melody)
        return full


@dataclass(frozen=True)
class Finished:
    """A finished piece: the content of its `<name>.json`."""

    recipe: Recipe
    similarity: float  # cosine of the embeddings of the prompt and of the audio
    nfe: dict[str, int]  # network evaluations of each stage
    sha256: str  # of the WAV
    controls: Controls | None = None  # the recipe's, with the tempo, metre and chords that were drawn

    @property
    def told(self) -> str:
        """Tempo and first chords, for people."""
        controls = self.controls or Controls()
        words = [f"{controls.bpm:.0f} BPM"] if controls.bpm else []
        return " ".join(words + (controls.chords or "").replace("|", "").split()[:4])


def generate_files(options) -> dict[Path, Finished]:
    """Make the pieces that the options of `commands.Generate` describe; returns {WAV: piece} on rank 0, else {}.

    Memory does not grow with the number of pieces. Raises MuseError before any sampling, or when the disk is full;
    finished pieces remain.
    """
    began = time.perf_counter()
    if (options.start, options.stop) != (None, None):
        raise MuseError("--start and --stop are seconds of a sound: give it with --repaint FILE")
    note = notice if os.environ.get("RANK", "0") == "0" else lambda text: None
    requests = read_requests(options, note)

    from musekit import distributed
    from musekit.muse import Muse

    muse = Muse.from_pretrained(options.weights, dtype=options.dtype, lora=options.lora)
    muse = drafting(muse, options.draft)
    first = distributed.rank() == 0
    set_threads(options.threads)
    jobs = plan(muse, requests, options)
    with distributed.signals(interrupt=False) as stop, distributed.process_group(BARRIER_TIMEOUT):
        own = share(jobs, distributed.rank(), distributed.world())
        missing = {path: recipe for path, recipe in own.items() if not is_finished(path, recipe)}
        distributed.barrier()  # no rank starts before all have looked
        if (existing := len(jobs) - sum(distributed.all_gather(len(missing)))) and first:
            print(f"{existing} of {len(jobs)} pieces exist already with the same recipe and are kept", flush=True)
        if missing:
            load(muse, list(requests.values()), note)
            make(muse, missing, stop)
        distributed.barrier()
    if not first:
        return {}
    pieces = {path: read_json(path.with_suffix(".json"), Finished) for path in jobs}
    show(pieces, options, requests)
    if missing:
        seconds = sum(recipe.seconds for recipe in missing.values())
        print(f"{seconds:.0f} s of audio in {time.perf_counter() - began:.1f} s, including loading", flush=True)
    return pieces


def set_threads(n: int | None) -> None:
    """Let torch use n CPU threads; None: its choice. Raises MuseError for an impossible number."""
    import torch

    if n is not None:
        if not 1 <= n <= 4096:
            raise MuseError(f"--threads must be from 1 to 4096, not {n}")
        torch.set_num_threads(n)


def drafting(muse, draft: bool):
    """The system, or if drafts are wanted that of its student. Raises MuseError where there is none."""
    if draft and muse.draft is muse:
        raise MuseError("--draft needs weights with a student, and no --lora: leave it out")
    return muse.draft if draft else muse


def edit_files(options, read_sound: Callable) -> dict[Path, Finished]:
    """Continue or repaint a sound file, n times; returns {WAV: piece}. Raises MuseError before any sampling.

    read_sound: file, name, most seconds, rate in Hz -> (1 or 2, N).
    """
    path, repaint = options.continue_from or options.repaint, options.repaint is not None
    if options.prompts or options.negative_prompt or (options.continue_from and repaint):
        raise MuseError("give one of --continue-from and --repaint, with a PROMPT or none, and no other prompts")
    if repaint == (None in (options.start, options.stop)):
        raise MuseError("--repaint FILE needs --start and --stop, in seconds")

    from musekit.muse import Muse

    set_threads(options.threads)
    muse, pieces = Muse.from_pretrained(options.weights, dtype=options.dtype, lora=options.lora), {}
    audio, stem = read_sound(path, path.name, LONGEST, muse.config.codec.sample_rate), path.stem.replace("-", " ")
    with contextlib.suppress(OSError, MuseError):  # without its recipe a file is a recording
        found = read_json(path.with_suffix(".json"), Finished)
        if found.sha256 == sha256(path):
            audio = muse.piece(audio, found.recipe)
    rate, more = muse.config.codec.sample_rate, 0.0 if repaint else options.seconds
    prepare_folder(options.out, options.n * 4 * (getattr(audio, "audio", audio).shape[1] + more * rate))
    muse = drafting(muse, options.draft)
    load(muse, [Request(prompt=options.prompt)] if options.prompt else [], notice)
    settings = {f.name: getattr(options, f.name) for f in fields(Settings)}
    settings = {name: value for name, value in settings.items() if name != "seconds" and value is not None}
    if options.melody:
        settings["melody"] = melody_of(options.melody)
    edit, where = (muse.repaint, (options.start, options.stop)) if repaint else (muse.continue_, (options.seconds,))
    how = f"repainted-{options.start:g}-{options.stop:g}" if repaint else "continued"
    for seed in range(options.seed, options.seed + count(options.n)):
        piece = edit(audio, *where, options.prompt, seed, **settings)
        target = options.out / f"{file_stem(stem)}-{how}-{seed}.wav"
        write(target, piece)
        pieces[target] = read_json(target.with_suffix(".json"), Finished)
    show(pieces, options, {0: Request(prompt=options.prompt or "music", name=stem)})
    return pieces


def read_requests(options, note: Callable[[str], None]) -> dict[int, Request]:
    """{line number: request} of the file of prompts, or {0: request} of the command line's prompt.

    Raises MuseError for a file that cannot be read, and for its first wrong line.
    """
    count(options.n)
    if (options.prompt is None) == (options.prompts is None):
        raise MuseError('give either a PROMPT, for example "a sad piano melody", or --prompts FILE')
    if options.prompts is None:
        return {0: Request(prompt=options.prompt).completed(options, note)}
    path, requests = Path(options.prompts), {}
    plain = path.suffix.lower() == ".txt"
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MuseError(f"cannot read {path}: {error}; give a file of UTF-8 text to --prompts") from error
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold other separators
        if line.strip():
            with naming_line(path, number):
                request = Request(prompt=line) if plain else decode(line, Request, "the object", known_only=True)
                requests[number] = request.completed(options, lambda text, k=number: note(f"line {k}: {text}"))
    if not requests:
        raise MuseError(f"{path} contains no prompt")
    return requests


@contextlib.contextmanager
def naming_line(path: Path | None, number: int) -> Iterator[None]:
    """A MuseError inside the block names the line of the file of prompts; line 0 is the command line."""
    try:
        yield
    except MuseError as error:
        raise MuseError(f"{path}, line {number}: {error}" if number else str(error)) from error


def plan(muse, requests: dict[int, Request], options) -> dict[Path, Recipe]:
    """{WAV: recipe} of all pieces in order. Raises MuseError for an impossible recipe or output folder."""
    recipes: dict[int, Recipe] = {}
    for number, request in requests.items():
        with naming_line(options.prompts, number):
            for seed in (request.seed + request.n - 1, request.seed):  # the seeds between them are possible, too
                recipes[number] = muse.recipe(request.prompt, seed, request.settings, request.negative_prompt)
    seconds = sum(requests[number].n * recipe.seconds for number, recipe in recipes.items())
    prepare_folder(options.out, seconds * muse.config.codec.sample_rate * 4)
    jobs: dict[Path, Recipe] = {}
    for number, request in requests.items():
        for seed in range(request.seed, request.seed + request.n):
            path, recipe = options.out / f"{request.stem}-{seed}.wav", replace(recipes[number], seed=seed)
            if jobs.setdefault(path, recipe) != recipe:
                other = f"another line makes {path.name} with other settings"
                raise MuseError(f'{options.prompts}, line {number}: {other}; give this line a "name" or a seed')
    return jobs


def prepare_folder(folder: Path, size: float) -> None:
    """Make the folder. Raises MuseError when it cannot be written, or cannot hold WAV files of `size` bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        room = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in folder.glob("*.wav"))
        if size > room:
            raise OSError(f"the pieces need {size / 2**20:,.0f} MiB, and it has room for {room / 2**20:,.0f} MiB")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise MuseError(f"cannot write into {str(folder):.80}: {why}; choose another --out") from error


def share(jobs: dict[Path, Recipe], rank: int, world: int) -> dict[Path, Recipe]:
    """The jobs of one rank: every world-th micro-batch, whichever pieces exist already."""
    from musekit.inference import micro_batches

    batch_of = [i for i, batch in enumerate(micro_batches(jobs.values())) for _ in batch]
    return {path: recipe for i, (path, recipe) in zip(batch_of, jobs.items(), strict=True) if i % world == rank}


def load(muse, requests: list[Request], note: Callable[[str], None]) -> None:
    """Load all components, so that a damaged file is reported before the first step; report prompts that are cut."""
    tokens, avoiding = muse.config.text.max_tokens, {r.prompt for r in requests if r.negative_prompt is not None}
    for text in dict.fromkeys(t for r in requests for t in (r.prompt, r.negative_prompt) if t is not None):
        if muse.text.is_cut(text):
            note(f"the text encoder reads the first {tokens} tokens (about {tokens * 3 // 4} words) of {text[:80]!r}")
        said = read_prompt(text) if muse.config.stage2.controls else {}
        if "without" in said and text in avoiding:
            del said["without"]
            note(f"what {text[:80]!r} is to be without is not read: there is a negative prompt")
        if read := ", ".join(f"{name} {value}" for name, value in said.items() if name != "text"):
            note(f"read in {text[:80]!r}: {read}")
        if muse.is_draft and ("without" in said or any(text == r.negative_prompt for r in requests)):
            note("drafts avoid less of what the music should not be: only Stage 1 knows of it")
    for part in ("stage1", "stage2", "codec", "embedder"):
        getattr(muse, part)


def make(muse, missing: dict[Path, Recipe], stop: Callable[[], int]) -> None:
    """Sample the missing pieces and write each one when it is finished. Raises `distributed.Stopped` after a signal."""
    from tqdm import tqdm

    from musekit import distributed
    from musekit.inference import micro_batches

    paths, done, first = list(missing), 0, distributed.rank() == 0
    with tqdm(total=len(paths), unit="piece", disable=None if first else True, leave=False, dynamic_ncols=True) as bar:

        def on_step(stage: str, i: int, n: int) -> None:
            bar.set_postfix_str(f"{STAGES[stage]}, {i + 1} of {n}")

        for batch in micro_batches(missing.values()):
            if code := stop():
                finished_now = f"{done} of {len(paths)} pieces of rank {distributed.rank()} are finished"
                print(f"stopped on a signal; {finished_now}; run the same command to continue", flush=True)
                raise distributed.Stopped(code)
            for piece in muse.stream(batch, on_step):
                write(paths[done], piece)
                done += 1
                bar.update()


def write(path: Path, piece) -> None:
    """Write a `muse.Piece` as a 16-bit WAV with its recipe as comment, then its JSON file."""
    import soundfile

    recipe, data, sidecar = piece.recipe, io.BytesIO(), path.with_suffix(".json")
    with soundfile.SoundFile(data, "w", piece.sample_rate, 2, subtype="PCM_16", format="WAV") as file:
        file.comment = recipe.to_json()
        sound = piece.audio.T
        if recipe.edit:  # the scale of reading, so that what is kept of a file keeps its bits
            sound = (sound * 2**15).round().clamp(-(2**15), 2**15 - 1).short()
        file.write(sound.numpy())
    if (path.exists() or sidecar.exists()) and not is_finished(path, recipe):
        notice(f"{path} existed with another recipe, or unfinished, and is replaced")
    sidecar.unlink(missing_ok=True)
    write_atomic(path, data.getvalue())
    digest = hashlib.sha256(data.getvalue()).hexdigest()
    content = Finished(recipe, round(piece.similarity, 6), piece.nfe, digest, piece.controls)
    record = asdict(content) | {"recipe": recipe.as_dict()}
    write_atomic(sidecar, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def is_finished(path: Path, recipe: Recipe) -> bool:
    """Whether the WAV and its JSON file are whole and of exactly this recipe."""
    try:
        found = read_json(path.with_suffix(".json"), Finished)
        return found.recipe == recipe and found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, MuseError):
        return False


def show(pieces: dict[Path, Finished], options, requests: dict[int, Request]) -> None:
    """Print the table of pieces and draw the contact sheet."""
    width = max(4, *(len(str(piece.recipe.seed)) for piece in pieces.values()))
    told = max(len(f"{piece.told}  ") for piece in pieces.values())
    print(f"{'seed':>{width}}  seconds  similarity  {'music' if told > 2 else '':{told}}file")
    for path, p in list(pieces.items())[:MAX_ROWS_SHOWN]:
        print(f"{p.recipe.seed:>{width}}  {p.recipe.seconds:7.2f}  {p.similarity:10.3f}  {p.told:{told}}{path}")
    if len(pieces) > MAX_ROWS_SHOWN:
        print(f"... and {len(pieces) - MAX_ROWS_SHOWN:,} more in {options.out}")
    request = next(iter(requests.values()))
    name, title = request.stem, request.prompt
    if options.prompts is not None:
        name = file_stem(options.prompts.stem)
        title = f"{name}: {len(pieces)} pieces, of which the first {min(len(pieces), MAX_CLIPS_SHOWN)} are shown"
    print(f"contact sheet: {draw(dict(list(pieces.items())[:MAX_CLIPS_SHOWN]), options.out / f'{name}.png', title)}")
    if next(iter(pieces.values())).recipe.preset == "smoke":
        print("these are the smoke preset's random weights: the audio is noise, not music")
    sys.stdout.flush()


def draw(pieces: dict[Path, Finished], target: Path, title: str) -> Path:
    """Draw the contact sheet, waveform and spectrogram of each piece; returns its path."""
    import soundfile

    from musekit.show.pictures import contact_sheet
    from musekit.show.style import plain

    clips, several = [], len({piece.recipe.prompt for piece in pieces.values()}) > 1
    for path, piece in pieces.items():
        audio, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        prompt = f"{plain(piece.recipe.prompt, 40)}   " if several else ""
        clips.append((f"{prompt}seed {piece.recipe.seed}   similarity {piece.similarity:.2f}", audio.T))
    title = plain(title, 90) + (" (smoke preset: noise)" if piece.recipe.preset == "smoke" else "")
    figure, data = contact_sheet(clips, sample_rate, title=title), io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_atomic(target, data.getvalue())
    return target


def notice(text: str) -> None:
    """Print a line on standard error that is not part of the result."""
    print(f"musekit: note: {text}", file=sys.stderr, flush=True)
