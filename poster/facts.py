"""The numbers in the sheet's sentences, read from results, and the claims that these sentences make.

A sentence of `poster.typ` takes every number from here. Where a result no longer says what a sentence claims, `facts`
refuses: rewrite the sentence, not the number.
"""

import re
from types import SimpleNamespace

from musekit.bench import model
from musekit.config import MuseError
from poster.parallel import STEPS
from poster.sheet import read, row, rows

NAMES = (
    "gallery", "regression", "diversity", "one-to-many", "distances", "prompts", "memorisation", "bench",
    "bench-stage1-gpu", "bench-sizes", "bench-sizes-gpu", "reproducibility", "resume", "ddp",
)  # fmt: skip
INPUTS = tuple(f"results/{name}.json" for name in NAMES)


def claim(holds: bool, name: str, sentence: str) -> None:
    """Raises MuseError when a result does not support a sentence of the sheet."""
    if not holds:
        raise MuseError(f"results/{name}.json does not say that {sentence}; change poster/poster.typ and its claim")


def facts() -> dict[str, str]:
    """{name: text} for `poster.typ`. Raises MuseError for a missing result or a claim that does not hold."""
    found = answers() | speed()
    kills, bits = rows(read("results/resume.json")), rows(read("results/reproducibility.json"), measure="bar")
    claim(all(r["same_bits"] and r["same_curve"] for r in kills), "resume", "killed runs end with the same bits")
    claim(
        all(r["met"] for r in bits), "reproducibility", "recipes give the same bits alone, in batches and after a kill"
    )
    ranks = rows(read("results/ddp.json"))
    claim(all(r["mean_difference"] < 0.05 * r["last_loss"] for r in ranks), "ddp", "several ranks train like one")
    return found | {"kills": str(len(kills)), "recipes": str(bits[0]["value"])}


def answers() -> dict[str, str]:
    """Nearness, coverage and obedience."""
    result, shown = read("results/regression.json"), row(read("results/gallery.json"), measure="map")
    near = {
        name: row(result, measure="mean", level="vague", name=f"{name}_to_nearest")
        for name in ("regression", "samples", "real")
    }
    apart = near["regression"]["low"] > near["samples"]["high"]
    claim(apart, "regression", "for vague prompts samples lie nearer to training clips than regression")
    ratio = row(read("results/diversity.json"), measure="mean", level="vague")["ratio"]
    claim(ratio < 1, "diversity", "samples are narrower than right answers")
    found = rows(read("results/one-to-many.json"), measure="calibration", level="vague")
    [inside] = [r for r in found if abs(r["nominal"] - 0.9) < 0.05]
    claim(inside["high"] < inside["nominal"], "one-to-many", "samples miss right answers")
    distances = rows(read("results/distances.json"), source="generated audio")
    covered = {r["name"]: r["value"] for r in distances if r["embedding"].startswith("librosa")}
    copies = next(r for r in rows(read("results/memorisation.json"), measure="bar") if "pieces within" in r["name"])
    prompts = read("results/prompts.json")
    met = [r["name"].split(", ")[1].partition(":")[0] for r in rows(prompts, measure="bar") if r["met"]]
    claim(met == ["instrument"], "prompts", "the bar of the instrument alone is met")
    heard = {(r["name"][:6], r["source"][11:]): r["mean"] for r in rows(read("results/music.json"), measure="music")}
    claim(heard["key, o", "tempo and key in the prompt"] < 0.97, "music", "keys miss their bar")
    return {
        "regression_times": f"{near['regression']['mean'] / near['real']['mean']:.1f}",
        "samples_times": f"{near['samples']['mean'] / near['real']['mean']:.1f}",
        "prompt": shown["prompt"],
        "held_out": f"{len(shown['clips']):,}",
        "nominal": f"{100 * inside['nominal']:.0f}",
        "inside": f"{100 * inside['inside']:.0f}",
        "recall": f"{100 * covered['recall']:.0f}",
        "precision": f"{100 * covered['precision']:.0f}",
        "near": str(copies["value"]),
        "obeyed_n": str(row(prompts, measure="accuracy", attribute="instrument", source="generated")["n"]),
    }


def speed() -> dict[str, str]:
    """The three large numbers' first two, and the speed of the mini preset on CPU cores."""
    result = read("results/bench.json")
    value = {r["what"]: r["value"] for r in rows(result)}
    claim(result["provenance"]["dtype"] == "bfloat16", "bench", "the machine has instructions for bfloat16")
    steps = [row(read("results/bench-stage1-gpu.json"), stage=1, solver="euler", **s) for s in STEPS.values()]
    times = [r["ms_a_sample"] for r in steps]
    batched = row(read("results/bench-stage1-gpu.json"), peer="naive", batch=256)["ms_a_sample"] / times[-1]
    claim(times == sorted(times, reverse=True), "bench-stage1-gpu", "each step makes a sample faster")
    predicted, measured = [], []
    for name in ("bench-sizes", "bench-sizes-gpu"):
        sweep = read(f"results/{name}.json")
        fitted, larger = model.predicting(SimpleNamespace(**sweep, ceilings=sweep["provenance"]["ceilings"]))
        predicted += map(fitted, larger)
        measured += [r["seconds"] for r in larger]
    middle, worst = model.errors(predicted, measured)
    claim(middle < 0.25, "bench-sizes", "the model's median error is below a quarter")
    return {
        "faster": f"{times[0] / times[-1]:,.0f}",
        "batched": f"{batched:.0f}",
        "predictions": str(len(measured)),
        "middle": f"{100 * middle:.0f}",
        "worst": f"{worst:.1f}",
        "real_time": f"{value['4 x 12 s, warm: sound a second of work']:.0f}",
        "units": rows(result)[0]["instructions"].rpartition(" ")[2],
        "cores": str(result["provenance"]["hardware"]["cores"]),
        "gpu": re.search(r"\b[A-Z]+\d+\b", read("results/bench-stage1-gpu.json")["provenance"]["device"])[0],
    }
