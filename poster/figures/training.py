"""Training curves of both stages, each beside its floor of structureless data."""

from musekit.style import INK, MUTED, PALETTE

INPUTS = ("musekit/weights/mini/stage1.train.json", "musekit/weights/mini/stage2.train.json")
SIZE = (268, 118)
ALT = "Losses of both stages divided by the Gaussian floor, over training samples: both fall well below one."
NAMES = ("Stage 1", "Stage 2")


def draw(read, figure):
    """Loss / Gaussian floor over samples: lines in training, marks on held-out clips."""
    axes = figure.add_subplot()
    for path, name, colour, marker in zip(INPUTS, NAMES, PALETTE[:2], "os", strict=True):
        told = read(path)["metrics"]
        train = [(r["samples"], r["loss"] / r["floor"]) for r in told if "loss" in r and "floor" in r]
        valid = [(r["samples"], r["valid_loss"] / r["valid_floor"]) for r in told if "valid_loss" in r]
        axes.plot(*zip(*train, strict=True), color=colour, zorder=3)
        axes.plot(*zip(*valid, strict=True), marker, color=colour, markersize=18, markeredgecolor="white", zorder=4)
        axes.annotate(
            name, train[-1], (14, 0), textcoords="offset points", ha="left", va="center", color=colour, fontsize=28,
            fontweight="bold",
        )  # fmt: skip
    axes.axhline(1, color=MUTED, linestyle=(0, (4, 3)), linewidth=3)
    axes.annotate(
        "data without structure", (1, 1), (0, -8), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", va="top", color=MUTED,
    )  # fmt: skip
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.set(ylim=(0, 1.12), xlabel="training samples (marks: held out)", ylabel="loss / floor")
    axes.set_xlim(0, 1.28 * axes.dataLim.x1)
    axes.yaxis.label.set_color(INK)
