"""Do a prompt's samples differ as much as its right answers do? One mark a prompt."""

import numpy as np

from musekit.show.style import INK, MUTED, PALETTE, SAMPLED
from poster.sheet import row, rows

INPUTS = ("results/diversity.json",)
SIZE = (262, 176)
ALT = "Spread of MUSE's samples against spread of the right answers, forty prompts: the marks lie along the diagonal."
BAND = (0.8, 1.2)  # the evaluation's bar


def draw(read, figure):
    """Spread of samples over spread of right answers, the diagonal, and the bar around it."""
    result = read("results/diversity.json")
    axes = figure.add_subplot()
    known = [r for r in rows(result, measure="prompt") if r["real"] is not None]
    most = 1.08 * max(max(r["real"], r["high"]) for r in known)
    line = np.array([0, most])
    axes.fill_between(line, BAND[0] * line, BAND[1] * line, color=SAMPLED[0], alpha=0.10, linewidth=0, zorder=1)
    axes.plot(line, line, color=MUTED, linestyle=(0, (4, 3)), linewidth=3, zorder=2)
    for level, colour, marker in (("vague", SAMPLED[0], SAMPLED[1]), ("specific", PALETTE[4], "s")):
        some = [r for r in known if r["level"] == level]
        x, y = [r["real"] for r in some], [r["spread"] for r in some]
        spread = [[r["spread"] - r["low"] for r in some], [r["high"] - r["spread"] for r in some]]
        axes.errorbar(x, y, spread, fmt="none", ecolor=colour, elinewidth=2.5, alpha=0.6, zorder=3)
        axes.scatter(
            x, y, s=260, color=colour, marker=marker, edgecolors="white", linewidths=1.5, label=f"{level} prompts",
            zorder=4,
        )  # fmt: skip
    low = 0.85 * min(min(r["real"], r["low"]) for r in known)
    axes.set(xlim=(low, most), ylim=(low, most), ylabel="spread of MUSE's")
    axes.set_xlabel("spread of the right answers, joint embedding")
    axes.annotate("equal", (most, most), (-6, -64), textcoords="offset points", ha="right", va="top", color=MUTED)
    ratio = {level: row(result, measure="mean", level=level)["ratio"] for level in ("vague", "specific")}
    told = [(f"{level}: {100 * r:.0f} % as wide", INK) for level, r in ratio.items()]
    for k, (text, colour) in enumerate((*told, (f"shaded: within {100 * (BAND[1] - 1):.0f} %", MUTED))):
        axes.annotate(
            text, (1, 0), (-6, 86 - 38 * k), xycoords="axes fraction", textcoords="offset points", ha="right",
            va="bottom", color=colour, fontweight="bold" if colour == INK else "normal",
        )  # fmt: skip
    axes.legend(loc="upper left", borderaxespad=0, handletextpad=0.3)
