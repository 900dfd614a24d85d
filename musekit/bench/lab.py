"""`musekit bench lab`: how long a person waits in the lab, and how much memory its kernel takes.

Each part runs in a new Jupyter kernel, with the views of notebook 05; what the browser adds is not in it. With
`--against FOLDER` it runs in that checkout, too, in turn, for the bars that are relative to it.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from musekit.bench.measure import Row, Setup, instructions, median, row
from musekit.config import MuseError

Times = dict[str, list[float]]
PROMPTS = ("a sad piano melody", "a happy flute tune", "a slow waltz for strings")
RUNS, PIECES = 5, 2000
CLICK, FINGER = "click on a new place to sound, 6 s", "surface: finger to blended sound, 6 s"
COLD, MEMORY = "new kernel to first sound, 12 s", "peak memory of the kernel after the script"
FIRST, ALL, SHARE = "first card of 4 x 12 s", "all cards of 4 x 12 s", "first card, of the time of all four"
PAGES = [f"library of {PIECES:,} pieces: {what}" for what in ("open", "search", "next page")]
AGAINST = {CLICK: 0.6, COLD: 0.5}  # bars of the ratio to the other checkout


def lab(setup: Setup) -> Iterator[Row]:
    """A row per measurement, and one of its ratio to the other checkout."""
    from musekit.lab.lab import draft_steps

    steps, draft = setup.muse.config.sample.stage2_steps, draft_steps(setup.muse)
    bars = {FINGER: 0.35 if "AMX" in instructions(setup.device) else 0.8, SHARE: 0.4, MEMORY: 1.3e9}
    bars |= dict.fromkeys(PAGES, 0.3)
    for part, n in ((click, draft), (finger, draft), (cards, steps), (cold, steps), (script, None), (library, None)):
        here = run(part, setup, Path(__file__).parents[2])
        there = run(part, setup, setup.against) if setup.against and part != finger else {}
        ran = {"steps": n, "nfe": n}
        for what, values in here.items():
            unit = "B" if what == MEMORY else "of all" if what == SHARE else "s"
            yield row(what, values, unit, part.__doc__, (bar := bars.get(what)) and ("<", bar)) | ran
            if what in there:
                ratios, bar = [value / median(there[what]) for value in values], AGAINST.get(what)
                how = f"{part.__doc__}; there by its own steps"
                yield row(f"{what}: of {setup.against.name}'s", ratios, "x", how, bar and ("<", bar)) | ran


def run(part: Callable, setup: Setup, checkout: Path) -> Times:
    """What a part measures in a new kernel on a checkout. Raises MuseError where it fails."""
    from jupyter_client.manager import start_new_kernel

    with tempfile.TemporaryDirectory(prefix="muse-bench-") as home:
        places = {"PYTHONPATH": str(checkout.resolve()), "MUSEKIT_HOME": home, "IPYTHONDIR": home}
        began = time.time()
        manager, client = start_new_kernel(
            kernel_name="python3", env=os.environ | places, cwd=home, extra_arguments=["--log-level=ERROR"]
        )
        try:
            call = f"{part.__name__!r}]({str(setup.muse.folder)!r}, {setup.quick!r}, {began!r})"
            client.execute_interactive(f"import json, runpy; out = json.dumps(runpy.run_path({__file__!r})[{call})")
            answer = client.execute_interactive("", user_expressions={"out": "out"})
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    value = answer["content"]["user_expressions"]["out"]
    if value["status"] != "ok":
        raise MuseError(f"bench lab: {part.__name__} failed in {checkout}, see above")
    return json.loads(value["data"]["text/plain"][1:-1])


# -- the parts, each in a kernel of its own


def until_sound(view, act: Callable[[], object]) -> float:
    """Seconds from an act to the sound in the view's player."""
    heard, began = [], time.perf_counter()
    view.player.observe(lambda _: heard.append(time.perf_counter()), "turn")
    act()
    view.job.wait()
    view.player.unobserve_all()
    return heard[0] - began


