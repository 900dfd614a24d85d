"""controls: systems with planted faults, each of which must fail a bar, and an honest one that must pass all of them.

The honest system answers with held-out works: right answers in place of Stage 1's samples, held-out clips in place of
pieces. A fault changes what it answers, so a bar that fails shows the fault and nothing else. Two faults are real ones:
one Euler step of Stage 1, and regression's answer for every seed.
"""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch

from musekit.corpus.render import SAMPLE_RATE, render
from musekit.evaluate import conditional, memorisation, reproducibility
from musekit.evaluate.judge import obedience
from musekit.evaluate.right_answers import renderings
from musekit.evaluate.study import PROMPT_LIKE, Study, progress
from musekit.muse import Muse, Settings

SEED = 160_000
COPIES = 24  # training clips whose noisy copies are planted
HALVES = 40  # of held-out clips that stand for an honest system
NOISE = 0.03  # of a copy's level (-30 dB)
SHARES = (0.01, 0.02, 0.05)  # of a memoriser's pieces that are copies
Sets = list[np.ndarray]  # of embeddings (n, 512), one for each prompt


def half_the_variety(x: Sets) -> Sets:
    """Answers half as far from their mean, on the sphere again."""
    moved = [some.mean(0) + 0.5 * (some - some.mean(0)) for some in x]
    return [some / np.linalg.norm(some, axis=1, keepdims=True) for some in moved]


FAULTS = {  # of answers to prompts
    "one answer for all seeds": lambda x: [np.repeat(some[:1], len(some), axis=0) for some in x],
    "half the variety": half_the_variety,
    "the prompt is ignored": lambda x: [np.concatenate(x)[i :: len(x)] for i in range(len(x))],
    "prompts are swapped": lambda x: [*x[1:], x[0]],
}


class Irreproducible(Muse):
    """A renderer that adds noise far below what is audible."""

    def render_batch(self, *arguments, **options):
        """As `Muse.render_batch`, with noise."""
        audio, nfe = super().render_batch(*arguments, **options)
        return [x + 1e-6 * torch.randn_like(x) for x in audio], nfe


def row(control: str, group: str, bars: Sequence[dict], passes: bool = False) -> dict:
    """A control with the bars that it misses; as_expected: a fault misses one or more, the honest system none."""
    missed = [bar["name"] for bar in bars if not bar["met"]]
    about = {"measure": "control", "group": group, "control": control, "must": "pass" if passes else "fail"}
    return about | {"bars": len(bars), "missed": missed, "as_expected": (not missed) == passes}


def honest(group: str, found: np.ndarray, bars: Callable[[np.ndarray, np.ndarray], list[dict]]) -> dict:
    """Random halves of held-out clips' distances against each other, of which margins are made to let 95 % pass."""
    mixed = map(np.random.default_rng(SEED).permutation, [found] * HALVES)
    each = [row("held-out works", group, bars(x[::2], x[1::2]), passes=True) for x in mixed]
    n, missed = sum(r["as_expected"] for r in each), {name for r in each for name in r["missed"]}
    return each[0] | {"halves": HALVES, "passed": n, "missed": sorted(missed), "as_expected": n >= 0.85 * HALVES}


def answers(study: Study, level: str) -> list[dict]:
    """Controls of the bars on answers to one level of prompts: half of the right answers stand for samples."""
    groups = [(prompt, y) for _, prompt, y in conditional.asked(study, level) if len(y) >= 2 * conditional.FEWEST]
    if len(groups) < 2:
        return []
    rng = np.random.default_rng(SEED)  # clips of the cache come before new renderings
    mixed = [y[rng.permutation(len(y))] for _, y in groups]
    honest, right = [y[::2] for y in mixed], [y[1::2] for y in mixed]
    n, margins = max(map(len, honest)), conditional.margins([y for _, y in groups])

    def bars(x: Sets) -> list[dict]:
        return conditional.bars(conditional.compare(x, right), level, margins)

    rows = [row("held-out works", level, bars(honest), passes=True)]
    rows += [row(fault, level, bars(change(honest))) for fault, change in FAULTS.items()]
    step = Settings(stage1_steps=1, stage1_solver="euler", micro_batch=16)
    texts = [prompt["text"] for prompt, _ in groups]
    one = [study.sample(study.recipes([text] * n, SEED, step))[0] for text in progress(texts, "one Euler step")]
    mean = [np.repeat(conditional.regression_answer(study, text)[0][None], n, axis=0) for text in texts]
    return [*rows, row("one Euler step", level, bars(one)), row("regression's answer for all seeds", level, bars(mean))]


