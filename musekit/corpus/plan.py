"""The plan: an endless, seeded list of clips, of which every prefix is balanced over instrument, mode, speed and style.

Clip i does not depend on the number of clips. `write_plan` writes the first clips, notes and all, to
<out>/plan.jsonl.xz; `build_clips` renders them to <out>/clips/*.flac and writes their records to <out>/clips.jsonl. A
machine that has the plan needs neither music21 nor the scores.
"""

import hashlib
import io
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from musekit.claims import matches
from musekit.config import TONICS, MuseError
from musekit.corpus import arrange, bands, fonts
from musekit.corpus.arrange import Piece, piece_of
from musekit.corpus.bands import STYLES, Clock, Harmony
from musekit.corpus.captions import write_captions
from musekit.corpus.families import catalogue, split_of
from musekit.corpus.harmony import chords_of
from musekit.corpus.instruments import CHORDERS, DUETS, MIXED, SINGLE, players_of
from musekit.corpus.processes import end_if, in_processes
from musekit.corpus.render import render, write_flac
from musekit.corpus.scores import Score, slug, third_is_clear
from musekit.corpus.sound import BadAudio
from musekit.files import write_atomic
from musekit.harmony import key_of

FONTS = ("timgm", "musescore", "fluid")  # a fourth one is for judges
LENGTHS = arrange.TABLES["lengths"]
KINDS = arrange.TABLES["kinds"]  # shares of the kinds of score, by mode
TAIL = 1.8  # seconds of decay after the last note of a clip that ends

Clip = tuple[dict, list[list[float]], dict]  # record, note rows in seconds, arguments of `render`


def speed_of(rate: float) -> str | None:
    """Speed: "slow" below 1.8 onsets per second, "medium" from 2.2 to 3.4, "fast" above 4.2, None between."""
    return "slow" if rate < 1.8 else "fast" if rate > 4.2 else "medium" if 2.2 <= rate <= 3.4 else None


def speed_of_band(bpm: float, rate: float) -> str | None:
    """Speed of a band: its drums strike often at any tempo, so that the beat counts, and the lead must not deny it."""
    return "slow" if bpm < 84 and rate < 3.4 else "fast" if bpm > 130 and rate > 2.2 else None


def cells(seed: int) -> Iterator[tuple[str, str | None, str | None]]:
    """(instrumentation or style, mode, speed) in blocks in which each instrumentation recurs at even distances.

    Single instruments are 29 % of a block, mixed ones 16 %, styles, which have a speed of their own, 55 %.
    """
    modes, speeds = ("major", "minor"), ("slow", "fast")
    block = {name: [(m, s) for m in modes for s in speeds] * 3 + [(m, "medium") for m in modes] for name in SINGLE}
    block |= {name: own + [(None, s) for s in speeds] for name, own in block.items()}
    block |= {
        name: [(m, s) for m in modes for s in arrange.TABLES["onset_rates"]][: 6 if name in DUETS else 4]
        for name in MIXED
    }
    block |= {name: [(m, None) for m in modes] * 8 + [(None, None)] for name in STYLES}
    for number in count():
        rng, placed = np.random.default_rng([seed, 1, number]), []
        for name, own in block.items():
            places = (np.arange(len(own)) + rng.uniform()) / len(own)
            placed += [(place, name, *own[k]) for place, k in zip(places, rng.permutation(len(own)))]
        yield from (cell[1:] for cell in sorted(placed, key=lambda cell: cell[0]))


def tempo(piece: Piece, spq: float, rng: np.random.Generator, low: float = 50, high: float = 190) -> tuple | None:
    """(BPM, beat in quarters) for about this many seconds per quarter: mostly whole BPM, the most natural beat."""
    natural = piece.beats[0]
    beats = [*piece.beats, natural / 3 if piece.metre == "six" else natural / 2]
    found = [(60 / (spq * beat), beat) for beat in beats if low <= 60 / (spq * beat) <= high]
    if not found:
        return None
    bpm, beat = found[0]
    return (float(round(bpm)) if rng.random() < 0.75 else round(bpm, 1)), beat


