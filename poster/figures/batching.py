"""What a batch buys, on the machine of the measurement."""

import re

from musekit.show.style import INK, MUTED, PALETTE
from poster.sheet import rows

INPUTS = ("results/bench.json",)
SIZE = (268, 124)
ALT = "Speed-up a sample against micro-batch: Stage 1 gains far more than Stage 2 and the codec."


def draw(read, figure):
    """Times faster a sample than at micro-batch 1, on logarithmic axes, beside the ideal."""
    result = read("results/bench.json")
    found = [(re.fullmatch(r"Stage 1, micro-batch (\d+)", r["what"]), r["value"]) for r in rows(result)]
    stage1 = {int(m[1]): value for m, value in found if m}
    axes = figure.add_subplot()
    batches = sorted(stage1)
    axes.plot(batches, batches, color=MUTED, linestyle=(0, (4, 3)), linewidth=3)
    axes.annotate("ideal", (batches[-2], batches[-2]), (-16, 10), textcoords="offset points", ha="right", color=MUTED)
    gain = [stage1[batches[0]] / stage1[b] for b in batches]
    line(axes, batches, gain, "Stage 1", 0)
    for k, (part, name) in enumerate((("embedding to latents", "Stage 2"), ("latents to sound", "codec")), 1):
        one, four = (next(r for r in rows(result) if r["what"] == f"{n} x 12 s, warm: {part}") for n in (1, 4))
        line(axes, [1, 4], [1, one["value"] * 4 / four["value"]], name, k)
    axes.set(xscale="log", yscale="log", xlabel="pieces in one batch (faster: time a piece)", ylabel="times faster")
    axes.set_xticks(batches, [f"{b}" for b in batches])
    axes.set_yticks(batches, [f"{b}×" for b in batches])
    axes.minorticks_off()
    axes.set_xlim(0.9, 2.6 * batches[-1])


def line(axes, x, y, name, k):
    """A marked line, named at its end with its last value."""
    axes.plot(x, y, color=PALETTE[k], marker="os^"[k], markersize=20, markeredgecolor="white", zorder=4)
    axes.annotate(
        f"{name}: {y[-1]:.2g}×", (x[-1], y[-1]), (18, 0), textcoords="offset points", ha="left", va="center",
        color=PALETTE[k] if k != 1 else INK, fontweight="bold", fontsize=27,
    )  # fmt: skip
