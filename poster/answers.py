"""Figures of the middle: how near answers lie to real music, four of them as sound, and how varied they are."""

import numpy as np

from musekit.show.style import AVERAGED, HEAT, INK, MUTED, PALETTE, REAL, SAMPLED
from poster.idea import picture
from poster.sheet import figure, row, rows

BAND = (0.8, 1.2)  # the evaluation's bar for the spread


@figure((330, 222), "Histograms of distances to the nearest training clip: regression's lie apart from real music's.",
        "results/regression.json")  # fmt: skip
def nearest(figure, result):
    """For each prompt, how far its answer lies from the nearest training clip: real music, MUSE, regression."""
    looks = (("real", "real music", REAL), ("samples", "MUSE", SAMPLED), ("regression", "regression", AVERAGED))
    found = {level: rows(result, measure="prompt", level=level) for level in ("vague", "specific")}
    every = [r[f"{name}_to_nearest"] for r in sum(found.values(), []) for name, _, _ in looks]
    bins = np.arange(0.05 * (min(filter(None, every)) // 0.05), max(filter(None, every)) + 0.05, 0.05)
    grid = figure.subplots(len(looks), 1, sharex=True, sharey=True)
    for axes, (name, label, (colour, _)) in zip(grid, looks, strict=True):
        for level, look in (("specific", {"histtype": "step", "linewidth": 5}), ("vague", {"alpha": 0.75})):
            values = [r[f"{name}_to_nearest"] for r in found[level] if r[f"{name}_to_nearest"] is not None]
            axes.hist(values, bins, color=colour, label=f"{level} prompts", **look)
        mean = row(result, measure="mean", level="vague", name=f"{name}_to_nearest")["mean"]
        axes.axvline(mean, color=INK, linewidth=4, linestyle=(0, (3, 2)))
        text = {"xycoords": "axes fraction", "ha": "right", "va": "top", "color": colour, "fontweight": "bold"}
        axes.annotate(f"{label}: {mean:.2f}", (0.99, 0.95), fontsize=36, **text)
        axes.set_ylabel("prompts")
        axes.grid(False, axis="x")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, borderaxespad=0)
    grid[-1].set_xlabel("distance to the nearest training clip (dashed: mean, vague)")


@figure((205, 232), "Four log-frequency spectrograms: four different pieces for one prompt.", "results/gallery.json")
def pieces(figure, gallery):
    """Four answers one above the other, numbered."""
    found = rows(gallery, measure="piece")
    grid = figure.subplots(len(found), 1, sharex=True)
    for i, (axes, piece) in enumerate(zip(grid, found, strict=True)):
        extent = (0, piece["seconds"], 0, piece["octaves"])
        axes.imshow(picture(piece["png"]), origin="lower", aspect="auto", cmap=HEAT, vmin=0, vmax=1, extent=extent)
        axes.set_title(f"seed {piece['seed']}: {piece['nearest']}", fontsize=27, fontweight="normal", color=INK, pad=8)
        look = {"ha": "left", "va": "top", "fontsize": 28, "fontweight": "bold", "color": SAMPLED[0]}
        circle = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "linewidth": 0}
        axes.text(0.012, 0.93, str(i + 1), transform=axes.transAxes, bbox=circle, **look)
        axes.set(yticks=[0, piece["octaves"]], yticklabels=["C2", f"C{2 + piece['octaves']}"])
        axes.tick_params(axis="y", colors=MUTED)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    grid[-1].set(xticks=[0, 4, 8, 12], xlabel="seconds")


@figure((262, 176), "Spread of MUSE's samples against spread of the right answers: most marks lie below the diagonal.",
        "results/diversity.json")  # fmt: skip
def diversity(figure, result):
    """One mark per prompt, the diagonal, and the evaluation's bar around it."""
    axes = figure.add_subplot()
    known = [r for r in rows(result, measure="prompt") if r["real"] is not None]
    most = 1.08 * max(max(r["real"], r["high"]) for r in known)
    low = 0.85 * min(min(r["real"], r["low"]) for r in known)
    line = np.array([0, most])
    axes.fill_between(line, BAND[0] * line, BAND[1] * line, color=SAMPLED[0], alpha=0.10, linewidth=0, zorder=1)
    axes.plot(line, line, color=MUTED, linestyle=(0, (4, 3)), linewidth=3, zorder=2)
    looks = {"vague": SAMPLED, "specific": (PALETTE[4], "s")}
    for level, (colour, marker) in looks.items():
        x, y, lows, highs = np.array(
            [[r[k] for k in ("real", "spread", "low", "high")] for r in known if r["level"] == level]
        ).T
        axes.errorbar(x, y, [y - lows, highs - y], fmt="none", ecolor=colour, elinewidth=2.5, alpha=0.6, zorder=3)
        look = {"edgecolors": "white", "linewidths": 1.5, "label": f"{level} prompts"}
        axes.scatter(x, y, s=260, color=colour, marker=marker, zorder=4, **look)
    axes.set(xlim=(low, most), ylim=(low, most), ylabel="spread of MUSE's")
    axes.set_xlabel("spread of the right answers, joint embedding")
    axes.annotate("equal", (most, most), (-6, -64), textcoords="offset points", ha="right", va="top", color=MUTED)
    ratio = {level: row(result, measure="mean", level=level)["ratio"] for level in looks}
    texts = [(f"{level}: {100 * r:.0f} % as wide", INK, "bold") for level, r in ratio.items()]
    texts.append((f"shaded: within {100 * (BAND[1] - 1):.0f} %", MUTED, "normal"))
    for k, (text, colour, weight) in enumerate(texts):
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "left", "va": "bottom"}
        axes.annotate(text, (0, 0.45), (8, 86 - 38 * k), color=colour, fontweight=weight, **place)
    axes.legend(loc="upper left", borderaxespad=0, handletextpad=0.3)