def place(piece: Piece, seconds_per_bar: float, ends: bool, wanted: float, rng: np.random.Generator) -> tuple | None:
    """(first downbeat in quarters of the looped piece, quarters of upbeat before it, bars) of a window, or None.

    The window has about `wanted` seconds in whole bars, by fours where that fits; one that ends does so with the piece.
    """
    total, upbeat = round(piece.length / piece.bar), piece.upbeat
    room = LENGTHS["most"] - upbeat / piece.bar * seconds_per_bar - (TAIL + 1.2 if ends else 0)
    low, high = int(np.ceil(11 / seconds_per_bar)), int(room / seconds_per_bar)
    bars = round(wanted / seconds_per_bar)
    whole = total * max(1, round(bars / total))
    bars = whole if abs(whole - bars) <= 0.2 * bars else round(bars / 4) * 4 if bars >= 6 else bars
    bars = bars if low <= bars <= high else min(max(round(wanted / seconds_per_bar), low), high)
    if not 2 <= low <= bars <= high:
        return None
    if ends:
        first = int(np.ceil(bars / total)) * piece.length - bars * piece.bar
    else:
        first = 0 if rng.random() < 0.5 else piece.bar * int(rng.choice(np.arange(0, total, 4 if total > 4 else 1)))
    return first + upbeat, upbeat if first % piece.length < 1e-6 else 0.0, bars


def attempt(
    piece: Piece, cast: str, mode: str | None, speed: str | None, rng: np.random.Generator, seconds: float | None = None
) -> dict | None:
    """One clip of this piece for this instrumentation or style, or None when no window of it fits.

    seconds: about how long; None: drawn, as is whether the clip ends.
    """
    style, score = STYLES.get(cast), piece.score
    melody = score.kind == "tune" and len(piece.parts) == 1
    accompanied = not style and melody and (cast in DUETS or cast in CHORDERS and rng.random() < 0.5)
    play = str(rng.choice(list(arrange.TABLES["accompaniments"]))) if accompanied else None
    wanted = seconds or float(rng.uniform(*LENGTHS["ranges"][rng.integers(len(LENGTHS["ranges"]))]))
    ends = seconds is None and rng.random() < LENGTHS["ends"]
    density = piece.density[bool(style)]
    low, high = style["bpm"] if style else arrange.TABLES["onset_rates"][speed]
    for _ in range(4):
        drawn = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        if style:
            bpm = float(round(drawn)) if rng.random() < 0.75 else round(drawn, 1)
            rates = [(b, density * bpm * b / 60) for b in piece.beats if piece.bar / b in (2, 3, 4)]
            found = next(((bpm, b) for b, rate in rates if 0.7 <= rate <= 6.5), None)
        else:
            found = tempo(piece, density / drawn, rng)
        if not found:
            continue
        spq = 60 / (found[0] * found[1])
        spot = place(piece, piece.bar * spq, ends, wanted, rng)
        if not spot or not piece.on_grid(spot[0], spot[2]):
            continue
        first, lead_in, bars = spot
        swing = style["swing"] if style and "swing" in style and piece.metre != "six" else (0, 0)
        clock = Clock(*found, piece.bar, lead_in, bars, piece.metre, round(float(rng.uniform(*swing)), 2))
        quarters = clock.end - (piece.upbeat if ends else 0)
        played = [arrange.window(p, first - lead_in, quarters, piece.length) for p in piece.parts]
        played = [p for p in played if len(p)]
        if not played or len(played) < len(piece.parts) * 0.5:
            continue
        edges = clock.first + np.arange(0, bars * piece.bar + 1e-6, unit := unit_of(piece))
        strong = np.abs(np.arange(len(edges) - 1) * unit % piece.bar) < 1e-6
        stop = None
        if ends:  # the last note begins the last chord, on a beat
            last = max(p[-1, 0] for p in played)
            stop = clock.first + clock.beat * np.floor((last - clock.first) / clock.beat + 1e-3)
        harmony = Harmony(chords_of(played, edges, strong, score.key, score.mode), edges, stop)
        if accompanied:
            rows = [bands.play(role, clock, harmony)[:, :3] for role in arrange.TABLES["accompaniments"][play]]
            played.append(np.concatenate(rows))
        rate = len(arrange.onset_times(played[:1] if style else played)) / clock(quarters)
        if not style and (speed_of(rate) != speed or not no_gap(played, clock, quarters)):
            continue
        if style and (played[0][0, 0] > 1e-3 or not no_gap(played[:1], clock, quarters, 4.0)):
            continue
        if key_fits(played, quarters, score, mode) is None:
            continue
        found = dict(parts=played, clock=clock, harmony=harmony, ends=ends, accompaniment=play)
        return found | {"start": first - lead_in, "rate": round(float(rate), 3)}
    return None


