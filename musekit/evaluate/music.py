"""music: has a sound a beat, the tempo, key, chords and melody that were asked for, and a tune that comes back?

All of it is measured on notes of a transcriber that is not ours (`transcribe`). Held-out clips and their codec round
trips give the ceiling; the planted failures are as many onsets at random times, and a chord line in another order.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from musekit.config import TONICS
from musekit.evaluate import memorisation, theory
from musekit.evaluate.features import features, onsets_and_timbre
from musekit.evaluate.judge import PROMPT_SEED, evaluation_pieces
from musekit.evaluate.study import Sound, Study, progress
from musekit.evaluate.transcribe import notes_of
from musekit.muse import Settings
from musekit.recipe import Recipe
from musekit.statistics import accuracy, mean_interval

CLIPS, SEAMS = 60, 16  # held-out clips, and those that are continued and repainted
PROMPTS = 200  # that ask for a tempo and a key, at least
SECONDS = 12.0  # of a piece; those with controls are made in the longest length, too
SEED = 50_000  # of the pieces that are asked for a tempo and a key
FOLDS = 5  # of the pieces that the judge of seams is fitted on
RANDOM = 2  # random places per seam
INSTRUMENTS = ("piano", "guitar", "strings", "organ")
LOUD = 0.7  # of the median amplitude: softer notes are left out of the upper line


def music_rows(study: Study, records: Sequence[dict], sounds: Sequence[Sound], source: str) -> list[dict]:
    """Rows of one source; records say what each sound is, or what it was asked to be: "bpm", "key" and "mode",
    "chords", "melody" (`corpus.plan` tells what they hold), each where it is known."""
    notes = notes_of(study, sounds)
    lengths = [x.shape[1] / rate for x, rate in map(study.read, sounds)]
    return rows_of(records, notes, lengths, source)


def rows_of(records: Sequence[dict], notes: Sequence[np.ndarray], lengths: Sequence[float], source: str) -> list[dict]:
    """`music_rows` of notes (n, 4) and lengths in seconds."""
    onsets = [theory.onsets_of(n) for n in notes]
    lines = [theory.loud(n, LOUD) for n in notes]
    random = [theory.at_random(times, s, i) for i, ((times, _), s) in enumerate(zip(onsets, lengths))]
    means = {
        "pulse": [theory.pulse_in(times, s) for (times, _), s in zip(onsets, lengths)],
        "pulse of as many onsets at random": [theory.pulse_in(times, s) for times, s in zip(random, lengths)],
        "onsets per second": [len(times) / s for (times, _), s in zip(onsets, lengths)],
        "distinct triads, of each second": [theory.distinct_triads(n, s) for n, s in zip(notes, lengths)],
        "figures of the tune that return": [f for n in lines if np.isfinite(f := theory.figures_return(n))],
    }
    shares = {
        "same tempo in both halves": [theory.steady(times, s) for (times, _), s in zip(onsets, lengths)],
        "same tempo in both halves, onsets at random": [theory.steady(times, s) for times, s in zip(random, lengths)],
    }
    asked = [(r["bpm"], theory.tempo(n)) for r, n in zip(records, notes) if r.get("bpm")]
    shares["tempo within 4 %"] = [theory.met(found, bpm) for bpm, found in asked]
    shares["tempo within 4 %, or an octave of it"] = [theory.met(found, bpm, theory.OCTAVES) for bpm, found in asked]
    shares["key, of 24"] = [
        len(n) > 0 and theory.key(n) == (r["key"], r["mode"])
        for r, n in zip(records, notes) if r.get("key") and r.get("mode")
    ]  # fmt: skip
    chords = [(n, r["chords"], s) for r, n, s in zip(records, notes, lengths) if r.get("chords")]
    shares["chords: root and third"] = [hit for n, line, s in chords for hit in theory.chords_met(n, line, s)]
    shuffled = [(n, theory.shuffled(line, i), s) for i, (n, line, s) in enumerate(chords)]
    shares["chords: of the line in another order"] = [hit for c in shuffled for hit in theory.chords_met(*c)]
    tunes = [(n, r["melody"], s) for r, n, s in zip(records, lines, lengths) if r.get("melody")]
    means["melody: F1 within a semitone"] = [theory.melody_f1(*tune) for tune in tunes]
    rows = [{"measure": "music", "source": source, "name": k, "n": len(x), **mean_interval(x)}
            for k, x in means.items() if len(x)]  # fmt: skip
    for name, hits in shares.items():
        if len(hits):
            found = accuracy(np.array(hits, bool))
            ends = {"mean": found["accuracy"], "low": found["low"], "high": found["high"]}
            rows.append({"measure": "music", "source": source, "name": name, "n": found["n"], **ends})
    return rows


def requests(n: int) -> list[dict]:
    """n prompts with a tempo and a key, and what they ask."""
    found, rng = [], np.random.default_rng(SEED)
    for i in range(n):
        about = {"bpm": int(rng.integers(60, 161)), "key": TONICS[int(rng.integers(12))]}
        about |= {"mode": ("major", "minor")[i % 2], "instrument": INSTRUMENTS[i // 2 % len(INSTRUMENTS)]}
        found.append(about | {"text": "{instrument} music in {key} {mode} at {bpm} BPM".format(**about)})
    return found


def controlled(study: Study) -> dict[str, list[Recipe]]:
    """Recipes by what their controls ask: tempo and key, four chords of the key, or the tune of a held-out clip."""
    longest = math.floor(100 * study.muse.config.window_seconds) / 100
    asked, rng, found = requests(study.n), np.random.default_rng(SEED), {}
    tunes = [c for c in study.split(study.on) if c.get("melody") and c.get("first_beat", 1.0) < 0.01]
    for seconds in sorted({min(SECONDS, longest), longest}):

        def recipe(i: int, seconds=seconds, **controls) -> Recipe:
            settings = Settings(seconds=seconds, **controls)
            return study.muse.recipe(f"{asked[i]['instrument']} music", SEED + i, settings)

        kinds = ("tempo and key", "chords", "melody", "melody (guidance 1)")
        recipes: dict[str, list[Recipe]] = {kind: [] for kind in kinds}
        for i, about in enumerate(asked):
            steps = [0, *rng.permutation([5, 7, 9, 2, 4])[:3]]
            names = [TONICS[(TONICS.index(about["key"]) + k) % 12] + ("" if k in (0, 5, 7) else "m") for k in steps]
            recipes["tempo and key"].append(recipe(i, bpm=about["bpm"], metre=4, key=f"{about['key']} {about['mode']}"))
            recipes["chords"].append(recipe(i, bpm=about["bpm"], metre=4, chords=" ".join(names)))
        for i, tune in enumerate(tunes[: study.n]):
            notes = [note for note in tune["melody"] if note[0] < seconds]
            for kind, k in zip(kinds[2:], (None, 1.0)):
                how = {"bpm": tune["bpm"], "metre": tune["beats_per_bar"], "melody": notes, "control_guidance": k}
                recipes[kind].append(recipe(i, **how))
        found |= {f"generated, {kind} in controls, {seconds:g} s": some for kind, some in recipes.items() if some}
    return found


def seam_rows(study: Study, n: int) -> list[dict]:
    """How well a classifier finds the seams of held-out clips that were continued from 6 s on, and repainted from 4 to
    8 s, by the trained network and by the baseline that needs no training."""
    clips, rows = [c for c in study.split(study.on) if c["seconds"] >= SECONDS][:n], []
    for trained in (True, False) if study.muse.config.stage2.controls else (False,):
        pieces: dict[str, list] = {"continue": [], "repaint": []}
        for i, clip in enumerate(progress(clips, "continuing and repainting")):
            audio, rate = study.read(clip, SECONDS)
            sound, how = torch.from_numpy(audio), {"seed": SEED + i, "trained": trained}
            piece = study.muse.continue_(sound[:, : 6 * rate].contiguous(), 6.0, **how)
            pieces["continue"].append((piece.audio.numpy(), rate, [6.0]))
            piece = study.muse.repaint(sound, 4.0, 8.0, **how)
            pieces["repaint"].append((piece.audio.numpy(), rate, [4.0, 8.0]))
        by = "the trained network" if trained else "the baseline without training"
        for name, some in pieces.items():
            with contextlib.suppress(ValueError):  # too few
                rows.append({"measure": "seams", "name": name, "by": by, "n": len(some), "auc": seam_auc(some)})
    return rows


def second_around(audio: np.ndarray, rate: int, at: float) -> np.ndarray:
    """librosa's features of the second around a time, and how the log-mel spectrum changes across its middle."""
    import librosa

    start = round((at - 0.5) * rate)
    x = np.ascontiguousarray(audio[:, start : start + rate])
    mel = librosa.feature.melspectrogram(y=x.mean(0), sr=rate, n_mels=32, hop_length=rate // 100)
    db = librosa.power_to_db(mel, ref=np.max)
    jumps = np.abs(np.diff(db, axis=1)).mean(0)  # 100 a second
    sides = np.abs(db[:, 30:48].mean(1) - db[:, 53:71].mean(1))
    return np.r_[onsets_and_timbre([features(x, rate)])[0], sides, jumps[45:55].max() / (np.median(jumps) + 1e-6)]


def seam_auc(pieces: Sequence[tuple[np.ndarray, int, Sequence[float]]], seed: int = 0) -> float:
    """The area under the ROC curve, 0.5 where seams are not heard, of pieces (audio (2, N), rate, seams in s).

    A logistic regression on standardised features judges pieces that it was not fitted on. Random places keep 1 s from
    every seam. Raises ValueError for fewer than 5 pieces with a seam and room beside it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng, x, y, groups = np.random.default_rng(seed), [], [], []
    for number, (audio, rate, seams) in enumerate(pieces):
        seconds = audio.shape[1] / rate
        seams = [at for at in seams if 0.5 <= at <= seconds - 0.5]
        free = np.arange(0.5, seconds - 0.5, 0.05)
        free = free[(np.abs(free[:, None] - np.array(seams)[None]) > 1).all(1)] if seams else free[:0]
        places = [*seams, *rng.choice(free, min(len(free), RANDOM * len(seams)), replace=False)]
        x += [second_around(audio, rate, at) for at in places]
        y += [k < len(seams) for k in range(len(places))]
        groups += [number] * len(places)
    if len({*groups}) < FOLDS or len({*y}) < 2:
        raise ValueError(f"a judge of seams needs {FOLDS} pieces with a seam and 2 s beside it")
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=2000, class_weight="balanced"))
    scores = cross_val_predict(judge, np.stack(x), y, groups=groups, cv=GroupKFold(FOLDS), method="decision_function")
    return float(roc_auc_score(y, scores))


def measure_music(study: Study) -> None:
    """Writes results/music.json: held-out clips, their round trips, and pieces without and with what is asked."""
    clips = study.split(study.on)[: study.n if study.quick else CLIPS]
    trips = study.round_trips(clips)
    rows = music_rows(study, clips, clips, "held-out clips") + music_rows(study, clips, trips, "codec round trips")
    prompts, pieces, _ = evaluation_pieces(study)
    rows += music_rows(study, [p["asks"] for p in prompts], pieces, "generated")
    longest, texts = math.floor(100 * study.muse.config.window_seconds) / 100, [p["text"] for p in prompts]
    long = made(study, study.recipes(texts, PROMPT_SEED, Settings(seconds=longest)))
    rows += music_rows(study, [p["asks"] for p in prompts], long, source := f"generated, {longest:g} s")
    for name, sounds in (("generated", pieces), (source, long)):
        near = (study.embed(sounds) * study.embed_text(texts)).sum(1)
        far, _ = memorisation.nearest(study, memorisation.training_library(study), sounds, name)
        for what, values in (("similarity to the prompt", near), ("distance to the nearest training clip", far)):
            about = {"measure": "music", "source": name, "name": what}
            rows.append({**about, "n": len(values), **mean_interval(values)})
    asked = requests(study.n if study.quick else max(PROMPTS, study.n))
    recipes = study.recipes([a["text"] for a in asked], SEED, Settings())
    rows += music_rows(study, asked, made(study, recipes), "generated, tempo and key in the prompt")
    for source, recipes in controlled(study).items() if study.muse.config.stage2.controls else ():
        records = [recipe.controls.record(recipe.seconds) for recipe in recipes]
        rows += music_rows(study, records, made(study, recipes), source)
    study.write("music", rows + seam_rows(study, 5 if study.quick else SEAMS), seed=SEED)


def made(study: Study, recipes: Sequence[Recipe]) -> list[Path]:
    """The files of recipes, made where they are missing."""
    return study.render(study.sample(recipes)[0], recipes)
