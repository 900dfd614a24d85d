"""Write the tables and measured sentences of the pages from the result files; `--check` only compares.

A block `<!-- table:NAME -->` ... `<!-- end -->` is filled by the function of that name below. A sentence that the
results no longer support raises ValueError: rewrite the sentence, not the number.
"""

import argparse
import functools
import json
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "musekit" / "weights" / "mini"
PAGES = [ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "slurm" / "README.md", WEIGHTS / "MODEL_CARD.md"]
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


# -- reading and writing ----------------------------------------------------------------------------------------------


def read(name: str) -> dict:
    """results/<name>.json."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def rows(name: str, /, **where) -> list[dict]:
    """The rows of a result whose fields are as given."""
    return [row for row in read(name)["rows"] if where.items() <= row.items()]


def one(name: str, /, **where) -> dict:
    """The first of them."""
    return rows(name, **where)[0]


@functools.cache
def states() -> list[dict]:
    """A row per result: is it of today's code and weights?"""
    from musekit.pretrained import read_hashes
    from musekit.results import summary

    return summary(ROOT / "results", read_hashes(WEIGHTS))


def claim(holds: bool, sentence: str) -> None:
    """Raises ValueError for a sentence that the results no longer support."""
    if not holds:
        raise ValueError(f"the results do not say that {sentence}; rewrite that sentence in scripts/tables.py")


def grid(table: list[dict]) -> str:
    """A Markdown table; the keys of the first row are its columns."""
    columns = list(table[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(show(row.get(c)) for c in columns) + " |" for row in table]) + "\n\n"


def show(value) -> str:
    """A value for a table: three digits, yes or no, nothing for None."""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value).replace("|", "/")


def prose(text: str) -> str:
    """Paragraphs and list items (one line break inside does not count), wrapped to the width of the pages."""
    parts = re.split(r"\n\s*\n|\n(?=- )", text.strip())
    lines = [textwrap.fill(" ".join(p.split()), 118, subsequent_indent="  " * p.startswith("- ")) for p in parts]
    return ("\n" if lines[0].startswith("- ") else "\n\n").join(lines) + "\n\n"


def interval(row: dict, value: str = "value", low: str = "low", high: str = "high") -> str:
    """A value and its 95 % interval; a dash where there is none."""
    return "–" if row.get(value) is None else f"{row[value]:.2f} ({row[low]:.2f} to {row[high]:.2f})"


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


# -- README -----------------------------------------------------------------------------------------------------------


def samples() -> str:
    """The pieces to listen to."""
    return grid(
        [
            {
                "prompt": r["prompt"],
                "seed": r["seed"],
                "listen": f"[{r['file']}](samples/{r['file']}) ({r['bytes'] / 1000:.0f} kB)",
                "similarity": r["similarity"],
            }
            for r in rows("samples", measure="sample")
        ]
    )


def coverage(result: str = "one-to-many") -> dict[str, dict]:
    """{level: the calibration row at the radius that holds about 90 % of the samples}."""
    return {r["level"]: r for r in rows(result, measure="calibration") if abs(r["nominal"] - 0.9) < 0.05}


def distance(embedding: str, source: str, name: str) -> dict:
    """The row of `musekit eval distances` whose embedding and source begin so."""
    found = (r for r in rows("distances", name=name) if r["embedding"].startswith(embedding))
    return next(r for r in found if r["source"].startswith(source))


