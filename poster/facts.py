"""The numbers in the sheet's sentences, read from results, and the claims that these sentences make.

A sentence of `poster.typ` takes every number from here. Where a result no longer says what a sentence claims, `facts`
refuses: the sentence has to be written anew, not the number.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from musekit.config import MuseError
from poster.sheet import row, rows

PARTS = ("codec", "embedder", "stage1", "stage2")
RESULTS = ("gallery", "regression", "diversity", "prompts", "bench", "bench-full-gpu", "memorisation", "resume")
INPUTS = (
    *(f"results/{name}.json" for name in RESULTS),
    *(f"musekit/weights/mini/{part}.train.json" for part in PARTS),
)


def claim(holds: bool, sentence: str, path: str) -> None:
    """Raises MuseError when a result does not support a sentence of the sheet."""
    if not holds:
        raise MuseError(
            f"{path} does not say that {sentence}; change that sentence in poster/poster.typ, and its claim"
        )


def facts(read: Callable[[str], dict], on: tuple[str, ...] = ()) -> dict[str, str]:
    """{name: text} for `poster.typ`; `on` are the figures built. Raises MuseError: a missing result, a false claim."""
    found: dict[str, str] = {}
    for part in (one_to_many, calibration, obedience, speed, full_size, training, kills):
        found |= part(read)
    not_copied(read)
    for figure, check in (("ddp", ranks_agree), ("roofline", tokens_decide)):
        if figure in on:
            check(read)
    return found


def one_to_many(read) -> dict[str, str]:
    """The headline: the average of the right answers lies far from all of them."""
    result, shown = read("results/regression.json"), row(read("results/gallery.json"), measure="map")
    mean = {
        name: row(result, measure="mean", level="vague", name=f"{name}_to_nearest")
        for name in ("regression", "samples", "real")
    }
    apart = mean["regression"]["low"] > mean["samples"]["high"]
    claim(apart, "for vague prompts samples lie nearer to real music than regression", "results/regression.json")
    ratio = mean["regression"]["mean"] / mean["real"]["mean"]
    return {
        "regression_times": f"{ratio:.1f}",
        "samples_times": f"{mean['samples']['mean'] / mean['real']['mean']:.1f}",
        "prompt": shown["prompt"],
        "answers": str(len(shown["samples"])),
        "held_out": f"{len(shown['clips']):,}",
    }


def calibration(read) -> dict[str, str]:
    """Samples differ as much as right answers do."""
    path = "results/diversity.json"
    result = read(path)
    mean = {level: row(result, measure="mean", level=level) for level in ("vague", "specific")}
    near = all(0.8 <= m["ratio"] <= 1.25 for m in mean.values())
    claim(near, "samples are spread about as wide as right answers", path)
    return {"spread_vague": f"{100 * mean['vague']['ratio']:.0f}"}


def obedience(read) -> dict[str, str]:
    """What a judge hears in generated pieces; which attributes are obeyed is told, whatever it is."""
    result, attributes = read("results/prompts.json"), ("instrument", "speed", "mode")
    met = {r["name"].split(":")[0].split(", ")[1]: r["met"] for r in rows(result, measure="bar")}
    heard = row(result, measure="accuracy", attribute=attributes[0], source="generated")
    return {
        "obeyed": listed([a for a in attributes if met[a]]) or "nothing",
        "not_obeyed": listed([a for a in attributes if not met[a]]),
        "obeyed_n": str(heard["n"]),
    }


def listed(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def speed(read) -> dict[str, str]:
    """How fast the mini preset is on a laptop-class processor."""
    result = read("results/bench.json")
    value = {r["what"]: r["value"] for r in rows(result)}
    stage1 = {int(what.split()[-1]): v for what, v in value.items() if what.startswith("Stage 1, micro-batch ")}
    cores, gpus = result["provenance"]["hardware"]["cores"], result["provenance"]["hardware"]["gpus"]
    return {
        "first_sound": f"{value['4 x 12 s, cold process: first sound']:.0f}",
        "real_time": f"{value['4 x 12 s, warm: sound a second of work']:.0f}",
        "stage1_batch": str(max(stage1)),
        "stage1_gain": f"{stage1[min(stage1)] / stage1[max(stage1)]:.0f}",
        "machine": gpus[0] if gpus else f"{cores} CPU cores",
    }


def full_size(read) -> dict[str, str]:
    """The longest pieces of the largest batch at full size, on a GPU."""
    result = read("results/bench-full-gpu.json")
    told = max(rows(result), key=lambda r: (r["seconds_each"], r["batch"]))
    gpu = result["provenance"]["hardware"]["gpus"][0]
    short = re.search(r"\b[A-Z]+\d+\b", gpu)
    return {
        "gpu": short[0] if short else gpu,
        "full_pieces": str(told["batch"]),
        "full_each": f"{told['seconds_each']:g}",
        "full_seconds": f"{told['value']:.0f}",
    }


def training(read) -> dict[str, str]:
    """What training cost, all parts together."""
    told = [read(f"musekit/weights/mini/{part}.train.json") for part in PARTS]
    hours = sum(t["minutes"] for t in told) / 60
    cores = max(t["provenance"]["hardware"]["cores"] for t in told)
    gpus = {name for t in told for name in t["provenance"]["hardware"]["gpus"]}
    return {
        "train_hours": f"{hours:.1f}",
        "train_clips": f"{told[-1]['clips']:,}",
        "train_machine": " and ".join(sorted(gpus)) if gpus else f"{cores} CPU cores",
    }


def kills(read) -> dict[str, str]:
    """How often training was killed; every time it ended with the same bits."""
    path = "results/resume.json"
    told = rows(read(path))
    claim(all(r["same_bits"] and r["same_curve"] for r in told), "a killed run ends with the same bits", path)
    return {"kills": str(len(told))}


def not_copied(read) -> None:
    """Pieces lie nearer to training clips than held-out music, but the 95 % interval of the difference holds zero."""
    path = "results/memorisation.json"
    nearer = [r for r in rows(read(path), measure="difference of 5th percentiles") if r["high"] < 0]
    claim(not nearer, "pieces lie not significantly nearer to training clips than held-out music does", path)


def ranks_agree(read) -> None:
    """The same training on other numbers of ranks follows the same curve."""
    path = "results/ddp.json"
    near = all(r["mean_difference"] < 0.05 * r["last_loss"] for r in rows(read(path)))
    claim(near, "several ranks train like one", path)


def tokens_decide(read) -> None:
    """From the same batch larger models gain more where a piece is one token, and less where it is many."""
    path, gains = "results/bench-sizes-gpu.json", {}
    told = rows(read(path))
    batch = min(max(r["batch"] for r in told if r["stage"] == stage) for stage in (1, 2))
    for stage in (1, 2):
        some = sorted((r for r in told if (r["stage"], r["batch"]) == (stage, batch)), key=lambda r: r["parameters"])
        gains[stage] = [r["speedup"] for r in some]
    apart = all(one > many for one, many in zip(gains[1], gains[2], strict=True))
    holds = apart and gains[1] == sorted(gains[1]) and gains[2] == sorted(gains[2], reverse=True)
    claim(holds, "larger models gain more from a batch of single tokens, and less from one of many", path)
