"""Training curves of both stages, each beside its floor of structureless data."""

from musekit.show.style import INK, MUTED, PALETTE

INPUTS = ("musekit/weights/mini/stage1.train.json", "musekit/weights/mini/stage2.train.json")
SIZE = (268, 118)
ALT = "Losses of both stages divided by the Gaussian floor, over training samples: both fall well below one."
NAMES = ("Stage 1", "Stage 2")


def draw(read, figure):
    """Loss / Gaussian floor over samples: lines in training, marks on held-out clips."""
    axes, ends = figure.add_subplot(), []
    for path, name, colour, marker in zip(INPUTS, NAMES, PALETTE[:2], "os", strict=True):
        run = read(path)
        told, whole = run["metrics"], run["samples"] / 100
        train = [(r["samples"] / whole, r["loss"] / r["floor"]) for r in told if "loss" in r and "floor" in r]
        valid = [(r["samples"] / whole, r["valid_loss"] / r["valid_floor"]) for r in told if "valid_loss" in r]
        axes.plot(*zip(*train, strict=True), color=colour, zorder=3)
        axes.plot(*zip(*valid, strict=True), marker, color=colour, markersize=18, markeredgecolor="white", zorder=4)
        ends.append((train[-1], name, colour))
    for k, (end, name, colour) in enumerate(
        sorted(ends, key=lambda e: e[0][1])
    ):  # the lower one is named below its line
        place = {"textcoords": "offset points", "ha": "left", "va": "bottom" if k else "top"}
        axes.annotate(name, end, (20, -4 if k else 4), **place, color=colour, fontsize=28, fontweight="bold")
    axes.axhline(1, color=MUTED, linestyle=(0, (4, 3)), linewidth=3)
    axes.annotate(
        "data without structure", (1, 1), (0, -8), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", va="top", color=MUTED,
    )  # fmt: skip
    axes.set(ylim=(0, 1.12), xlabel="share of the training, % (marks: held out)", ylabel="loss / floor")
    axes.set(xlim=(0, 132), xticks=[0, 25, 50, 75, 100])
    axes.yaxis.label.set_color(INK)