def findings() -> str:
    """The README's four findings, each with its limit; of today's weights where those were measured."""
    from musekit.bench import model
    from musekit.bench.measure import Recorded

    bits, kills = rows("reproducibility", measure="bar"), rows("resume")
    kept = all(r["met"] for r in bits) and all(r["same_bits"] for r in kills)
    claim(kept, "recipes and killed trainings keep their bits")
    recipes, trainings, predicted, seconds = bits[0]["value"], len({r["run"] for r in kills}), [], []
    for gpu in (False, True):
        fitted, larger = model.predicting(Recorded("sizes", ROOT / "results", gpu))
        predicted += map(fitted, larger)
        seconds += [r["seconds"] for r in larger]
    middle, worst = model.errors(predicted, seconds)
    claim(middle < 0.25 and worst > 2, "the model predicts most times and misses a few by more than twice")
    naive = one("bench-stage1-gpu", peer="naive", batch=1)["ms_a_sample"]
    ours = one("bench-stage1-gpu", peer="prepared", batch=256, dtype="bfloat16")["ms_a_sample"]
    batched = one("bench-stage1-gpu", peer="naive", batch=256)["ms_a_sample"] / ours
    heard = rows("prompts", measure="accuracy", source="generated")
    bars = rows("prompts", measure="bar")
    met = [r["name"].split(", ")[1].partition(":")[0] for r in bars if r["met"]]
    claim(0 < len(met) < len(bars), "some bars of prompts are met and some are not")
    asked = listed([f"{r['attribute']} in {100 * r['accuracy']:.0f} %" for r in heard[:3]])
    [group] = (r for r in heard if r["attribute"] == "ensemble")
    told = {r["name"]: r for r in rows("music", measure="music") if r["source"].endswith("in the prompt")}
    tempo = told["tempo within 4 %"]
    chords, tunes = (
        [r["mean"] for r in rows("music", name=name) if "in controls" in r["source"]]
        for name in ("chords: root and third", "melody: F1 within a semitone")
    )
    claim(min(chords) > 0.8 and min(tunes) < 0.7, "chords meet their bar and tunes miss it")
    apart = {level: one("diversity", measure="mean", level=level) for level in ("vague", "specific")}
    claim(
        apart["vague"]["spread"] > 1.5 * apart["specific"]["spread"],
        "samples of vague prompts differ more than of specific ones",
    )
    near = coverage("one-to-many")["vague"]
    claim(near["high"] < near["nominal"], "samples miss right answers")
    return prose(f"""
- **A piece has the same bits in any batch, on two ranks and after a kill.** {recipes} of 20 recipes (a prompt with its
  seed and settings) gave the same sound alone, in batches of 4 and 16, beside other prompts, in another process, on two
  ranks and after a kill. {trainings} trainings, killed {len(kills)} times in all at random moments, ended with the bits
  of undisturbed ones. *But* this holds for one machine, one version of the software and one CPU thread per rank; the
  trainings are of a tiny preset, and another number of ranks trains the same to rounding only.
- **Times of large networks can be predicted from small ones.** Three terms (latency, roofline, activations), two
  constants fitted on networks of 50M weights: {len(seconds)} times of larger ones, up to 1.05B, on two CPU cores and an
  H100, have a median error of {100 * middle:.0f} %. From the original's design one by one to ours by 256 at once, a
  sample of Stage 1 falls from {naive:,.0f} to {ours:.2f} ms there ({batched:.0f} times in equal batches). *But* the
  worst error is {worst:.1f} times, weights are random, and an earlier commit was timed ([notebook
  4](notebooks/04_parallel_benchmarks.ipynb)).
- **Prompts are obeyed often, not always.** In {heard[0]["n"]} pieces a judge that never saw the embedder hears the
  asked {asked}; in {group["n"]} others the named one of {group["of"]} groups in {100 * group["accuracy"]:.0f} %. A
  transcriber hears the named tempo in {100 * tempo["mean"]:.0f} % of {tempo["n"]}, and {100 * chords[0]:.0f} % of asked
  chords. *But* only {listed(met)} meets its bar, 0.9 of what is heard right in real clips after the codec, and tunes
  miss theirs ([docs/results.md](docs/results.md#music)).
- **A vague prompt gets more varied answers than a specific one.** In the joint embedding two answers lie
  {apart["vague"]["spread"]:.2f} and {apart["specific"]["spread"]:.2f} apart on average. *But* real clips that match lie
  {apart["vague"]["real"]:.2f} and {apart["specific"]["real"]:.2f} apart, and the ball that holds
  {100 * near["nominal"]:.0f} % of the answers to a vague prompt holds {100 * near["inside"]:.0f} % of the real clips:
  MUSE draws too few of them.
""")


