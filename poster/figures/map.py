"""One prompt, many answers: real music and samples around the regression's single answer, at their true distances."""

import numpy as np
from matplotlib.patheffects import withStroke

from musekit.show.style import AVERAGED, INK, REAL, SAMPLED
from poster.sheet import row, rows

INPUTS = ("results/gallery.json",)
SIZE = (330, 283)
ALT = (
    "Regression's answer in the middle of a wide empty disc; around it the real pieces, with MUSE's samples among them."
)
FEWEST = 6  # right answers of an instrumentation for its name to be shown


def draw(read, figure):
    """Grey: held-out pieces; green: those that fit; blue: samples, the played ones numbered; cross: the regression."""
    result = read("results/gallery.json")
    shown = row(result, measure="map")
    axes = figure.add_subplot()
    clips = shown["clips"]
    real, fits = np.array([(c["x"], c["y"]) for c in clips]), np.array([c["fits"] for c in clips])
    samples, single = np.array(shown["samples"]), np.array(shown["regression"])
    reach = 1.2 * np.linalg.norm(np.concatenate([real[fits], samples]), axis=1).max()  # farther ones are left out
    real, samples, single = real / reach, samples / reach, single / reach
    near = np.linalg.norm(real, axis=1) < 1
    step, turn = shown["real_to_next"] / reach, np.linspace(0, 2 * np.pi, 200)
    empty = np.linalg.norm(real, axis=1).min()
    axes.fill(empty * np.cos(turn), empty * np.sin(turn), color=AVERAGED[0], alpha=0.10, linewidth=0, zorder=1)
    axes.plot(step * np.cos(turn), step * np.sin(turn), color=INK, linestyle=(0, (3, 3)), linewidth=3, zorder=2)
    axes.annotate(
        "from one real\npiece to the next", (0, -0.5 * step), ha="center", va="center", fontsize=25, color=INK,
        zorder=6, path_effects=[withStroke(linewidth=7, foreground="#FBEFE6")],
    )  # fmt: skip
    axes.scatter(*real[~fits & near].T, s=80, color="#D1D5DB", linewidths=0, label="the nearest others", zorder=1)
    axes.scatter(
        *real[fits].T, s=300, color=REAL[0], marker=REAL[1], edgecolors="white", linewidths=1.2,
        label=f"{fits.sum()} real pieces that fit", zorder=2,
    )  # fmt: skip
    axes.scatter(
        *samples.T, s=340, color=SAMPLED[0], marker=SAMPLED[1], edgecolors="white", linewidths=1.2,
        label=f"{len(samples)} answers by MUSE", zorder=3,
    )  # fmt: skip
    axes.scatter(
        *single, s=1900, color=AVERAGED[0], marker=AVERAGED[1], edgecolors="white", linewidths=3,
        label="regression's one answer", zorder=5,
    )  # fmt: skip
    played = samples[: len(rows(result, measure="piece"))]
    badges: list[np.ndarray] = []
    for i, place in enumerate(played):
        badge = place
        while any(np.linalg.norm(badge - other) < 0.14 for other in badges):
            badge = badge + 0.02 * place / np.linalg.norm(place)  # outward, until it hides no other
        badges.append(badge)
        axes.plot(*np.stack([place, badge]).T, color=SAMPLED[0], linewidth=4, zorder=5)
        axes.scatter(*badge, s=1500, color="white", edgecolors=SAMPLED[0], linewidths=5, zorder=6)
        axes.annotate(
            str(i + 1), badge, ha="center", va="center", color=SAMPLED[0], fontsize=28, fontweight="bold", zorder=7
        )
    names = np.array([c["instrumentation"] for c in clips])
    crowd = [(real[~fits & near], 1), (real[fits], 3), (samples, 3), (np.array(badges), 40), (single[None], 40)]
    crowd.append((step * np.stack([np.cos(turn), np.sin(turn)], 1), 5))
    for name in sorted(set(names)):
        island = real[fits & (names == name)]
        if len(island) >= FEWEST:
            place = free_place(middle_of(island), 0.042 * len(name), crowd)
            crowd.append((place + np.linspace(-0.5, 0.5, 9)[:, None] * (0.042 * len(name), 0), 40))
            axes.annotate(
                name, place, ha="center", va="center", fontsize=26, color=INK, fontstyle="italic", zorder=4,
                path_effects=[withStroke(linewidth=7, foreground="white")],
            )  # fmt: skip
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.margins(0.03)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, markerscale=1, borderaxespad=0, columnspacing=1.2)


def middle_of(island):
    """On the ring, in the mean direction of these places at their median distance."""
    mean = island.mean(0)
    return mean / (np.linalg.norm(mean) + 1e-9) * np.median(np.linalg.norm(island, axis=1))


def free_place(middle, width, crowd):
    """Where beside an island its name hides least: crowd is (places (n, 2), how bad it is to hide one) each."""
    best, least = middle, np.inf
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        for reach in (0.09, 0.12, 0.16, 0.20):
            at = middle + np.array([(reach + 0.4 * width) * np.cos(angle), reach * np.sin(angle)])
            hidden = sum(
                bad * np.sum((np.abs(p[:, 0] - at[0]) < 0.5 * width + 0.03) & (np.abs(p[:, 1] - at[1]) < 0.065))
                for p, bad in crowd
            )
            inward = 100 * (np.linalg.norm(at) < np.linalg.norm(middle))  # the empty disc stays empty
            score = hidden + inward + 20 * reach + 1000 * (abs(at[0]) + 0.5 * width > 1.02 or abs(at[1]) > 1.02)
            if score < least:
                best, least = at, score
    return best
