"""Figures of parallel work: what each step removes, times that were predicted, and training on several ranks."""

from types import SimpleNamespace

import numpy as np

from musekit.bench import model
from musekit.show.style import INK, MUTED, PALETTE
from poster.sheet import figure, row, rows

STEPS = {  # {name: which row of `musekit bench stage1`}
    "naive design": {"peer": "naive", "batch": 1},
    "one pass, text once": {"peer": "one batch, text cached", "batch": 1},
    "algebra, one graph": {"peer": "prepared", "dtype": "float32", "batch": 1},
    "bfloat16": {"peer": "prepared", "dtype": "bfloat16", "batch": 1},
    "batch of 16": {"peer": "prepared", "dtype": "bfloat16", "batch": 16},
    "batch of 256": {"peer": "prepared", "dtype": "bfloat16", "batch": 256},
}


@figure((262, 176), "Milliseconds per sample from the naive design to ours, on a logarithmic axis: six falling bars.",
        "results/bench-stage1-gpu.json")  # fmt: skip
def waterfall(figure, result):
    """What each step leaves of a sample's time, and its factor."""
    steps = [(name, row(result, stage=1, solver="euler", **where)["ms_a_sample"]) for name, where in STEPS.items()]
    axes, times, y = figure.add_subplot(), np.array([ms for _, ms in steps]), -np.arange(len(steps))
    least, before = times.min() / 2, np.maximum(times, np.roll(times, 1))
    before[0] = times[0]
    axes.barh(y, times - least, 0.75, left=least, color=[MUTED] + [PALETTE[0]] * (len(steps) - 1))
    axes.barh(y, before - times, 0.75, left=times, color=PALETTE[1], alpha=0.35)
    for k, (_, ms) in enumerate(steps):
        factor = f"  (÷ {times[k - 1] / ms:.2g})" if k else ""
        text = {"textcoords": "offset points", "va": "center", "fontsize": 27, "fontweight": "bold"}
        axes.annotate(
            f"{ms:,.{0 if ms > 100 else 1 if ms > 10 else 2}f} ms{factor}", (before[k], y[k]), (10, 0), **text
        )
    axes.set_yticks(y, [name for name, _ in steps], color=INK)
    axes.set(xscale="log", xlim=(least, 60 * times.max()), xticks=[1, 10, 100], xticklabels=["1", "10", "100"])
    axes.set_xlabel("milliseconds per sample")
    axes.minorticks_off()
    axes.grid(False, axis="y")


@figure((268, 238), "Predicted against measured times of networks: the points lie along the diagonal.",
        "results/bench-sizes.json", "results/bench-sizes-gpu.json")  # fmt: skip
def prediction(figure, cpu, gpu):
    """Times of the larger networks, predicted from the smallest, over the measured ones; shaded: within twice."""
    axes, k = figure.add_subplot(), 0
    ends = np.array([0.5, 2e4])
    axes.fill_between(ends, ends / 2, ends * 2, color=MUTED, alpha=0.13, linewidth=0)
    axes.plot(ends, ends, color=INK, linewidth=3)
    for name, result in (("2 CPU cores", cpu), ("H100", gpu)):
        sweep = SimpleNamespace(rows=result["rows"], ceilings=result["provenance"]["ceilings"])
        fitted, larger = model.predicting(sweep)
        for stage in (1, 2):
            own = [r for r in larger if r["stage"] == stage]
            x, y = [1000 * r["seconds"] for r in own], [1000 * fitted(r) for r in own]
            look = {"color": PALETTE[k], "marker": "os^D"[k], "edgecolors": "white", "label": f"{name}, Stage {stage}"}
            axes.scatter(x, y, s=260, linewidths=1.5, zorder=3, **look)
            k += 1
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured, ms", ylabel="predicted, ms")
    axes.legend(loc="upper left", borderaxespad=0, handletextpad=0.2, labelspacing=0.3)


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
