"""`musekit bench lab`: does the Lab answer at the pace of playing?

Three rows with a bar each: a place that was heard plays at once, a new sound soon, a map while one waits.
"""

from __future__ import annotations

import subprocess
import sys
import time

from musekit.bench import RUNS, Row, now, row
from musekit.lab.lab import Lab
from musekit.muse import Muse

PROMPTS = ("a sad piano melody", "a happy flute tune")
POINTS, SECONDS = 400, 6.0


def lab(muse: Muse) -> list[Row]:
    """A cached point (to the bytes that a browser plays), a new 6 s sound at draft quality, a 400-point map."""
    lab = Lab(muse, seconds=SECONDS)
    began = now(muse)
    for prompt in PROMPTS:
        lab.sample(prompt, POINTS // len(PROMPTS))
    sampled = now(muse) - began
    began = now(muse)
    lab.map()
    first = now(muse) - began
    again = timed_each(lambda i: lab.map(refit=True), muse)
    fresh = timed_each(lambda i: lab.sound(i), muse, skip=1)
    lab.sound(0)
    cached = timed_each(lambda i: played(lab), muse, skip=1)
    how = f"{SECONDS:g} s, {lab.quality} quality, {lab.settings().steps} steps, {muse.config.name} preset"
    umap = imported()
    layout = f"{POINTS} samples of Stage 1, UMAP, density, labelled peaks; loaded weights"
    return [
        row("a cached point plays: sound to bytes for the browser", cached, "s", how, ("<", 0.2)),
        row(f"a new {SECONDS:g} s sound at draft quality", fresh, "s", how, ("<", 3.0)),
        row(f"a {POINTS}-point map with UMAP, first of a process", [sampled + first], "s", layout, ("<", 20.0)),
        row(f"a {POINTS}-point map: its samples", [sampled], "s", layout),
        row(f"a {POINTS}-point map: laid out again", again, "s", layout),
        row("importing UMAP alone, in a fresh process", umap, "s", "python -c 'import umap', less an empty process"),
    ]


def played(lab: Lab) -> bytes:
    """What happens from a click on a point that was heard before to the message to the browser."""
    from musekit.show.players import compressed

    take = lab.sound(0)
    return compressed(take.audio, take.sample_rate, seconds=None)


def timed_each(call, muse: Muse, skip: int = 0) -> list[float]:
    """Seconds of call(0), call(1), ..., the first `skip` of them not counted."""
    times = []
    for i in range(skip + RUNS):
        began = now(muse)
        call(i)
        times.append(now(muse) - began)
    return times[skip:]


def imported() -> list[float]:
    """Seconds that `import umap` takes."""
    times = []
    for code in ("pass", "import umap"):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return [times[1] - times[0]]