def guidance() -> str:
    """Where the defaults of sampling come from: obedience against coverage, on valid."""
    told = {"stage1": ("said", "inside", "kernel_distance"), "stage2": ("heard", "recall", "librosa_kernel_distance")}
    text = ""
    for stage, (judged, covered, far) in told.items():
        table = [
            {"setting": r["measure"].removeprefix(f"{stage} "), "value": r.get("value"), "obeyed": r["obedience"]}
            | {a: r[f"{judged}_{a}"] for a in ("instrument", "mode", "speed")}
            | {"coverage": r.get("coverage"), covered: r.get(covered), far.replace("_", " "): r.get(far)}
            | ({"pulse": r["pulse"]} if "pulse" in r else {})
            for r in rows("guidance")
            if r["measure"].startswith(stage)
        ]
        text += f"Stage {stage[-1]}:\n\n" + grid(table)
    sample = json.loads((WEIGHTS / "config.json").read_text())["sample"]
    less, chosen, more = (
        one("guidance", measure="stage1 guidance", value=w) for w in (0.5, sample["stage1_guidance_scale"], 2.0)
    )
    claim(less["obedience"] < chosen["obedience"] < more["obedience"], "guidance of Stage 1 buys obedience")
    claim(less["inside"] > chosen["inside"] > more["inside"], "guidance of Stage 1 costs variety")
    return text + prose(f"""
The defaults: Stage 1's guidance {sample["stage1_guidance_scale"]:g}, where 1 is none, and 2 with a negative prompt,
which acts by guidance; Stage 2's {sample["guidance_scale"]:g}, {sample["stage2_steps"]} equal steps.
*Inside* is the share of right answers within the radius of 91 % of the samples. Stage 1 at 2 instead of
{chosen["value"]:g} would be obeyed in {100 * more["obedience"]:.1f} instead of {100 * chosen["obedience"]:.1f} % and
hold {100 * more["inside"]:.0f} instead of {100 * chosen["inside"]:.0f} % of the right answers. *But* few of Stage 2's
settings differ by more than {rows("guidance")[-1]["n"]} pieces can tell (standard
error of *obeyed*: 0.03).
""")


def results() -> str:
    """Every bar, and how many results are of today."""
    fresh = sum(row["state"] == "fresh" for row in states())
    return summary() + prose(f"""
{fresh} of {len(states())} recorded results are of today's code and weights and were made on a clean tree; `musekit eval
summary` lists the others, whose numbers are those of an earlier version.
""")


# -- docs/results.md --------------------------------------------------------------------------------------------------


def summary() -> str:
    """Every bar of the evaluation that was measured, and whether it is met."""
    names = "codec embedder prompts one-to-many diversity regression memorisation music reproducibility".split()
    there = [name for name in names if (ROOT / "results" / f"{name}.json").exists()]
    return grid(
        [
            {"result": n, "what": r["name"], "value": interval(r) if "low" in r else r["value"]}
            | {"bar": r["bar"], "met": r["met"]}
            for n in there
            for r in rows(n, measure="bar")
        ]
    )


def state() -> str:
    """The results that are not of today's code and weights, and what is wrong with them."""
    return grid([row for row in states() if row["state"] != "fresh"] or [{"result": "none", "state": "all are fresh"}])