def unit_of(piece: Piece) -> float:
    """Quarters for which a chord holds: a bar of two or three beats, half of a longer one or of 6/8."""
    odd = piece.metre == "three" or abs(piece.bar / piece.beats[0] - 3) < 1e-6
    return piece.bar if odd or piece.bar < 3 else piece.bar / 2


def no_gap(parts: list[np.ndarray], clock: Clock, quarters: float, most: float = 1.2) -> bool:
    """Whether what sounds begins at once and leaves no silence of more than `most` seconds; six notes at least."""
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows[:, 0])]
    ends = np.maximum.accumulate(clock(rows[:, 0] + rows[:, 1]))
    silences = np.r_[clock(rows[1:, 0]), clock(quarters)] - ends
    return len(rows) >= 6 and rows[0, 0] < 1e-3 and bool(silences.max() <= most)


def key_fits(parts: list[np.ndarray], quarters: float, score: Score, mode: str | None) -> tuple | None:
    """(mode of what sounds or None, confidence of its key), or None when that is not the mode asked for."""
    rows = np.concatenate(parts)
    durations = np.minimum(rows[:, 1], quarters - rows[:, 0])
    key, own, r, gap = key_of(rows[:, 2], durations)
    sure = r >= 0.70 and gap >= 0.05 and third_is_clear(rows[:, 2], durations, key, own)
    agrees = (key, own) == (score.key, score.mode) and sure
    if mode is not None and not (agrees and own == mode) or mode is None and score.kind != "modal" and agrees:
        return None
    return own if agrees else None, round(r, 3)


def clips(scores: list[Score], seed: int = 0) -> Iterator[Clip]:
    """Yield clips without end."""
    used = {s.work: 0 for s in scores}
    metres = {name: bands.metres_of(style) for name, style in STYLES.items()}
    pieces = [piece for score in scores if (piece := piece_of(score))]
    pools: dict[tuple, list[Piece]] = {}
    for index, (cast, mode, speed) in enumerate(cells(seed)):
        rng = np.random.default_rng([seed, 2, index])
        for kind in KINDS["major"]:
            if (kind, mode, cast) not in pools:
                pools[kind, mode, cast] = [
                    p for p in pieces if p.score.kind == kind
                    and (p.score.mode == mode if mode else p.score.mode is None or kind == "modal")
                    and (cast not in STYLES or p.metre in metres[cast])
                    and (cast not in DUETS or kind == "tune" or len(p.parts) > 1)
                ]  # fmt: skip
        shares = {k: w for k, w in KINDS[mode or "none"].items() if pools[k, mode, cast]}
        weights = np.array(list(shares.values()))
        for _ in range(24 if shares else 0):
            pool = pools[str(rng.choice(list(shares), p=weights / weights.sum())), mode, cast]
            order = rng.integers(len(pool), size=60)  # the least-used of a random handful
            piece = pool[min(order, key=lambda k: used[pool[k].score.work])]
            found = attempt(piece, cast, mode, speed, rng)
            clip = found and draw_clip(piece, cast, found, used[piece.score.work], rng)
            if clip and (mode is None or clip[0]["mode"] == mode):
                used[piece.score.work] += 1
                yield clip
                break


