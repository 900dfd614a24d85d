"""Figures of the right column: what a batch gains, the roofline, and training on several ranks."""

import re

import numpy as np

from musekit.show.style import INK, MUTED, PALETTE
from poster.sheet import figure, rows


@figure((268, 124), "Speed-up per sample against micro-batch: Stage 1 gains far more than Stage 2 and the codec.",
        "results/bench.json")  # fmt: skip
def batching(figure, result):
    """Times faster per sample than at micro-batch 1, on logarithmic axes, beside the ideal."""
    value = {r["what"]: r["value"] for r in rows(result)}
    matches = ((re.fullmatch(r"Stage 1, micro-batch (\d+)", what), ms) for what, ms in value.items())
    stage1 = {int(m[1]): ms for m, ms in matches if m}
    axes, batches = figure.add_subplot(), sorted(stage1)
    axes.plot(batches, batches, color=MUTED, linestyle=(0, (4, 3)), linewidth=3)
    place = {"textcoords": "offset points", "va": "center"}
    axes.annotate("ideal", (batches[-2], batches[-2]), (-16, 22), ha="right", color=MUTED, **place)
    curves = {"Stage 1": (batches, [stage1[batches[0]] / stage1[b] for b in batches])}
    for name, part in (("Stage 2", "embedding to latents"), ("codec", "latents to sound")):
        curves[name] = ([1, 4], [1, 4 * value[f"1 x 12 s, warm: {part}"] / value[f"4 x 12 s, warm: {part}"]])
    for k, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, color=PALETTE[k], marker="os^"[k], markersize=20, markeredgecolor="white", zorder=4)
        look = {"color": PALETTE[k] if k != 1 else INK, "fontweight": "bold", "fontsize": 27, "ha": "left"}
        axes.annotate(f"{name}: {y[-1]:.2g}×", (x[-1], y[-1]), (18, 0), **place, **look)
    axes.set(xscale="log", yscale="log", xlabel="pieces in one batch (faster: time per piece)", ylabel="times faster")
    axes.set_xticks(batches, [f"{b}" for b in batches])
    axes.set_yticks(batches, [f"{b}×" for b in batches])
    axes.minorticks_off()
    axes.set_xlim(0.9, 2.6 * batches[-1])


@figure((268, 116), "Speed against operations per byte: Stage 1's design climbs the memory roof as the batch grows.",
        "results/bench-sizes-gpu.json")  # fmt: skip
def roofline(figure, result):
    """Measured operations per second over counted operations per byte: a line per model size, a mark per batch."""
    found, ceilings = rows(result), result["provenance"]["ceilings"]
    axes = figure.add_subplot()
    x = np.array([r["flops"] / r["bytes"] for r in found])
    y = np.array([r["flops"] / r["seconds"] for r in found]) / 1e12
    bandwidth, rate = ceilings["bandwidth"] / 1e12, ceilings["bfloat16"] / 1e12
    reach = np.geomspace(0.6 * x.min(), 1.8 * x.max(), 200)
    roof = np.minimum(bandwidth * reach, rate)
    axes.plot(reach, roof, color=INK, linewidth=4, zorder=2)
    axes.fill_between(reach, roof, 4 * rate, color=MUTED, alpha=0.12, linewidth=0, zorder=1)
    for stage, name, colour, marker in (
        (1, "Stage 1: 1 token", PALETTE[0], "o"),
        (2, "Stage 2: many", PALETTE[1], "s"),
    ):
        look = {"color": colour, "marker": marker}
        for size in sorted({r["parameters"] for r in found if r["stage"] == stage}):
            own = np.array([r["stage"] == stage and r["parameters"] == size for r in found])
            axes.plot(x[own], y[own], color=colour, linewidth=2, alpha=0.5, zorder=3)
            area = 130 * (size / 5e7) ** 0.4
            axes.scatter(x[own], y[own], s=area, edgecolors="white", linewidths=1, zorder=4, **look)
        axes.scatter([], [], s=300, label=name, **look)
    axes.set(xscale="log", yscale="log", xlim=(reach[0], reach[-1]), ylim=(0.5 * y.min(), 2.2 * rate))
    axes.set(xlabel="operations per byte (larger marks: larger models)", ylabel="TFLOP/s")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    figure.legend(loc="outside upper left", ncols=2, borderaxespad=0, columnspacing=1, handletextpad=0.3)


@figure((268, 106), "Loss over training steps for one, two and four processes: the curves lie on each other.",
        "results/ddp.json")  # fmt: skip
def ddp(figure, result):
    """Loss curves of the same run on several ranks, on top of each other, the thickest below."""
    looks = (
        {"color": PALETTE[4], "linewidth": 20},
        {"color": PALETTE[1], "linewidth": 11},
        {"color": PALETTE[0], "linewidth": 5},
        {"color": INK, "linewidth": 3, "linestyle": (0, (2, 3))},
    )
    axes = figure.add_subplot()
    for run, look in zip(rows(result), looks, strict=True):
        each = run["steps"] / len(run["loss"])
        steps = [each * (i + 0.5) for i in range(len(run["loss"]))]
        axes.plot(steps, run["loss"], label=run["case"], solid_capstyle="round", **look)
    worst = max(r["mean_difference"] for r in rows(result))
    text = f"steps ({result['provenance']['preset']} preset; mean gap of the loss {worst:.1g})"
    top = max(max(r["loss"]) for r in rows(result))
    axes.set(xlabel=text, ylabel="loss", ylim=(0, 1.15 * top))
    axes.locator_params(axis="x", nbins=5)
    look = {"columnspacing": 0.9, "handlelength": 0.9, "handletextpad": 0.5}
    figure.legend(loc="outside upper left", ncols=4, borderaxespad=0, **look)


@figure((268, 62), "Samples per second of one and two training processes, with the parallel efficiency.",
        "results/bench-ddp.json")  # fmt: skip
def scaling(figure, result):
    """Data-parallel training on more CPU ranks: samples per second, measured."""
    found = [r for r in rows(result) if r.get("scaling", "weak") == "weak"]
    axes = figure.add_subplot()
    most = max(r["throughput"] for r in found)
    for k, r in enumerate(found):
        axes.barh(-k, r["throughput"], 0.72, color=PALETTE[0])
        text = f"{r['throughput']:.0f} samples/s" + (f", {100 * r['efficiency']:.0f} % efficient" if k else "")
        inside = r["throughput"] > 0.6 * most
        look = {"ha": "right" if inside else "left", "color": "white" if inside else INK, "fontsize": 26}
        place = {"textcoords": "offset points", "va": "center"}
        axes.annotate(text, (r["throughput"], -k), (-10 if inside else 10, 0), **place, **look)
    names = [f"{r['ranks']} {'CPU' if r['backend'] == 'cpu' else 'GPU'} rank" + "s" * (r["ranks"] > 1) for r in found]
    axes.set_yticks([-k for k in range(len(found))], names, color=INK)
    axes.set_xlabel("2 and 4 GPUs: not measured", loc="left", color=MUTED)
    axes.set(xlim=(0, most), xticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