def distances() -> str:
    """How far generated music lies from held-out clips, in two embeddings."""
    measured: dict[tuple, dict] = {}
    for r in rows("distances"):
        measured.setdefault((r["embedding"], r["source"], r["n"]), {})[r["name"]] = r
    names = {"kernel distance": "kernel distance (KAD)", "precision": "precision", "recall": "recall"}
    table = [
        {"embedding": embedding, "compared": source, "clips": n}
        | {short: interval(found.get(name, {})) for short, name in names.items()}
        for (embedding, source, n), found in measured.items()
    ]
    far, codec = (distance("librosa", source, names["kernel distance"]) for source in ("generated", "codec"))
    claim(0 < far["low"], "features that were not learned tell generated music from real clips")
    return grid(table) + prose(f"""
Against {far["reference"]}, of {far["seconds"]:g} s; 95 % intervals. Precision is the share of the compared clips that
lie among the reference, recall the reverse. An interval that contains 0 does not show that two sets are alike: near 0
these intervals are too wide. Features of timbre and onsets, which nobody trained, tell generated music from real clips,
and the codec's round trips as well: {interval(codec)} from other real clips.
""")


def one_to_many() -> str:
    """Where samples lie among right answers."""
    inside = coverage()
    claim(all(row["high"] < row["nominal"] for row in inside.values()), "samples miss right answers")
    mean = {(r["level"], r["name"]): r["mean"] for r in rows("regression", measure="mean")}
    vague, right, middle, far_right = (
        [f"{mean[level, f'{name}_to_{to}']:.2f}" for name in ("regression", "samples", "real")]
        for level, to in (("vague", "nearest"), ("vague", "right"), ("specific", "nearest"), ("specific", "right"))
    )
    claim(float(vague[0]) > 1.2 * float(vague[1]), "regression lies far from music")
    far = {r["source"]: r for r in rows("regression", measure="answers")}
    longer, flow = (json.loads((WEIGHTS / f"{part}.train.json").read_text()) for part in ("regression", "stage1"))
    longer = longer["longer"]
    claim(longer["samples"] >= flow["samples"], "regression was tried with as many samples as Stage 1")
    losses = [loss for _, loss in longer["valid_loss"]]
    claim(losses == sorted(losses), "more training makes regression worse")
    share = {level: f"{100 * row['inside']:.0f} %" for level, row in inside.items()}
    measures = [r for name in ("distance", "coverage", "recall", "spread") for r in rows("one-to-many", measure=name)]
    table = [
        {"of each prompt": r["measure"], "prompts": r["level"], "value": interval(r), "p": r.get("p")} for r in measures
    ]
    return (grid(table) if table else "") + prose(f"""
The radius around the samples' centre that holds {100 * inside["vague"]["nominal"]:.0f} % of the samples holds
{share["vague"]} of the right answers to a vague prompt and {share["specific"]} of those to a specific one: samples miss
right answers.

**Regression** gives one answer for all seeds. For a vague prompt it lies {vague[0]} from the nearest training clip,
samples {vague[1]}, held-out clips that match {vague[2]}; 240 of its answers are at a kernel distance of
{interval(far["regression"])} from held-out clips, samples at {interval(far["samples"])}. *But* to the nearest right
answer the three have {listed(right)}, and for specific prompts both gaps are small ({listed(middle)};
{listed(far_right)}). Regression was tried with as many samples as Stage 1 ({flow["samples"]:,}): its held-out loss
rises from {losses[0]:.2f} to {losses[-1]:.2f}, so an earlier end was taken (regression.train.json).
""")


def codec() -> str:
    """What is left of sounds after the codec, Opus and MP3, in each world."""
    keys = "codec world n chroma log_mel onsets onsets_before width note_f1".split()
    titles = ("codec", "sounds", "n", "chroma", "log mel, dB", "onsets", "of originals", "width, dB", "notes, F1")
    far = rows("codec", measure="distance", name="kernel distance (KAD)")
    return grid([dict(zip(titles, map(r.get, keys))) for r in rows("codec", measure="fidelity")]) + prose(f"""
*Chroma* is a correlation with the original's, *onsets* librosa's strength of attacks, *width* the change of side
against mid, *notes* Basic Pitch's beside those it hears in the original. By librosa's features, round trips of held-out
clips lie at a kernel distance of {listed([f"{r['value']:.1f} ({r['source']})" for r in far])}. Decoding 47.55 s takes
{one("codec", measure="decoding")["mib_of_47_s"]:.0f} MiB.
""")


