"""The roofline: a batch moves one token a sample up the memory's roof; many tokens lie under the other roof already."""

import numpy as np

from musekit.show.style import INK, MUTED, PALETTE
from poster.sheet import rows

INPUTS = ("results/bench-sizes-gpu.json",)
SIZE = (268, 116)
ALT = (
    "Speed against operations a byte: Stage 1's design climbs the memory roof as the batch grows, Stage 2's is on top."
)
DESIGNS = {1: ("1 token", PALETTE[0], "o"), 2: ("Stage 2: many", PALETTE[1], "s")}


def draw(read, figure):
    """Measured operations a second over counted operations a byte; a line a model size, a mark a batch; both roofs."""
    result = read("results/bench-sizes-gpu.json")
    told, ceilings = rows(result), result["provenance"]["ceilings"]
    axes = figure.add_subplot()
    x = np.array([r["flops"] / r["bytes"] for r in told])
    y = np.array([r["flops"] / r["seconds"] for r in told]) / 1e12
    bandwidth, rate = ceilings["bandwidth"] / 1e12, ceilings["bfloat16"] / 1e12
    reach = np.geomspace(0.6 * x.min(), 1.8 * x.max(), 200)
    roof = np.minimum(bandwidth * reach, rate)
    axes.plot(reach, roof, color=INK, linewidth=4, zorder=2)
    axes.fill_between(reach, roof, 4 * rate, color=MUTED, alpha=0.12, linewidth=0, zorder=1)
    for stage, (name, colour, marker) in DESIGNS.items():
        own = np.array([r["stage"] == stage for r in told])
        for size in sorted({r["parameters"] for r in told if r["stage"] == stage}):
            one = own & np.array([r["parameters"] == size for r in told])
            area = 130 * (size / 5e7) ** 0.4
            axes.plot(x[one], y[one], color=colour, linewidth=2, alpha=0.5, zorder=3)
            look = {"color": colour, "marker": marker, "edgecolors": "white", "linewidths": 1}
            axes.scatter(x[one], y[one], s=area, zorder=4, **look)
        axes.scatter([], [], s=300, color=colour, marker=marker, label=name if stage > 1 else f"Stage 1: {name}")
    low, high = 0.5 * y.min(), 2.2 * rate
    axes.set(xscale="log", yscale="log", xlim=(reach[0], reach[-1]), ylim=(low, high))
    axes.set(xlabel="operations a byte (larger marks: larger models)", ylabel="TFLOP/s")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    figure.legend(loc="outside upper left", ncols=2, borderaxespad=0, columnspacing=1, handletextpad=0.3)
