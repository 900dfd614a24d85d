"""What `musekit bench lab` times: each part runs in a new Jupyter kernel, on this checkout or an older one.

So nothing of musekit is imported above, and the parts use what older builds have, too.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

Times = dict[str, list[float]]
PROMPTS = ("a sad piano melody", "a happy flute tune", "a slow waltz for strings")
RUNS, PIECES = 5, 2000
CLICK, FINGER = "click on a new place to sound, 6 s", "surface: finger to blended sound, 6 s"
COLD, MEMORY = "new kernel to first sound, 12 s", "peak memory of the kernel after the script"
FIRST, ALL, SHARE = "first card of 4 x 12 s", "all cards of 4 x 12 s", "first card, of the time of all four"
SAMPLES, DRAFT, DECODING = "4 x 12 s, prompt to samples", "a draft of 12 s, prompt to samples", "decoding 4 x 12 s"
PAGES = [f"library of {PIECES:,} pieces: {what}" for what in ("open", "search", "next page")]


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


def sampling(weights: str, quick: bool, began: float) -> Times:
    """nothing else is computed; a build without drafts makes a piece by its defaults"""
    from musekit.muse import Muse, Settings

    muse, times = Muse.from_pretrained(weights), {}
    for what, system, n in ((SAMPLES, muse, 4), (DRAFT, getattr(muse, "draft", muse), 1)):
        settings, clock = Settings(seconds=0.5 if quick else 12.0, micro_batch=n), []
        for i in range(RUNS + 1):
            recipes = system.recipes(PROMPTS[0], n, 10 * i, settings)
            clock.append(time.perf_counter())
            audio, _ = system.render_batch(system.embed_batch(recipes)[0], recipes)
            clock[-1] = time.perf_counter() - clock[-1]
        times[what] = clock[1:]
    latents, clock = muse.codec.encode(audio[0][None]), [time.perf_counter()]
    for _ in range(RUNS + 1):
        for _ in range(4):  # one at a time, as pieces are
            muse.codec.decode(latents)
        clock.append(time.perf_counter())
    return times | {DECODING: [b - a for a, b in zip(clock[1:], clock[2:])]}


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
