"""The two stages, with what flows between them; the pictures are one piece's own."""

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from musekit.show.style import HEAT, INK, MUTED, PALETTE, SIGNED
from poster.figures.pieces import picture
from poster.sheet import row, rows

INPUTS = ("results/gallery.json", "musekit/weights/mini/config.json")
SIZE = (268, 287)
ALT = "A sentence, a frozen text encoder, Stage 1 to an embedding, Stage 2 to latents, and the codec to sound."
BLUE, ORANGE, PAPER = PALETTE[0], PALETTE[1], "#F3F4F6"


def draw(read, figure):
    """Boxes from top to bottom, in about millimetres of the sheet."""
    result, config = read("results/gallery.json"), read("musekit/weights/mini/config.json")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1))
    axes = figure.add_subplot()
    width, height = 268, 284
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto", xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    million = {(r["preset"], r["part"]): millions(r["parameters"]) for r in rows(result, measure="size")}
    moments = rows(result, measure="moment")
    sample, stage2, text = config["sample"], config["stage2"], config["text"]

    box(axes, 34, 256, 200, 26, PAPER, INK)
    prompt = row(result, measure="map")["prompt"]
    axes.text(134, 269, f"\N{LEFT DOUBLE QUOTATION MARK}{prompt}\N{RIGHT DOUBLE QUOTATION MARK}", ha="center",
              va="center", fontsize=38, fontweight="bold")  # fmt: skip
    arrow(axes, 256, 238, f"text encoder, frozen: {text['dim']} numbers a token")

    box(axes, 2, 158, 264, 78, "#E6F1F8", BLUE)
    head(axes, 224, "Stage 1", "flow matching", BLUE)
    sphere(axes, BLUE)
    sized(axes, 165, million, "stage1")
    arrow(axes, 158, 140, f"how it sounds: {config['stage1']['dim']} numbers, a point on a sphere")

    box(axes, 2, 46, 264, 92, "#FDF3E0", ORANGE)
    head(axes, 126, "Stage 2", "flow matching", "#9A6700")
    for k, moment in enumerate(moments):
        left, wide = 8 + 64 * k, 60
        axes.imshow(
            picture(moment["latents"])[::-1, :128], extent=(left, left + wide, 74, 116), cmap=SIGNED, vmin=0.1,
            vmax=0.9, aspect="auto", interpolation="nearest", zorder=3,
        )  # fmt: skip
        name = {0.0: "noise, t = 0", 1.0: "music, t = 1"}.get(moment["t"], f"t = {moment['t']:g}")
        axes.text(left + wide / 2, 67, name, ha="center", va="center", fontsize=25)
    sized(axes, 54, million, "stage2")
    arrow(axes, 46, 31, f"{stage2['latent_dim']} x {stage2['max_frames']} latents, then the codec's decoder")
    axes.imshow(picture(moments[-1]["png"]), extent=(2, 266, 0, 29), origin="lower", cmap=HEAT, aspect="auto", zorder=3)
    axes.text(262, 3, f"{sample['seconds']:g} s of stereo sound", ha="right", va="bottom", color="white", fontsize=26,
              zorder=4)  # fmt: skip
    axes.set(xlim=(0, width), ylim=(0, height))


def millions(n: int) -> str:
    """A number of parameters, as a reader wants it."""
    return f"{n / 1e6:.1f} M" if n < 2e7 else f"{n / 1e6:,.0f} M"


def box(axes, x, y, w, h, face, edge):
    """A rounded box with its lower left corner at (x, y)."""
    style = "round,pad=0,rounding_size=6"
    axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=4, zorder=1))


def head(axes, y, name, how, colour):
    """A box's title, with its equation."""
    axes.text(10, y, name, ha="left", va="center", fontsize=36, fontweight="bold", color=colour)
    axes.text(258, y, rf"{how}:  $dx/dt = v(x, t\,|\,c)$", ha="right", va="center", fontsize=27, color=INK)


def sized(axes, y, million, part):
    """How large a stage is, here and at full size."""
    text = f"{million['mini', part]} parameters  (full size {million['paper', part]})"
    axes.text(134, y, text, ha="center", va="center", fontsize=25, color=MUTED)


def arrow(axes, top, bottom, text):
    """A downward arrow, and what flows along it."""
    look = {"arrowstyle": "-|>", "mutation_scale": 42, "linewidth": 6, "color": INK}
    axes.add_patch(FancyArrowPatch((22, top), (22, bottom), **look))
    axes.text(34, (top + bottom) / 2, text, ha="left", va="center", fontsize=26, color=INK)


def sphere(axes, colour):
    """Noise on the left, carried along bent lines to the rim of a circle: a drawing, not a measurement."""
    rng, n = np.random.default_rng(3), 24
    start = rng.normal(size=(n, 2)).clip(-1.6, 1.6) * (12, 7.5) + (46, 199)
    angle = 2 * np.pi * (np.arange(n) + rng.uniform(-0.35, 0.35, n)) / n
    end = np.stack([200 + 36 * np.cos(angle), 199 + 16 * np.sin(angle)], 1)
    t = np.linspace(0, 1, 40)[:, None]
    for a, b in zip(start, end, strict=True):
        straight = (1 - t) * a + t * b
        straight[:, 1] += 0.5 * (199 - a[1]) * np.sin(np.pi * t[:, 0]) ** 2  # first towards the mean, then apart
        axes.plot(*straight.T, color=colour, alpha=0.35, linewidth=2.2, zorder=2)
    circle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(200 + 36 * np.cos(circle), 199 + 16 * np.sin(circle), color=MUTED, linewidth=3, zorder=2)
    axes.scatter(*start.T, s=90, facecolors="white", edgecolors=colour, linewidths=3, zorder=3)
    axes.scatter(*end.T, s=110, color=colour, zorder=3)
    axes.text(46, 176.5, "noise, by seed", ha="center", va="center", fontsize=25)
    axes.text(200, 176.5, "one answer a seed", ha="center", va="center", fontsize=25)
