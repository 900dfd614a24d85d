"""The numbers in the sheet's sentences, read from results, and the claims that these sentences make.

A sentence of `poster.typ` takes every number from here. Where a result no longer says what a sentence claims, `facts`
refuses: rewrite the sentence, not the number.
"""

from __future__ import annotations

import re

from musekit.config import MuseError
from poster.sheet import ROOT, read, row, rows

NAMES = (
    "gallery", "regression", "diversity", "one-to-many", "distances", "prompts", "bench", "bench-full-gpu",
    "bench-sizes-gpu", "memorisation", "resume", "ddp",
)  # fmt: skip
INPUTS = tuple(f"results/{name}.json" for name in NAMES)


def claim(holds: bool, name: str, sentence: str) -> None:
    """Raises MuseError when a result does not support a sentence of the sheet."""
    if not holds:
        raise MuseError(f"results/{name}.json does not say that {sentence}; change poster/poster.typ and its claim")


def facts() -> dict[str, str]:
    """{name: text} for `poster.typ`. Raises MuseError for a missing result or a claim that does not hold."""
    found = answers() | speed()
    kills = rows(read("results/resume.json"))
    claim(all(r["same_bits"] and r["same_curve"] for r in kills), "resume", "killed runs end with the same bits")
    ranks = rows(read("results/ddp.json"))
    claim(all(r["mean_difference"] < 0.05 * r["last_loss"] for r in ranks), "ddp", "several ranks train like one")
    return found | {"kills": str(len(kills))}


def answers() -> dict[str, str]:
    """The headline, coverage, obedience and copies."""
    result, shown = read("results/regression.json"), row(read("results/gallery.json"), measure="map")
    near = {
        name: row(result, measure="mean", level="vague", name=f"{name}_to_nearest")
        for name in ("regression", "samples", "real")
    }
    apart = near["regression"]["low"] > near["samples"]["high"]
    claim(apart, "regression", "for vague prompts samples lie nearer to training clips than regression")
    ratio = row(read("results/diversity.json"), measure="mean", level="vague")["ratio"]
    found = rows(read("results/one-to-many.json"), measure="calibration")
    inside = {r["level"]: r for r in found if abs(r["nominal"] - 0.9) < 0.05}
    misses = all(inside[level]["high"] < inside[level]["nominal"] for level in ("vague", "specific"))
    claim(misses, "one-to-many", "samples miss right answers")
    distances = rows(read("results/distances.json"), name="recall", source="generated audio")
    recall = next(r["value"] for r in distances if r["embedding"].startswith("librosa"))
    prompts = read("results/prompts.json")
    met = [r["name"].split(":")[0].split(", ")[1] for r in rows(prompts, measure="bar") if r["met"]]
    claim(len(met) == 3, "prompts", "instrument, speed and mode reach their bars")
    study = read("results/memorisation.json")
    median = {
        source: row(study, measure="nearest training clip", source=source)["p50"]
        for source in ("generated", "held-out originals")
    }
    claim(median["generated"] < median["held-out originals"], "memorisation", "pieces lie nearer to training clips")
    return {
        "regression_times": f"{near['regression']['mean'] / near['real']['mean']:.1f}",
        "samples_times": f"{near['samples']['mean'] / near['real']['mean']:.1f}",
        "prompt": shown["prompt"],
        "answers": str(len(shown["samples"])),
        "held_out": f"{len(shown['clips']):,}",
        "spread_vague": f"{100 * ratio:.0f}",
        "nominal": f"{100 * inside['vague']['nominal']:.0f}",
        "inside_vague": f"{100 * inside['vague']['inside']:.0f}",
        "inside_specific": f"{100 * inside['specific']['inside']:.0f}",
        "recall": f"{100 * recall:.0f}",
        "obeyed_n": str(row(prompts, measure="accuracy", attribute="instrument", source="generated")["n"]),
        "median_generated": f"{median['generated']:.2f}",
        "median_real": f"{median['held-out originals']:.2f}",
    }


def speed() -> dict[str, str]:
    """Speed of the mini preset on CPU cores and of full size on a GPU."""
    result, large = read("results/bench.json"), read("results/bench-full-gpu.json")
    value = {r["what"]: r["value"] for r in rows(result)}
    stage1 = {int(what.split()[-1]): ms for what, ms in value.items() if what.startswith("Stage 1, micro-batch ")}
    claim(result["provenance"]["dtype"] == "bfloat16", "bench", "the machine has bfloat16 matrix instructions")
    notebook = (ROOT / "notebooks" / "03_stage2.ipynb").read_text()
    plain = re.search(r"([\d.]+) times real time", notebook)
    whole = max(rows(large), key=lambda r: (r["seconds_each"], r["batch"]))
    gains: dict[int, list[float]] = {}
    sizes = sorted(rows(read("results/bench-sizes-gpu.json")), key=lambda r: r["parameters"])
    batch = min(max(r["batch"] for r in sizes if r["stage"] == stage) for stage in (1, 2))
    for stage in (1, 2):
        gains[stage] = [r["speedup"] for r in sizes if (r["stage"], r["batch"]) == (stage, batch)]
    holds = gains[1] == sorted(gains[1]) and gains[2] == sorted(gains[2], reverse=True)
    claim(holds, "bench-sizes-gpu", "larger models gain more from a batch of single tokens, and less from many tokens")
    return {
        "real_time": f"{value['4 x 12 s, warm: sound a second of work']:.0f}",
        "real_time_plain": plain[1] if plain else "?",
        "stage1_batch": str(max(stage1)),
        "stage1_gain": f"{stage1[min(stage1)] / stage1[max(stage1)]:.0f}",
        "cores": str(result["provenance"]["hardware"]["cores"]),
        "gpu": re.search(r"\b[A-Z]+\d+\b", large["provenance"]["hardware"]["gpus"][0])[0],
        "full_pieces": str(whole["batch"]),
        "full_each": f"{whole['seconds_each']:g}",
        "full_seconds": f"{whole['value']:.0f}",
    }