def controls() -> str:
    """The planted faults and the honest systems, and whether the bars tell them apart."""
    planted = rows("controls", measure="control")
    seen = rows("controls", measure="power")[0]
    keys = ("group", "control", "must", "as_expected")
    table = [{k: r[k] for k in keys} | {"bars missed": f"{len(r['missed'])} of {r['bars']}"} for r in planted]
    for r, line in zip(planted, table, strict=True):
        line["halves passed"] = f"{r['passed']} of {r['halves']}" if "halves" in r else None
    return grid(table) + prose(f"""
{sum(r["as_expected"] for r in planted)} of {len(planted)} are as expected. Copies of training clips with a little noise
are seen with probability 0.9 from a share of {100 * seen["value"]:.2g} % of {seen["pieces"]} pieces on.
""")


def per_sample(ms: dict[int, float], batches) -> str:
    """Milliseconds per sample at each batch, and the gain of the largest batch."""
    if not ms:
        return ""
    text = " / ".join((f"{ms[b]:,.0f}" if ms[b] >= 100 else f"{ms[b]:.3g}") if b in ms else "–" for b in batches)
    return f"{text} ({ms[1] / ms[max(ms)]:.1f} x at {max(ms)})"


def full_size(files: tuple[str, ...], stage: int, batches) -> dict[int, float]:
    """{batch: ms per sample} in the fastest precision; a Stage 2 sample is 100 steps."""
    found: dict[int, float] = {}
    for r in (r for name in files for r in rows(name, peer="prepared", solver="euler", stage=stage)):
        if r["batch"] in batches:
            ms = r["ms_a_sample"] * (100 if stage == 2 else 1)
            found[r["batch"]] = min(ms, found.get(r["batch"], ms))
    return found


