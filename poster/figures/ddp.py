"""Several ranks train like one: loss curves of the same run on 1, 2 and 4 processes."""

from musekit.show.style import INK, PALETTE
from poster.sheet import rows

INPUTS = ("results/ddp.json",)
SIZE = (268, 106)
ALT = (
    "Loss over training steps for one, two and four processes and for accumulated steps: the curves lie on each other."
)
LOOKS = (
    {"color": PALETTE[4], "linewidth": 20},
    {"color": PALETTE[1], "linewidth": 11},
    {"color": PALETTE[0], "linewidth": 5},
    {"color": INK, "linewidth": 3, "linestyle": (0, (2, 3))},
)


def draw(read, figure):
    """The curves on top of each other, the thickest below; how far the farthest parts, in words."""
    result = read("results/ddp.json")
    axes = figure.add_subplot()
    for told, look in zip(rows(result), LOOKS, strict=True):
        each = told["steps"] / len(told["loss"])
        steps = [each * (i + 0.5) for i in range(len(told["loss"]))]
        axes.plot(steps, told["loss"], label=told["case"], solid_capstyle="round", **look)
    worst = max(r["mean_difference"] for r in rows(result))
    told = f"steps ({result['provenance']['preset']} preset; mean gap of the loss {worst:.1g})"
    top = max(max(r["loss"]) for r in rows(result))
    axes.set(xlabel=told, ylabel="loss", ylim=(0, 1.15 * top))  # the thickest line stays whole
    axes.locator_params(axis="x", nbins=5)
    figure.legend(
        loc="outside upper left", ncols=4, borderaxespad=0, columnspacing=0.9, handlelength=0.9, handletextpad=0.5
    )