def copies(study: Study) -> list[dict]:
    """Controls of the bars on memorisation: held-out clips, some of them replaced by noisy copies of training clips."""
    library, rng = memorisation.training_library(study), np.random.default_rng(SEED)
    clips = study.prompt_like(2 * PROMPT_LIKE)
    found, _ = memorisation.nearest(study, library, study.round_trips(clips), "held-out clips")
    planted = []
    for path in study.round_trips(study.split("train")[:COPIES]):
        audio, rate = study.read(path)
        noisy = audio + NOISE * audio.std() * rng.normal(size=audio.shape).astype(np.float32)
        planted.append(library.distances(memorisation.sequence(noisy, rate)).min())
    planted, pieces, others = np.array(planted), found[::2], found[1::2]

    most = memorisation.margins(found)

    def bars(x: np.ndarray, y: np.ndarray = others) -> list[dict]:
        return memorisation.bars(x, y, "beside held-out clips", most)

    rows = [honest("memorisation", found, bars)]
    for share in SHARES:
        n = max(1, round(share * len(pieces)))
        some = np.concatenate([pieces[n:], rng.choice(planted, n)])
        rows.append(row(f"{share:.0%} copies", "memorisation", bars(some)))
    power = {"measure": "power", "name": "smallest share of copies seen with probability 0.9", "pieces": study.n}
    seen = memorisation.smallest_share(planted, study.n)
    return [*rows, power | {"value": seen, "copies_p95": float(np.percentile(planted, 95))}]


def melodies(study: Study) -> list[dict]:
    """Controls of the bars on melodies: held-out clips, some replaced by the melodies of accompanied training works, on
    another instrument, in another key, without their chords."""
    library, planted = memorisation.training_library(study, "melody"), []
    clips = study.prompt_like(2 * PROMPT_LIKE)
    found, _ = memorisation.nearest(study, library, clips, "held-out clips", "melody")
    works = renderings(study.cache, "train", {"instrument": "piano"}, 10 * COPIES)
    works = (work for work in works if work[0]["accompaniment"])  # the tune is their first part
    for _, notes, how in progress(islice(works, 2 if study.quick else COPIES), "copied melodies"):
        tune = [[*note[:2], note[2] + 3, *note[3:]] for note in notes if note[4] == 0]
        other = {**how, "players": ["flute"], "pans": [64]}
        pair = [render(some, **about) for some, about in ((notes, how), (tune, other))]
        original, copied = (memorisation.melody(audio, SAMPLE_RATE) for audio in pair)
        planted.append(memorisation.Nearest([original]).distances(copied)[0])
    most = memorisation.margins(found)

    def bars(x: np.ndarray, y: np.ndarray = found[1::2]) -> list[dict]:
        return memorisation.bars(x, y, "beside held-out clips", most, "melody")

    rows = [honest("melody", found, bars)]
    for share in (0.5, 1.0) if planted else ():
        n = round(share * len(found[::2]))
        chosen = np.random.default_rng(SEED).choice(planted, n)
        rows.append(row(f"{share:.0%} copied melodies", "melody", bars(np.concatenate([found[::2][n:], chosen]))))
    return rows


def obeyed(study: Study) -> list[dict]:
    """Controls of the bars on obedience: held-out round trips for prompts that describe them, and for others."""
    clips = study.prompt_like()
    files = study.round_trips(clips)

    def bars(records: list[dict]) -> list[dict]:
        return [r for r in obedience(study, records, files) if r["measure"] == "bar"]

    rows = [row("held-out works", "obedience", bars(clips), passes=True)]
    return [*rows, row("prompts are swapped", "obedience", bars([*clips[1:], clips[0]]))]


def bits(study: Study) -> list[dict]:
    """Controls of the bars on reproducibility."""

    def bars(kind: type[Muse]) -> list[dict]:
        rows = reproducibility.compared(kind.from_pretrained(study.muse.folder), ["a sad piano melody"])
        return [r for r in rows if r["measure"] == "bar"]

    rows = [row("the renderer", "reproducibility", bars(Muse), passes=True)]
    return [*rows, row("a renderer that adds noise", "reproducibility", bars(Irreproducible))]


def measure_controls(study: Study) -> None:
    """Writes results/controls.json."""
    rows = [r for level in conditional.LEVELS for r in answers(study, level)]
    rows += copies(study) + melodies(study) + obeyed(study) + bits(study)
    study.write("controls", rows, held_out=False, seed=SEED)
