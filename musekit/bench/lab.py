"""`musekit bench lab`: how fast the Lab answers: a sound that is cached, a new sound, a map."""

from __future__ import annotations

from collections.abc import Iterator

from musekit.bench.measure import RUNS, Row, now, row

PROMPTS = ("a sad piano melody", "a happy flute tune")
POINTS, SECONDS = 400, 6.0


def lab(setup) -> Iterator[Row]:
    """A cached point (to the bytes that a browser plays), a new 6 s sound at draft quality, a 400-point map."""
    from musekit.lab.lab import Lab
    from musekit.show.players import compressed

    muse = setup.muse
    lab, points = Lab(muse, seconds=SECONDS), 16 if setup.quick else POINTS

    def seconds(call) -> float:
        began = now(muse)
        call()
        return now(muse) - began

    def play() -> None:
        take = lab.sound(0)
        compressed(take.audio, take.sample_rate, seconds=None)

    sampled = seconds(lambda: [lab.sample(prompt, points // len(PROMPTS)) for prompt in PROMPTS])
    first = seconds(lab.map)
    layout = f"{points} samples of Stage 1, UMAP, density, labelled peaks; loaded weights"
    yield row(f"a {points}-point map with UMAP, first of a process", [sampled + first], "s", layout, ("<", 20.0))
    yield row(f"a {points}-point map: its samples", [sampled], "s", layout)
    again = [seconds(lambda: lab.map(refit=True)) for _ in range(RUNS)]
    yield row(f"a {points}-point map: laid out again", again, "s", layout)
    how = f"{SECONDS:g} s, {lab.quality} quality, {lab.settings().steps} steps, {muse.config.name} preset"
    lab.sound(0)
    fresh = [seconds(lambda i=i: lab.sound(i)) for i in range(1, RUNS + 1)]
    yield row(f"a new {SECONDS:g} s sound at draft quality", fresh, "s", how, ("<", 3.0))
    play()
    cached = [seconds(play) for _ in range(RUNS)]
    yield row("a cached point plays: sound to bytes for the browser", cached, "s", how, ("<", 0.2))