def draw_clip(piece: Piece, cast: str, found: dict, number: int, rng: np.random.Generator) -> Clip:
    """Draw players, key, dynamic and reverb of what `attempt` found, and write the record."""
    score, clock, harmony, style = piece.score, found["clock"], found["harmony"], STYLES.get(cast)
    transpose = int(rng.integers(-5, 6))
    dynamic = str(rng.choice((style or {}).get("dynamic", ["soft", "medium", "loud"])))
    legato = float(rng.uniform(*(style or {}).get("articulation", [0.88, 0.99]))) if rng.random() < 0.8 else 0.6
    tonic = (TONICS.index(score.key) + transpose) % 12
    chords = [((root + transpose) % 12 if quality != "none" else 0, quality) for root, quality in harmony.chords]
    if style:
        leader = str(rng.choice(style["lead"]))
        lead = arrange.to_range(found["parts"][:1], [leader], transpose)[0]
        sounding = bands.band(style, lead, leader, clock, Harmony(chords, harmony.edges, harmony.stop), rng)
    else:
        players = players_of(cast, len(found["parts"]))
        spread = np.linspace(-1, 1, len(players)) if len(players) > 1 else np.array([rng.uniform(-0.5, 0.5)])
        pans = [int(np.clip(64 + 34 * x * rng.choice([0.7, 1.0]) + rng.normal(0, 3), 8, 120)) for x in spread]
        parts = [np.c_[p, np.zeros(len(p))] for p in arrange.to_range(found["parts"], players, transpose)]
        levels = [5 * (len(parts) > 1), *[0] * (len(parts) - 1)]
        sounding = list(zip(players, parts, levels, pans))
    end = clock.end
    if found["ends"]:  # what sounds at the end is held a little longer
        end = clock.end + float(rng.uniform(0.3, 1.2)) * clock.bpm * clock.beat / 60
    for name, rows, *_ in sounding:
        off = rows[:, 0] + rows[:, 1]
        last = (off >= clock.end - piece.upbeat - 1e-3) & (found["ends"] and name != "drums")
        rows[:, 1] = np.where(last, end, np.minimum(off, clock.end)) - rows[:, 0]
    notes = arrange.perform([s[1] for s in sounding], [s[2] for s in sounding], clock, dynamic, legato, rng)
    seconds = round(float(clock(end)) + (TAIL if found["ends"] else 0), 3)
    players = [s[0] for s in sounding]
    pitched = [rows[:, :3] for name, rows, *_ in sounding if name != "drums"]
    shifted = replace(score, key=TONICS[tonic])
    mode, confidence = key_fits(pitched, clock.end, shifted, None) or key_fits(pitched, clock.end, shifted, score.mode)
    choices = [name for name in fonts.fonts_of(players) if name in FONTS]
    font = str(rng.choice(choices)) if choices else FONTS[0]
    identity = f"{slug(score.work)}-{number:02d}"
    speed = speed_of_band(clock.bpm, found["rate"]) if style else speed_of(found["rate"])
    top = arrange.top_line(sounding[0][1])
    lengths = np.round(clock(top[:, 0] + top[:, 1]) - clock(top[:, 0]), 3)
    melody = zip(np.round(clock(top[:, 0]), 3).tolist(), lengths.tolist(), top[:, 2].astype(int).tolist())
    changes = [k for k in range(len(chords)) if k == 0 or chords[k] != chords[k - 1]]
    record = {
        "id": identity, "work": score.work, "family": score.family, "split": split_of(score.family),
        "path": f"clips/{identity[:2]}/{identity}.flac", "seconds": seconds, "sample_rate": 44100,
        "instrumentation": cast, "style": cast if style else None, "instruments": list(dict.fromkeys(players)),
        "texture": "band" if style else arrange.texture_of(found["parts"]), "composer": score.composer,
        "era": score.era, "form": score.form, "title": score.title, "key": TONICS[tonic] if mode else None,
        "mode": mode, "key_confidence": confidence, "bpm": clock.bpm, "beats_per_bar": round(clock.bar / clock.beat),
        "first_beat": round(float(clock(clock.first)), 3), "bars": clock.bars, "swing": clock.swing,
        "ends": bool(found["ends"]), "onset_rate": found["rate"], "speed": speed, "metre": score.metre,
        "dynamic": dynamic, "mood": [], "font": font,
        "licence": f"{score.licence}; SoundFont: {fonts.FONTS[font]['title']}", "source": score.source,
        "start_quarter": found["start"], "transpose": transpose, "accompaniment": found["accompaniment"],
        "chords": [[0.0, 0, "none"]] * (clock.first > 0)
        + [[round(float(clock(harmony.edges[k])), 3), *chords[k]] for k in changes],
        "melody": [*map(list, melody)],
    }  # fmt: skip
    record["mood"] = [w for w, cases in arrange.TABLES["moods"].items() if any(matches(case, record) for case in cases)]
    how = dict(players=players, pans=[s[3] for s in sounding], dynamic=dynamic, seconds=seconds, font=font)
    how["reverb"] = int(rng.integers(20, 100))
    return record, notes, how


