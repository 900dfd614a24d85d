"""How many held-out pieces are right answers, as the sentence says more: one dot a piece."""

import numpy as np

from musekit.show.style import GRID, INK, REAL
from poster.sheet import rows

INPUTS = ("results/gallery.json",)
SIZE = (268, 110)
ALT = "Four grids of dots, one dot a held-out piece: fewer and fewer are coloured as the sentence says more."
COLUMNS = 24  # of a grid of dots
SENTENCES = {
    (): "any music",
    ("mode", "speed"): "something\nsad",
    ("instrument", "mode", "speed"): "... on the\npiano",
    ("instrument", "key", "mode", "speed"): "... in\n{key} minor",
}


def draw(read, figure):
    """A grid a sentence; coloured are the pieces that fit."""
    steps = rows(read("results/gallery.json"), measure="chain")
    for axes, step in zip(figure.subplots(1, len(steps)), steps, strict=True):
        n, fit = step["clips"], step["fitting"]
        index = np.arange(n)
        chosen = np.zeros(n, bool)
        chosen[np.random.default_rng(0).permutation(n)[:fit]] = True
        at = np.stack([index % COLUMNS, -(index // COLUMNS)])
        axes.scatter(*at[:, ~chosen], s=34, color=GRID, linewidths=0)
        axes.scatter(*at[:, chosen], s=80 if fit < n else 34, color=REAL[0], linewidths=0)
        text = SENTENCES[tuple(sorted(step["asks"]))].format(**step["asks"])
        axes.annotate(
            f"{fit}", (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", ha="left", va="bottom",
            fontsize=56, fontweight="bold", color=REAL[0],
        )  # fmt: skip
        axes.set_xlabel(text, loc="left", color=INK)
        axes.set(xticks=[], yticks=[], xlim=(-0.7, COLUMNS - 0.3), aspect="equal")
        axes.grid(False)
        axes.spines[:].set_visible(False)
