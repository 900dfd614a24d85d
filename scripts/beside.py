"""What other systems state about themselves, cited, and the tables that set our results beside it."""

from __future__ import annotations

import json
from pathlib import Path

ORIGINAL = {  # the system that MUSE rebuilds, on A800 GPUs, as its report gives it; speeds: `musekit.bench.recorded`
    "parameters": "271M + 1.05B",
    "training": "Stage 1: 2 GPUs, ~8.2 h; Stage 2: 4 GPUs, ~32 h",
    "vague": 1.037,
    "specific": 0.963,
    "again": "equal to < 1e-7",
}
SYSTEMS = (
    {
        "system": "[Stable Audio Open](https://arxiv.org/abs/2407.14358)",
        "parameters": "1,057M transformer, 156M codec, 109M text",
        "sound": "44.1 kHz stereo, up to 47 s",
        "learned from": "486,492 recordings (7,300 h), Creative Commons",
        "weights": "public, Stability AI Community Licence",
    },
    {
        "system": "[MusicGen](https://arxiv.org/abs/2306.05284)",
        "parameters": "300M, 1.5B, 3.3B",
        "sound": "32 kHz; 50 autoregressive steps a second",
        "learned from": "20,000 h, licensed",
        "weights": "public, CC-BY-NC 4.0",
    },
    {
        "system": "[Stable Audio 3](https://arxiv.org/abs/2605.17991)",
        "parameters": "small, medium, large",
        "sound": "minutes, in under 2 s on an H200; meets an asked-for tempo 61 %, a key 64 % of the time",
        "learned from": "licensed and Creative Commons",
        "weights": "small and medium public",
    },
)
BENCHES = {
    "full size, GPU": ("bench-stage1-gpu", "bench-stage2-gpu", "bench-full-gpu"),
    "full size, CPU": ("bench-batch",),
}


def speeds(rows: list[dict], stage: int, batches) -> dict[int, float]:
    """{batch: ms a sample} of full-size rows, in their fastest precision; a Stage 2 sample is 100 steps."""
    found = {}
    for row in rows:
        ours = row.get("peer") == "prepared" and row["solver"] == "euler"
        if ours and row["stage"] == stage and row["batch"] in batches:
            ms = row["ms_a_sample"] * (100 if stage == 2 else 1)
            found[row["batch"]] = min(ms, found.get(row["batch"], ms))
    return found


def together(ms: dict[int, float], batches) -> str:
    """Milliseconds a sample at each batch, and what the largest batch gains over one by one."""
    if not ms:
        return ""
    listed = " / ".join(digits(ms[b]) if b in ms else "–" for b in batches)
    most = max(ms)
    return f"{listed} ({ms[1] / ms[most]:.1f} x at {most})" if 1 in ms and most > 1 else listed


def digits(ms: float) -> str:
    """Three digits of a small number, all of a large one."""
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def compared(folder: Path, weights: Path) -> list[dict]:
    """Rows of the table beside the original: what, the original, the mini preset, and each full-size bench recorded."""
    from musekit.bench.recorded import ORIGINAL as SPEED

    def read(name: str) -> list[dict]:
        path = folder / f"{name}.json"
        return json.loads(path.read_text())["rows"] if path.exists() else []

    benches = {title: [row for name in names for row in read(name)] for title, names in BENCHES.items()}
    means = {r["level"]: r["spread"] for r in read("diversity") if r["measure"] == "mean"}
    same = next(r for r in read("path") if r["measure"] == "bar" and "to the bit" in r["name"])
    trained = {p: json.loads((weights / f"{p}.train.json").read_text()) for p in ("stage1", "stage2")}
    sizes = [r for r in read("gallery") if r["measure"] == "size"]
    minutes = {p: t["minutes"] for p, t in trained.items()}
    ends = SPEED["16 samples end to end, s"]
    pieces = {r["batch"]: r["seconds"] for r in benches["full size, CPU"] if r.get("stage") == 0}

    def row(what: str, original, mini="", **more) -> dict:
        return {"": what, "original, A800": original, "mini, 2 CPU cores": mini} | dict.fromkeys(BENCHES, "") | more

    rows = [
        row(
            "parameters of Stage 1 + Stage 2",
            ORIGINAL["parameters"],
            parameters(sizes, "mini"),
            **dict.fromkeys(BENCHES, parameters(sizes, "paper")),
        ),
        row(
            "training",
            ORIGINAL["training"],
            f"Stage 1: {minutes['stage1']:.0f} min; Stage 2: {minutes['stage2']:.0f} min",
        ),
        row("spread of a vague prompt's samples", ORIGINAL["vague"], means["vague"]),
        row("spread of a specific prompt's samples", ORIGINAL["specific"], means["specific"]),
        row("the same recipe again", ORIGINAL["again"], f"the same bits in {same['value']} trials, bar {same['bar']}"),
    ]
    for stage in (1, 2):
        what = SPEED[f"Stage {stage}, ms a sample"]
        title = f"Stage {stage}, ms a sample at batch " + " / ".join(map(str, what))
        found = {name: together(speeds(r, stage, what), what) for name, r in benches.items()}
        rows.append(row(title, together(what, what), together(mini(read("bench"), stage), what), **found))
    listed = f"{pieces[1]:.0f} / {pieces[16]:.0f}" if {1, 16} <= pieces.keys() else ""
    whole = [r for r in benches["full size, GPU"] if r.get("seconds_each") and r["batch"] == 16]
    large = "– / " + ", ".join(f"{r['value']:.3g} (of {r['seconds_each']:g} s)" for r in whole) if whole else ""
    what = "16 pieces from text to sound, s: one by one / batched"
    rows.append(row(what, f"{ends[1]} / {ends[16]}", listed, **{"full size, GPU": large}))
    empty = [name for name, found in benches.items() if not found]
    return [{key: value for key, value in row.items() if key not in empty} for row in rows]