def click(weights: str, quick: bool, began: float) -> Times:
    """Euler steps of a draft; loudness, coding and similarity are in it"""
    from musekit.lab.lab_view import LabView

    view = LabView(weights, seconds=0.5 if quick else 6.0)
    view.state.sample(PROMPTS[0], RUNS + 2)
    return {CLICK: [until_sound(view, lambda point=point: view.play(point)) for point in view.state.points][2:]}


def finger(weights: str, quick: bool, began: float) -> Times:
    """three prompts; steps as for a click"""
    from musekit.lab.surface import SurfaceView

    view = SurfaceView(weights, PROMPTS, seconds=0.5 if quick else 6.0)
    return {FINGER: [until_sound(view, lambda i=i: view.touch(0.1 * i, 0.5)) for i in range(2, RUNS + 4)][2:]}


def studio(weights, quick: bool, n: int):
    """A Studio whose form has the defaults."""
    from musekit.lab.studio import StudioView

    return StudioView(weights, PROMPTS[0], n=n, seconds=0.5 if quick else 12.0)


def cards(weights: str, quick: bool, began: float) -> Times:
    """the Studio's defaults, once everything is loaded; a card counts when it is sent to the page"""
    view, runs = studio(weights, quick, 4), []
    for _ in range(2 if quick else 4):
        seen = [time.perf_counter()]
        view.cards.observe(lambda _, seen=seen: seen.append(time.perf_counter()), "children")
        view.generate.click()
        view.job.wait()
        runs.append((seen[1] - seen[0], seen[-1] - seen[0]))
    first, every = zip(*runs[1:])
    return {FIRST: first, ALL: every, SHARE: [a / b for a, b in zip(first, every)]}


def cold(weights: str, quick: bool, began: float) -> Times:
    """from the start of the process: import, load, one piece in the Studio"""
    view = studio(weights, quick, 1)
    view.generate.click()
    view.job.wait()
    return {COLD: [time.time() - began]}


def script(weights: str, quick: bool, began: float) -> Times:
    """4 x 12 s twice, a map of 2 x 150, 10 clicks, a path of 5, the Library; resident, torch's libraries included"""
    from musekit.lab.lab_view import LabView
    from musekit.lab.library_view import LibraryView
    from musekit.library import Library
    from musekit.muse import Muse

    kept, muse = Library(), Muse.from_pretrained(weights)
    made, lab = studio(muse, quick, 4), LabView(muse, PROMPTS[:2], n=20 if quick else 150, library=kept)
    for button, job in ((made.generate, made.job), (made.generate, made.job), (made.keep, None), (lab.sample, lab.job)):
        button.click()
        job and job.wait()
    for i in range(10):
        lab.play(lab.state.points[i])
        lab.job.wait()
    lab.places = lab.state.points[:2]
    lab.walk.click()
    lab.job.wait()
    LibraryView(kept, muse)
    return {MEMORY: [1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]}


def library(weights: str, quick: bool, began: float) -> Times:
    """real FLAC files of 0.2 s; until the list is sent to the page"""
    import numpy as np

    from musekit.entry import Entry, flac, measured
    from musekit.lab.library_view import LibraryView
    from musekit.library import Library

    kept, sound, times = Library(), np.zeros((2, 8820), np.int16), []
    for i in range(50 if quick else PIECES):
        entry = measured(Entry(f"{i:06d}", f"{('sad', 'happy')[i % 2]} piece {i}", made=f"{i:06d}"), sound, 44100)
        kept.file(entry).write_bytes(flac(sound, 44100, entry))
        kept._put(entry)
    for _ in range(RUNS):
        clock = [time.perf_counter()]
        view = LibraryView(Library(kept.folder))
        clock.append(time.perf_counter())
        view.query.value = "happy"
        clock.append(time.perf_counter())
        view.look.click() if not hasattr(view, "page") else setattr(view.page, "value", 2)
        clock.append(time.perf_counter())
        times.append([b - a for a, b in zip(clock, clock[1:])])
    return dict(zip(PAGES, zip(*times)))
