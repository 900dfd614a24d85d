"""How far from real music: the average of the right answers, against samples and real pieces."""

import numpy as np

from musekit.show.style import AVERAGED, INK, MUTED, REAL, SAMPLED
from poster.sheet import row, rows

INPUTS = ("results/regression.json",)
SIZE = (262, 176)
ALT = "Distances to the nearest real piece: for vague prompts, regression's answers lie far out, MUSE's near real ones."
SHOWN = (
    ("regression_to_nearest", "regression", AVERAGED),
    ("samples_to_nearest", "MUSE", SAMPLED),
    ("real_to_nearest", "real music", REAL),
)


def draw(read, figure):
    """A dot a prompt, their mean as a bar with its 95 % interval; vague prompts above, specific ones below."""
    result = read("results/regression.json")
    axes = figure.add_subplot()
    ticks = []
    for g, level in enumerate(("vague", "specific")):
        for k, (field, name, (colour, marker)) in enumerate(SHOWN):
            y = -(3.9 * g + k)
            values = [r[field] for r in rows(result, measure="prompt", level=level) if r[field] is not None]
            mean = row(result, measure="mean", level=level, name=field)
            jitter = np.random.default_rng(k).uniform(-0.24, 0.24, len(values))
            axes.scatter(values, y + jitter, s=110, color=colour, marker=marker, alpha=0.45, linewidths=0, zorder=2)
            axes.plot([mean["low"], mean["high"]], [y, y], color=INK, linewidth=7, solid_capstyle="butt", zorder=4)
            axes.scatter(mean["mean"], y, s=620, color=colour, marker=marker, edgecolors=INK, linewidths=3, zorder=5)
            axes.annotate(
                f"{mean['mean']:.2f}", (1.0, y), xycoords=("axes fraction", "data"), ha="right", va="center",
                fontsize=30, fontweight="bold", color=colour,
            )  # fmt: skip
            ticks.append((y, name))
        axes.annotate(
            f"{level} prompts", (0, 0.75 - 3.9 * g), xycoords=("axes fraction", "data"), ha="left", va="center",
            fontsize=26, color=MUTED, fontstyle="italic",
        )  # fmt: skip
    axes.set_yticks(*zip(*ticks, strict=True), color=INK)
    most = max(r["regression_to_nearest"] for r in rows(result, measure="prompt"))
    axes.set(xlim=(0, 1.18 * most), ylim=(-6.5, 1.2), xlabel="distance to the nearest real piece")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
