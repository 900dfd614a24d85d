"""Figures of the middle: one prompt's answers, and the average of the right answers against samples of them."""

import numpy as np
from matplotlib.patheffects import withStroke

from musekit.show.style import AVERAGED, HEAT, INK, MUTED, PALETTE, REAL, SAMPLED
from poster.idea import picture
from poster.sheet import figure, row, rows

FEWEST = 6  # right answers of an instrumentation for its name to be shown
BAND = (0.8, 1.2)  # the evaluation's bar for the spread


@figure((330, 283), "Regression's answer in the middle; around it real pieces, and MUSE's samples among them.",
        "results/gallery.json")  # fmt: skip
def answers(figure, gallery):
    """Distances from the regression's single answer are true; directions are for reading only."""
    shown = row(gallery, measure="map")
    axes = figure.add_subplot()
    clips = shown["clips"]
    real, fits = np.array([(c["x"], c["y"]) for c in clips]), np.array([c["fits"] for c in clips])
    samples, single = np.array(shown["samples"]), np.array(shown["regression"])
    reach = 1.2 * np.linalg.norm(np.concatenate([real[fits], samples]), axis=1).max()  # farther ones are left out
    real, samples, single = real / reach, samples / reach, single / reach
    near = np.linalg.norm(real, axis=1) < 1
    step, turn = shown["real_to_next"] / reach, np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    axes.fill(*(np.linalg.norm(real, axis=1).min() * circle).T, color=AVERAGED[0], alpha=0.10, linewidth=0, zorder=1)
    axes.plot(*(step * circle).T, color=INK, linestyle=(0, (3, 3)), linewidth=3, zorder=2)
    _name(axes, "from one real\npiece to the next", (0, -0.5 * step), "#FBEFE6", fontsize=25, zorder=6)
    axes.scatter(*real[~fits & near].T, s=80, color="#D1D5DB", linewidths=0, label="the nearest others", zorder=1)
    look = {"edgecolors": "white", "linewidths": 1.2}
    for places, size, (colour, marker), label, z in (
        (real[fits], 300, REAL, f"{fits.sum()} real pieces that match", 2),
        (samples, 340, SAMPLED, f"{len(samples)} answers by MUSE", 3),
        (single[None], 1900, AVERAGED, "regression's one answer", 5),
    ):
        axes.scatter(*places.T, s=size, color=colour, marker=marker, label=label, zorder=z, **look)
    badges: list[np.ndarray] = []
    for i, place in enumerate(samples[: len(rows(gallery, measure="piece"))]):
        badge = place
        while any(np.linalg.norm(badge - other) < 0.14 for other in badges):
            badge = badge + 0.02 * place / np.linalg.norm(place)  # outward, until it hides no other
        badges.append(badge)
        axes.plot(*np.stack([place, badge]).T, color=SAMPLED[0], linewidth=4, zorder=5)
        axes.scatter(*badge, s=1500, color="white", edgecolors=SAMPLED[0], linewidths=5, zorder=6)
        text = {"ha": "center", "va": "center", "fontsize": 28, "fontweight": "bold", "zorder": 7}
        axes.annotate(str(i + 1), badge, color=SAMPLED[0], **text)
    names = np.array([c["instrumentation"] for c in clips])
    crowd = [(real[~fits & near], 1), (real[fits], 3), (samples, 3), (np.array(badges), 40), (single[None], 40)]
    crowd.append((step * circle, 5))
    for name in sorted(set(names)):
        island = real[fits & (names == name)]
        if len(island) >= FEWEST:
            place = _free_place(island, 0.042 * len(name), crowd)
            crowd.append((place + np.linspace(-0.5, 0.5, 9)[:, None] * (0.042 * len(name), 0), 40))
            _name(axes, name, place, "white", fontsize=26, fontstyle="italic", zorder=4)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.margins(0.03)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, markerscale=1, borderaxespad=0, columnspacing=1.2)


def _name(axes, text, place, halo, **look):
    stroke = [withStroke(linewidth=7, foreground=halo)]
    axes.annotate(text, place, ha="center", va="center", color=INK, path_effects=stroke, **look)


def _free_place(island, width, crowd):
    """Where beside an island its name hides least: crowd is (places (n, 2), cost of hiding one) each."""
    mean = island.mean(0)
    middle = mean / (np.linalg.norm(mean) + 1e-9) * np.median(np.linalg.norm(island, axis=1))
    best, least = middle, np.inf
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        for reach in (0.09, 0.12, 0.16, 0.20):
            at = middle + np.array([(reach + 0.4 * width) * np.cos(angle), reach * np.sin(angle)])
            hidden = sum(
                cost * np.sum((np.abs(p[:, 0] - at[0]) < 0.5 * width + 0.03) & (np.abs(p[:, 1] - at[1]) < 0.065))
                for p, cost in crowd
            )
            inward = 100 * (np.linalg.norm(at) < np.linalg.norm(middle))
            score = hidden + inward + 20 * reach + 1000 * (abs(at[0]) + 0.5 * width > 1.02 or abs(at[1]) > 1.02)
            if score < least:
                best, least = at, score
    return best


@figure((205, 283), "Four log-frequency spectrograms: four different pieces for one prompt.", "results/gallery.json")
def pieces(figure, gallery):
    """Four answers one above the other, numbered as on the map."""
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


@figure((262, 176), "Distances to the nearest training clip: for vague prompts, regression's answers lie far out.",
        "results/regression.json")  # fmt: skip
def regression(figure, result):
    """A mark per prompt, their mean with its 95 % interval; vague prompts above, specific ones below."""
    axes, ticks = figure.add_subplot(), []
    place = {"xycoords": ("axes fraction", "data"), "va": "center"}
    for g, level in enumerate(("vague", "specific")):
        looks = (("regression", AVERAGED), ("samples", SAMPLED), ("real", REAL))
        for k, (name, (colour, marker)) in enumerate(looks):
            y, field = -(3.9 * g + k), f"{name}_to_nearest"
            values = [r[field] for r in rows(result, measure="prompt", level=level) if r[field] is not None]
            mean = row(result, measure="mean", level=level, name=field)
            jitter = np.random.default_rng(k).uniform(-0.24, 0.24, len(values))
            axes.scatter(values, y + jitter, s=110, color=colour, marker=marker, alpha=0.45, linewidths=0, zorder=2)
            axes.plot([mean["low"], mean["high"]], [y, y], color=INK, linewidth=7, solid_capstyle="butt", zorder=4)
            axes.scatter(mean["mean"], y, s=620, color=colour, marker=marker, edgecolors=INK, linewidths=3, zorder=5)
            text = {"ha": "right", "fontsize": 30, "fontweight": "bold", "color": colour}
            axes.annotate(f"{mean['mean']:.2f}", (1.0, y), **place, **text)
            ticks.append((y, {"samples": "MUSE", "real": "real music"}.get(name, name)))
        text = {"ha": "left", "fontsize": 26, "color": MUTED, "fontstyle": "italic"}
        axes.annotate(f"{level} prompts", (0, 0.75 - 3.9 * g), **place, **text)
    axes.set_yticks(*zip(*ticks, strict=True), color=INK)
    most = max(r["regression_to_nearest"] for r in rows(result, measure="prompt"))
    axes.set(xlim=(0, 1.18 * most), ylim=(-6.5, 1.2), xlabel="distance to the nearest training clip")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


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
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "va": "bottom"}
        axes.annotate(text, (1, 0), (-6, 86 - 38 * k), color=colour, fontweight=weight, **place)
    axes.legend(loc="upper left", borderaxespad=0, handletextpad=0.3)
