"""The plan: an endless, seeded list of clips, of which every prefix is balanced over instrument, mode and speed.

A longer corpus contains the shorter one, because clip i does not depend on the number of clips. `build_clips` renders
the plan's first clips to <out>/clips/*.flac and writes their records to <out>/clips.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from musekit.claims import matches
from musekit.config import TONICS
from musekit.corpus import arrange
from musekit.corpus.captions import write_captions
from musekit.corpus.families import catalogue, split_of
from musekit.corpus.fonts import FONTS, fonts_of
from musekit.corpus.instruments import CHORDERS, DUETS, MIXED, SINGLE, players_of
from musekit.corpus.processes import in_processes
from musekit.corpus.render import render, write_flac
from musekit.corpus.scores import Score, key_of, slug, third_is_clear
from musekit.corpus.sound import BadAudio
from musekit.files import write_atomic

SECONDS = 12.0
KINDS = arrange.TABLES["kinds"]  # shares of the kinds of score, by mode


def speed_of(rate: float) -> str | None:
    """Speed: "slow" below 1.8 onsets per second, "medium" from 2.2 to 3.4, "fast" above 4.2, None between."""
    return "slow" if rate < 1.8 else "fast" if rate > 4.2 else "medium" if 2.2 <= rate <= 3.4 else None


def cells(seed: int) -> Iterator[tuple[str, str | None, str]]:
    """(instrumentation, mode, speed) in shuffled blocks of 300: 72 % single instruments, 8 % without a mode."""
    block = [(i, m, s) for i in SINGLE for m in ("major", "minor") for s in ("slow", "fast")] * 3
    block += [(i, m, "medium") for i in SINGLE for m in ("major", "minor")] * 2
    block += [(i, None, s) for i in SINGLE for s in ("slow", "fast")]
    block += [(i, m, s) for i in MIXED for m in ("major", "minor") for s in arrange.TABLES["onset_rates"]]
    for number in count():
        yield from (block[k] for k in np.random.default_rng([seed, 1, number]).permutation(len(block)))


def attempt(score: Score, instrumentation: str, mode: str | None, speed: str, rng: np.random.Generator) -> dict | None:
    """One clip of this score in this cell, or None when no window of it fits."""
    parts = arrange.ordered(score)
    low, high = arrange.TABLES["onset_rates"][speed]
    rate = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    marks = [b for b in score.bars if b < score.length - 1] or [0.0]
    melody = score.kind == "tune" and len(parts) == 1
    accompanied = melody and (instrumentation in DUETS or instrumentation in CHORDERS and rng.random() < 0.5)
    style = str(rng.choice(arrange.TABLES["accompaniments"]))
    density = len(arrange.onset_times([np.asarray(p, float) for p in parts])) / score.length
    for _ in range(6):
        start = float(rng.choice(marks))
        spq = density / rate  # seconds a quarter
        for _ in range(3):  # the window's own density sets the tempo
            quarters = SECONDS / spq
            played = [arrange.window(p, start, quarters, score.length) for p in parts]
            bars = arrange.bars_in(score, start, quarters)
            if accompanied and len(played[0]):
                played = [played[0], arrange.accompany(played[0], bars, score.key, score.mode, style)]
            played = [p for p in played if len(p)]
            if not played:
                break
            measured = len(arrange.onset_times(played)) / SECONDS
            if abs(measured - rate) < 0.1 * rate or measured == 0:
                break
            spq *= measured / rate
        if not played or not 0.15 <= spq <= 3.0 or len(played) < len(parts) * 0.5:
            continue
        onsets = arrange.onset_times(played) * spq
        if speed_of(measured) != speed or onsets[0] > 0.01 or len(onsets) < 6:
            continue
        # no long silence: what sounds must cover the clip but for 1.2 s at a time
        rows = np.concatenate(played)
        ends = np.maximum.accumulate((rows[np.argsort(rows[:, 0])][:, :2].sum(1)) * spq)
        if (np.r_[np.sort(rows[:, 0])[1:] * spq, SECONDS] - ends).max() > 1.2:
            continue
        durations = np.minimum(rows[:, 1], quarters - rows[:, 0])
        key, own, r, gap = key_of(rows[:, 2], durations)
        sure = r >= 0.70 and gap >= 0.05 and third_is_clear(rows[:, 2], durations, key, own)
        agrees = (key, own) == (score.key, score.mode) and sure
        if mode is not None and not (agrees and own == mode):
            continue
        if mode is None and score.kind != "modal" and agrees:
            continue
        return dict(
            parts=played, spq=spq, start=start, bars=bars, rate=round(measured, 3), mode=own if agrees else None,
            key_confidence=round(r, 3), accompaniment=style if accompanied else None,
        )  # fmt: skip
    return None


def clips(scores: list[Score], seed: int = 0) -> Iterator[tuple[dict, list[list[float]], dict]]:
    """Yield (record without captions, note rows in seconds, arguments of `render`) without end."""
    used = {s.work: 0 for s in scores}
    pools: dict[tuple, list[Score]] = {}
    for s in scores:
        pools.setdefault((s.kind, s.mode), []).append(s)
        if s.mode is not None or s.kind == "modal":
            pools.setdefault((s.kind, None), []).append(s)
    for index, (instrumentation, mode, speed) in enumerate(cells(seed)):
        rng = np.random.default_rng([seed, 2, index])
        for _ in range(12):
            shares = {k: w for k, w in KINDS[mode or "none"].items() if pools.get((k, mode))}
            if not shares:
                break
            weights = np.array(list(shares.values()))
            pool = pools[str(rng.choice(list(shares), p=weights / weights.sum())), mode]
            order = rng.permutation(len(pool))[:60]  # the least-used of a random handful
            score = pool[min(order, key=lambda k: used[pool[k].work])]
            if instrumentation in DUETS and score.kind != "tune" and len(score.parts) < 2:
                continue
            if found := attempt(score, instrumentation, mode, speed, rng):
                used[score.work] += 1
                yield draw_clip(score, instrumentation, found, used[score.work] - 1, rng)
                break


def draw_clip(
    score: Score, instrumentation: str, found: dict, number: int, rng: np.random.Generator
) -> tuple[dict, list[list[float]], dict]:
    """Draw key, dynamic and reverb of what `attempt` found, and write the record."""
    players = players_of(instrumentation, len(found["parts"]))
    font = str(rng.choice(fonts_of(players)))
    transpose = int(rng.integers(-5, 6))
    dynamic = str(rng.choice(["soft", "medium", "loud"]))
    parts = arrange.to_range(found["parts"], players, transpose)
    notes = arrange.perform(parts, found["spq"], found["bars"], dynamic, rng)
    spread = np.linspace(-1, 1, len(parts)) if len(parts) > 1 else np.array([rng.uniform(-0.5, 0.5)])
    pans = [int(np.clip(64 + 34 * x * rng.choice([0.7, 1.0]) + rng.normal(0, 3), 8, 120)) for x in spread]
    identity = f"{slug(score.work)}-{number:02d}"
    speed = speed_of(found["rate"])
    bpm = 60 / found["spq"]  # the beat is the quarter, half or eighth note that gives 40 to 200 beats per minute
    while not 40 <= bpm <= 200:
        bpm = bpm / 2 if bpm > 200 else bpm * 2
    sounding = TONICS[(TONICS.index(score.key) + transpose) % 12]
    record = {
        "id": identity, "work": score.work, "family": score.family, "split": split_of(score.family),
        "path": f"clips/{identity[:2]}/{identity}.flac", "seconds": SECONDS, "sample_rate": 44100,
        "instrumentation": instrumentation, "instruments": list(dict.fromkeys(players)),
        "texture": arrange.texture_of(found["parts"]), "composer": score.composer, "era": score.era,
        "form": score.form, "title": score.title, "key": sounding if found["mode"] else None, "mode": found["mode"],
        "key_confidence": found["key_confidence"], "bpm": round(bpm, 1), "onset_rate": found["rate"],
        "speed": speed, "metre": score.metre, "dynamic": dynamic, "mood": [],
        "licence": f"{score.licence}; SoundFont: {FONTS[font]['title']}", "source": score.source,
        "start_quarter": found["start"],
        "transpose": transpose, "accompaniment": found["accompaniment"],
    }  # fmt: skip
    record["mood"] = [w for w, cases in arrange.TABLES["moods"].items() if any(matches(case, record) for case in cases)]
    reverb = int(rng.integers(30, 100))
    how = dict(players=players, pans=pans, dynamic=dynamic, reverb=reverb, seconds=SECONDS, font=font)
    return record, notes, how


def render_clip(out: Path, clip: tuple[dict, list[list[float]], dict]) -> tuple[str, str]:
    """Render a clip of the plan, unless it is rendered; returns (its id, why it is not usable or "").

    A clip exists once its record file does. Audio and record are each written aside and renamed, the record last.
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


def build_clips(
    out: Path,
    n: int = 12_000,
    workers: int = 2,
    seed: int = 0,
    only: list[str] | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> list[dict]:
    """Render the first `n` clips of the plan into the folder `out`, in `workers` processes; returns their records.

    The same call again renders only what is missing. `only`: prefixes of corpus files, for a small repertoire. When
    `stop()` says so, clips in work are finished and `distributed.Stopped` is raised.
    """
    out, records, unusable = Path(out).expanduser(), [], set()
    scores = catalogue(out, workers, only, stop)

    def planned() -> Iterator[tuple]:
        for clip in islice(clips(scores, seed), n):
            records.append(clip[0])
            yield clip

    rendered = in_processes(partial(render_clip, out), planned(), workers, stop)
    for identity, problem in tqdm(rendered, "clips", n, disable=None, smoothing=0.05):
        if problem:
            print(f"{identity} is left out: {problem}")
            unusable.add(identity)
    records = [record for record in records if record["id"] not in unusable]
    for record in records:
        rng = np.random.default_rng([seed, 3, *record["id"].encode()])
        record["captions"] = write_captions(record, rng)
    write_atomic(out / "clips.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    return records