def original() -> str:
    """Our results beside those of the system that MUSE rebuilds, as its report gives them."""
    from musekit.bench.measure import ORIGINAL
    from musekit.bench.train import BAR

    theirs, ours, gpu, cpu = "original, A800", "mini, 2 CPU cores", "full size, H100", "full size, CPU"
    value = {r["what"]: r["value"] for r in rows("bench")}
    spread = {r["level"]: r["spread"] for r in rows("diversity", measure="mean")}
    size = {(r["preset"], r["part"]): f"{r['parameters'] / 1e6:,.0f}M" for r in rows("gallery", measure="size")}
    size = {preset: f"{size[preset, 'stage1']} + {size[preset, 'stage2']}" for preset in ("mini", "paper")}
    minutes = {p: json.loads((WEIGHTS / f"{p}.train.json").read_text())["minutes"] for p in ("stage1", "stage2")}
    spent = f"Stage 1: {minutes['stage1']:.0f} min; Stage 2: {minutes['stage2']:.0f} min"
    said = "Stage 1: 2 GPUs, ~8.2 h; Stage 2: 4 GPUs, ~32 h"
    large = {gpu: size["paper"], cpu: size["paper"]}
    table = [
        {"": "parameters of Stage 1 + Stage 2", theirs: "271M + 1.05B", ours: size["mini"]} | large,
        {"": "training", theirs: said, ours: spent},
        {"": "spread of a vague prompt's samples", theirs: 1.037, ours: spread["vague"]},
        {"": "spread of a specific prompt's samples", theirs: 0.963, ours: spread["specific"]},
    ]
    small = {
        1: {b: value[f"Stage 1, micro-batch {b}"] for b in (1, 4, 16)},
        2: {b: 1000 * value[f"{b} x 12 s, warm: embedding to latents"] / b for b in (1, 4)},
    }
    for stage in (1, 2):
        batches = ORIGINAL[f"Stage {stage}, ms a sample"]
        row = {"": f"Stage {stage}, ms per sample at batch " + " / ".join(map(str, batches))}
        row |= {theirs: per_sample(batches, batches), ours: per_sample(small[stage], batches)}
        row |= {gpu: per_sample(full_size((f"bench-stage{stage}-gpu",), stage, batches), batches)}
        table.append(row | {cpu: per_sample(full_size((f"bench-stage{stage}",), stage, batches), batches)})
    ends = ORIGINAL["16 samples end to end, s"]
    walls = [value.get(f"16 x 12 s, micro-batch {size}: wall time") for size in (1, 16)]
    pieces = " / ".join("–" if seconds is None else f"{seconds:.0f}" for seconds in walls)
    whole = [f"{r['value']:.3g} (of {r['seconds_each']:g} s)" for r in rows("bench-full-gpu", batch=16)]
    row = {"": "16 pieces from text to sound, s: one by one / batched", theirs: f"{ends[1]} / {ends[16]}"}
    table.append(row | {ours: pieces, gpu: "– / " + ", ".join(whole)})
    barred = [r for f in ("bench-stage1-gpu", "bench-stage2-gpu", "bench-full-gpu") for r in rows(f) if r.get("bar")]
    missed = [
        r.get("what") or f"Stage {r['stage']}, batch {r['batch']}: {r['ms_a_sample']:.2f} ms"
        for r in barred
        if not r["met"]
    ]
    best = max(rows("bench-train-gpu", stage=2), key=lambda r: r["mfu"])
    machine = read("bench-full-gpu")["provenance"]["hardware"]["gpus"][0]
    return grid(table) + prose(f"""
The GPU is an {machine}; full-size weights are random. Bars missed there, of {len(barred)}:
{"; ".join(missed) or "none"}. A training step of Stage 2 reaches {100 * best["mfu"]:.0f} % of the measured dense
rate; the bar was {100 * BAR:.0f} %.
""")


def corpus() -> str:
    """The size of the corpus and of its splits."""
    splits = ("train", "valid", "test", "all")
    return grid([{"": r["what"], **{k: r[k] for k in splits}} for r in rows("corpus", measure="size")])


def music() -> str:
    """What a transcriber hears of beat, tempo, key, chords and tune, by source of the sounds."""
    bars = {"pulse": 0.4, "same tempo in both halves": 0.65, "tempo within 4 %": 0.85, "key, of 24": 0.97,
            "chords: root and third": 0.8, "melody: F1 within a semitone": 0.7, "figures of the tune that return": 0.03,
            "pulse of as many onsets at random": None, "chords: of the line in another order": None}  # fmt: skip
    found = {(r["source"], r["name"]): r["mean"] for r in rows("music", measure="music")}
    sources = [x for x in dict.fromkeys(source for source, _ in found) if "47" not in x]
    return grid([
        {"": name, **{x.removeprefix("generated, "): found.get((x, name)) for x in sources}, "bar": bar}
        for name, bar in bars.items()
    ])  # fmt: skip


def peers() -> str:
    """Every peer of the benches of one stage, as they were recorded."""
    table = []
    for r in (r for n in ("stage1", "stage1-gpu", "stage2", "stage2-gpu") for r in rows(f"bench-{n}", solver="euler")):
        above = (r["peak_bytes"] - r["before_bytes"]) / 2**30 if r["backend"] == "cuda" and r["peak_bytes"] else None
        what = {"stage": r["stage"], "on": r["backend"], "peer": r["peer"], "batch": r["batch"], "dtype": r["dtype"]}
        what |= {"evaluations": r["nfe"], "ms per sample": r["ms_a_sample"], "speedup": r["speedup"]}
        what |= {"of the roofline": r["floor_share"], "GiB above the weights": above, "bar": r["bar"], "met": r["met"]}
        table.append(what)
    return grid(table)


