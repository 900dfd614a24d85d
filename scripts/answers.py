"""How right answers lie among samples, and how regression's answer sounds: results/one-to-many.json in sentences."""

from __future__ import annotations

from findings import claim

WIDEST = 0.9  # the share whose radius is told, or what so many samples can tell of it
TEXT = """
Where samples lie among right answers: the distance from the samples' centre that holds {nominal:.0f} % of the samples
holds {vague:.0f} % of the right answers to a vague prompt and {specific:.0f} % of those to a specific one (for "music",
which asks for nothing, {anything:.0f} % of all held-out clips). So the more a sentence says, the more right answers lie
outside of what is drawn: samples are narrower than they, or beside them, which an average such as spread hardly shows.

Regression's answer as sound, by the same Stage 2 from the same noise ({prompts} vague prompts, {pieces} pieces
each): it lies {to_nearest} farther from the nearest training clip than samples do. Its difference to
them in spectral contrast, {spectral_contrast_db} dB, and in similarity to the prompt, {similarity}, is not
significant: a bad answer is no blur, but a sound that is farther from music.
"""


def text(rows: list[dict]) -> str:
    """Both paragraphs. Raises ValueError where a result no longer says so."""
    inside = {r["level"]: r for r in rows if r["measure"] == "calibration" and abs(r["nominal"] - WIDEST) < 0.05}
    sound = {r["name"]: r for r in rows if r["measure"] == "sound difference"}
    few = all(inside[level]["high"] < inside[level]["nominal"] for level in ("vague", "specific"))
    claim(few and inside["specific"]["inside"] < inside["vague"]["inside"], "right answers lie outside of the samples")
    claim(sound["to_nearest"]["low"] > 0, "regression's sounds lie farther from music than samples")
    unsure = all(sound[name]["low"] <= 0 <= sound[name]["high"] for name in ("spectral_contrast_db", "similarity"))
    claim(unsure, "contrast and similarity do not differ significantly")
    shares = {level: 100 * inside[level]["inside"] for level in ("anything", "vague", "specific")}
    told = {name: f"{r['difference']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for name, r in sound.items()}
    about = {key: sound["similarity"][key] for key in ("prompts", "pieces")}
    names = ("to_nearest", "spectral_contrast_db", "similarity")
    gaps = {name: told[name] for name in names}
    return TEXT.format(nominal=100 * inside["vague"]["nominal"], **shares, **gaps, **about)
