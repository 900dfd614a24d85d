"""Is what was asked for heard? An independent judge on generated pieces, and on real ones."""

import numpy as np

from musekit.show.style import INK, MUTED, REAL, SAMPLED
from poster.sheet import row

INPUTS = ("results/prompts.json",)
SIZE = (268, 114)
ALT = "Share of pieces in which a judge hears the asked instrument, speed and mode: generated, and real ones."
CHANCE = {"instrument": 1 / 12, "speed": 1 / 2, "mode": 1 / 2}  # of the prompts' balanced classes
SOURCES = (("held-out round trips", "real music", REAL), ("generated", "MUSE", SAMPLED))


def draw(read, figure):
    """A pair of marks an attribute with 95 % intervals; the dotted line is chance."""
    result = read("results/prompts.json")
    axes = figure.add_subplot()
    for k, (attribute, chance) in enumerate(CHANCE.items()):
        axes.plot([100 * chance] * 2, [-k - 0.42, -k + 0.42], color=MUTED, linestyle=(0, (1.5, 1.5)), linewidth=4)
        for shift, (source, _, (colour, marker)) in zip((0.23, -0.23), SOURCES, strict=True):
            told = row(result, measure="accuracy", attribute=attribute, source=source)
            value, low, high = (100 * told[name] for name in ("accuracy", "low", "high"))
            y = -k + shift
            axes.plot([low, high], [y, y], color=colour, linewidth=7, solid_capstyle="butt", zorder=3)
            axes.scatter(value, y, s=480, color=colour, marker=marker, edgecolors="white", linewidths=2, zorder=4)
            axes.annotate(
                f"{value:.0f} %", (122, y), ha="right", va="center", fontsize=27, fontweight="bold", color=colour,
                annotation_clip=False,
            )  # fmt: skip
    axes.set_yticks(-np.arange(len(CHANCE)), list(CHANCE), color=INK)
    axes.set(xlim=(0, 122), ylim=(-len(CHANCE) + 0.45, 0.55), xticks=[0, 25, 50, 75, 100])
    axes.set_xlabel("pieces in which it is heard, %")
    axes.grid(False, axis="y")
    for _, name, (colour, marker) in SOURCES:
        axes.scatter([], [], s=480, color=colour, marker=marker, label=name)
    axes.plot([], [], color=MUTED, linestyle=(0, (1.5, 1.5)), linewidth=4, label="chance")
    figure.legend(loc="outside upper left", ncols=3, borderaxespad=0, columnspacing=1.2, handlelength=1.2)