def bench() -> str:
    """The speed of generation, and the bars it had to reach."""
    about = read("bench")["provenance"]
    columns = ("what", "value", "unit", "bar", "met")
    machine = f"{about['hardware']['cpu']}, {about['threads']} threads, {about['dtype']}, {about['time'][:10]}"
    old = ("Stage 2, one evaluation", "matrix rate", "4 x 12 s, cold")  # rows that are no longer measured
    measured = [r for r in rows("bench") if not r["what"].startswith(old)]
    return grid([{k: r[k] for k in columns} for r in measured]) + f"Measured on {machine}.\n\n"


# -- slurm/README.md and the model card -------------------------------------------------------------------------------


def room() -> str:
    """What full-size caches of the published data sets need."""
    columns = {"data": "data set", "kind": "what", "rows": "rows", "gigabytes": "GB", "files": "files"}
    found = rows("cache-estimate-paper", measure="estimate")
    return grid([{title: r[k] if k != "gigabytes" else f"{r[k]:,.1f}" for k, title in columns.items()} for r in found])


def ranks() -> str:
    """How far the loss curves of several ranks differ from that of one."""
    preset, (one_rank, *others) = read("ddp")["provenance"]["preset"], rows("ddp")
    mean, largest = (max(r[f"{name}_difference"] for r in others) for name in ("mean", "largest"))
    ends = [r["last_loss"] for r in (one_rank, *others)]
    claim(max(ends) - min(ends) < 0.02 * one_rank["last_loss"], "several ranks follow the curve of one")
    worlds = listed([r["case"].replace(" x ", " accumulating over ") for r in others])
    return prose(f"""
- **Several ranks follow the loss curve of one.** Stage 2 of the tiny {preset} preset, {one_rank["steps"]} steps of
  AdamW in bf16 on {worlds}: the loss per step differs by {mean:.1g} on average and {largest:.1g} at most. All end
  near {max(ends):.3f}.
""")


def kills() -> str:
    """What kills changed in training runs."""
    found = rows("resume")
    claim(all(r["same_bits"] and r["same_curve"] for r in found), "killed runs end with the same bits")
    worlds = listed([str(n) for n in sorted({r["world"] for r in found})])
    writes = sum(r["during_a_checkpoint_write"] for r in found)
    runs = len({r["run"] for r in found})
    return prose(f"""
- **A kill costs time, not bits.** {runs} runs on {worlds} ranks were killed (SIGKILL) {len(found)} times at random
  moments, {writes} of these while a checkpoint was being written, and restarted with the same command. Weights,
  moving average, optimizer and loss curve ended bit for bit as those of an undisturbed run.
""")


def training() -> str:
    """How each part of the mini weights was trained."""
    table = []
    for path in sorted(WEIGHTS.glob("*.train.json")):
        t = json.loads(path.read_text())
        row = {
            "part": t["part"],
            "runs": 1 + len(t.get("before", [])),
            "samples": t["samples"],
            "minutes": t["minutes"],
        }
        row |= {"clips": t["clips"], "training loss": t["last"]["loss"], "held-out loss": t["last"].get("valid_loss")}
        row |= {"command": f"`{t['provenance']['command']}`", "hardware": t["provenance"]["hardware"]["cpu"]}
        table.append(row)
    return grid(table)


def files() -> str:
    """The weight files."""
    return grid([{"file": p.name, "MB": p.stat().st_size / 1e6} for p in sorted(WEIGHTS.glob("*.safetensors"))])


def main() -> int:
    """Fill the blocks of every page; with --check, only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is out of date")
    check, stale = parser.parse_args().check, []
    for page in PAGES:
        text = page.read_text()
        new = BLOCK.sub(lambda m: m[1] + globals()[m[2]]().rstrip() + "\n" + m[3], text)
        if new != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new)
    if stale:
        print(("out of date, run `make tables`: " if check else "written: ") + ", ".join(stale))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