def render_clip(out: Path, clip: tuple[dict, list[list[float]], dict]) -> tuple[str, str]:
    """Render a clip of the plan, unless it is rendered; returns (its id, why it is not usable or ""). A clip exists
    once its record file does, which is written last.
    """
    record, notes, how = clip
    audio, target = out / record["path"], out / "records" / record["id"][:2] / f"{record['id']}.json"
    text = json.dumps(record)  # a clip of another seed may have the same id
    if not (target.exists() and audio.exists() and target.read_text("utf-8") == text):
        try:
            write_flac(audio, render(notes, **how))
        except BadAudio as error:
            return record["id"], str(error)
        write_atomic(target, text)
    return record["id"], ""


def plan_header(seed: int, only: list[str] | None) -> dict:
    """What a plan depends on besides its length: seed, repertoire, and the code and tables that make it."""
    here = Path(__file__).parent
    code, tables = "plan arrange bands captions harmony scores families", "plan instruments fonts collections lexicon"
    names = [*(f"{name}.py" for name in code.split()), *(f"{name}.toml" for name in tables.split())]
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in names))
    return {"seed": seed, "only": only, "code": digest.hexdigest()[:16]}


def write_plan(
    out: Path, n: int, workers: int, seed: int, only: list[str] | None, stop: Callable[[], int] = lambda: 0
) -> None:
    """Write the first `n` clips to <out>/plan.jsonl.xz: a header, then a clip by line."""
    scores, buffer = catalogue(out, workers, only, stop), io.BytesIO()
    with lzma.open(buffer, "wt", encoding="utf-8", preset=1) as file:
        file.write(json.dumps(plan_header(seed, only) | {"n": n}) + "\n")
        for record, notes, how in tqdm(islice(clips(scores, seed), n), "plan", n, disable=None):
            rng = np.random.default_rng([seed, 3, *record["id"].encode()])
            record["captions"] = write_captions(record, rng)
            file.write(json.dumps([record, notes, how], separators=(",", ":")) + "\n")
            end_if(stop)
    write_atomic(out / "plan.jsonl.xz", buffer.getvalue())


def read_plan(out: Path, n: int, seed: int, only: list[str] | None) -> Iterator[Clip] | None:
    """The first `n` clips of <out>/plan.jsonl.xz; None when there is none for these arguments and today's code.

    Raises MuseError when the file is damaged.
    """
    path = out / "plan.jsonl.xz"
    if not path.exists():
        return None

    def lines(first: int, last: int) -> Iterator:
        try:
            with lzma.open(path, "rt", encoding="utf-8") as file:
                yield from map(json.loads, islice(file, first, last))
        except (lzma.LZMAError, EOFError, ValueError):
            raise MuseError(f"{path} is damaged: delete it, and the same command plans again") from None

    header = next(lines(0, 1), {})
    if header.pop("n", 0) < n or header != plan_header(seed, only):
        return None
    return map(tuple, lines(1, n + 1))


def build_clips(
    out: Path,
    n: int = 5_400,
    workers: int = 2,
    seed: int = 0,
    only: list[str] | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> list[dict]:
    """Render the first `n` clips of the plan into the folder `out`, in `workers` processes; returns their records.

    The same call again renders only what is missing, and plans again only when its arguments or the code have changed.
    `only`: prefixes of corpus files, for a small repertoire. Raises `distributed.Stopped` when `stop()` says so.
    """
    out, records, unusable = Path(out).expanduser(), [], set()
    fonts.require_all()
    if read_plan(out, n, seed, only) is None:
        write_plan(out, n, workers, seed, only, stop)

    def planned() -> Iterator[Clip]:
        for clip in read_plan(out, n, seed, only):
            records.append(clip[0])
            yield clip

    rendered = in_processes(partial(render_clip, out), planned(), workers, stop)
    for identity, problem in tqdm(rendered, "clips", n, disable=None, smoothing=0.05):
        if problem:
            print(f"{identity} is left out: {problem}")
            unusable.add(identity)
    records = [record for record in records if record["id"] not in unusable]
    write_atomic(out / "clips.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    return records