def parameters(rows: list[dict], preset: str) -> str:
    """Those of a preset's two stages, in millions."""
    million = [r["parameters"] / 1e6 for r in rows if r["preset"] == preset]
    return " + ".join(f"{m:,.0f}M" if m >= 100 else f"{m:.1f}M" for m in million)


def mini(rows: list[dict], stage: int) -> dict[int, float]:
    """{batch: ms a sample} of the mini preset, from `musekit bench`; Stage 2: 50 steps of 12 s."""
    value = {row["what"]: row["value"] for row in rows}
    if stage == 1:
        found = {b: value.get(f"Stage 1, micro-batch {b}") for b in (1, 4, 8, 16, 32)}
    else:
        spent = {b: value.get(f"{b} x 12 s, warm: embedding to latents") for b in (1, 4, 16)}
        found = {b: None if s is None else 1000 * s / b for b, s in spent.items()}
    return {b: ms for b, ms in found.items() if ms is not None}


def gpu(folder: Path) -> str:
    """Which GPU the table's is, and the bars that it missed; empty where none was measured on."""
    paths = [folder / f"{name}.json" for name in BENCHES["full size, GPU"]]
    told = [json.loads(p.read_text()) for p in paths if p.exists()]
    found = {name for t in told for name in t["provenance"]["hardware"]["gpus"]}
    if not found:
        return ""
    barred = [r for t in told for r in t["rows"] if r.get("bar")]
    missed = [missed_bar(r) for r in barred if not r["met"]]
    bars = f" Bars that it missed, of {len(barred)}: {'; '.join(missed) or 'none'}." if barred else ""
    return f"\nThe GPU: {' and '.join(sorted(found))}, random weights of full size.{bars}{training(folder)}\n"


def training(folder: Path) -> str:
    """How much of the GPU a training step of Stage 2 uses at best, and whether that is enough."""
    from musekit.bench.train import BAR

    path = folder / "bench-train-gpu.json"
    rows = [r for r in json.loads(path.read_text())["rows"] if r["stage"] == 2] if path.exists() else []
    if not rows:
        return ""
    best = max(rows, key=lambda r: r["mfu"])
    told = f"{100 * best['mfu']:.0f} % of the measured dense rate, bar >= {100 * BAR:.0f} %"
    return f" {best['what']}: {told} ({'met' if best['mfu'] >= BAR else 'missed'})."


def missed_bar(row: dict) -> str:
    """What was too slow, in words."""
    if "ms_a_sample" not in row:
        return f"{row['what']}: {digits(row['value'])} {row['unit']}, bar {row['bar']}"
    return f"Stage {row['stage']}, batch {row['batch']}, {row['dtype']}: {row['ms_a_sample']:.2f} ms, bar {row['bar']}"


def missing(folder: Path) -> list[str]:
    """The commands whose results the comparison would show and does not have."""
    wanted = [name for names in BENCHES.values() for name in names if not (folder / f"{name}.json").exists()]
    return [f"`musekit bench {name.split('-')[1]}`{' on a GPU' * name.endswith('gpu')}" for name in wanted]
