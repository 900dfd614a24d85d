"""Figures of the left column: what the problem is, how MUSE answers it, and whether prompts are obeyed."""

import base64
import io

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from musekit.show.style import GRID, HEAT, INK, MUTED, PALETTE, REAL, SAMPLED, SIGNED
from poster.sheet import figure, row, rows

BLUE, ORANGE, PAPER = PALETTE[0], PALETTE[1], "#F3F4F6"
COLUMNS = 24  # of a grid of dots
SENTENCES = {
    (): "any music",
    ("mode", "speed"): "something\nsad",
    ("instrument", "mode", "speed"): "... on the\npiano",
    ("instrument", "key", "mode", "speed"): "... in\n{key} minor",
}
CHANCE = {"instrument": 1 / 12, "speed": 1 / 2, "mode": 1 / 2}  # the prompts' classes are balanced


def picture(data: str) -> np.ndarray:
    """A picture of the gallery, (rows, columns) of 0 to 1."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) / 255


@figure((268, 110), "Four grids of dots, one per held-out piece: fewer match as the sentence says more.",
        "results/gallery.json")  # fmt: skip
def problem(figure, gallery):
    """How many held-out pieces match, as the sentence says more: one dot per piece."""
    steps = rows(gallery, measure="chain")
    for axes, step in zip(figure.subplots(1, len(steps)), steps, strict=True):
        n, fit = step["clips"], step["fitting"]
        index = np.arange(n)
        chosen = np.zeros(n, bool)
        chosen[np.random.default_rng(0).permutation(n)[:fit]] = True
        at = np.stack([index % COLUMNS, -(index // COLUMNS)])
        axes.scatter(*at[:, ~chosen], s=34, color=GRID, linewidths=0)
        axes.scatter(*at[:, chosen], s=80 if fit < n else 34, color=REAL[0], linewidths=0)
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "left", "va": "bottom"}
        axes.annotate(f"{fit}", (0, 1), (0, 6), fontsize=56, fontweight="bold", color=REAL[0], **place)
        axes.set_xlabel(SENTENCES[tuple(sorted(step["asks"]))].format(**step["asks"]), loc="left", color=INK)
        axes.set(xticks=[], yticks=[], xlim=(-0.7, COLUMNS - 0.3), aspect="equal")
        axes.grid(False)
        axes.spines[:].set_visible(False)


@figure((268, 287), "Sentence, text encoder, Stage 1 to an embedding, Stage 2 to latents, codec to sound.",
        "results/gallery.json", "musekit/weights/mini/config.json")  # fmt: skip
def architecture(figure, gallery, config):
    """The two stages and what flows between them, in millimetres of the sheet; the pictures are one piece's own."""
    figure.get_layout_engine().set(rect=(0, 0, 1, 1))
    axes = figure.add_subplot()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    moments, sample = rows(gallery, measure="moment"), config["sample"]
    _box(axes, 34, 256, 200, 26, PAPER, INK)
    prompt = f"\N{LEFT DOUBLE QUOTATION MARK}{row(gallery, measure='map')['prompt']}\N{RIGHT DOUBLE QUOTATION MARK}"
    _text(axes, 134, 269, prompt, fontsize=38, fontweight="bold")
    _arrow(axes, 256, 238, f"text encoder, frozen: {config['text']['dim']} numbers per token")
    _stage(axes, 158, 236, "Stage 1", "#E6F1F8", BLUE, BLUE, gallery)
    _sphere(axes)
    _arrow(axes, 158, 140, f"how it sounds: {config['stage1']['dim']} numbers, a point on a sphere")
    _stage(axes, 46, 138, "Stage 2", "#FDF3E0", ORANGE, "#9A6700", gallery)
    look = {"aspect": "auto", "zorder": 3}
    for k, moment in enumerate(moments):
        left, wide = 8 + 64 * k, 60
        latents = picture(moment["latents"])[::-1, :128]
        axes.imshow(latents, extent=(left, left + wide, 74, 116), cmap=SIGNED, vmin=0.1, vmax=0.9, **look)
        name = {0.0: "noise, t = 0", 1.0: "music, t = 1"}.get(moment["t"], f"t = {moment['t']:g}")
        _text(axes, left + wide / 2, 67, name, fontsize=25)
    _arrow(axes, 46, 31, f"{config['stage2']['latent_dim']} numbers every 46 ms, then a decoder")
    axes.imshow(picture(moments[-1]["png"]), extent=(2, 266, 0, 29), origin="lower", cmap=HEAT, **look)
    _text(axes, 262, 6, f"{sample['seconds']:g} s of stereo sound", ha="right", color="white", fontsize=26, zorder=4)
    axes.set(xlim=(0, 268), ylim=(0, 284), aspect="auto", xticks=[], yticks=[])


def _text(axes, x, y, text, **look):
    axes.text(x, y, text, **({"ha": "center", "va": "center", "color": INK} | look))


def _box(axes, x, y, w, h, face, edge):
    look = {"boxstyle": "round,pad=0,rounding_size=6", "facecolor": face, "edgecolor": edge}
    axes.add_patch(FancyBboxPatch((x, y), w, h, linewidth=4, zorder=1, **look))


def _stage(axes, bottom, top, name, face, edge, colour, gallery):
    """The box of a stage, with its equation and its size here and at full size."""
    _box(axes, 2, bottom, 264, top - bottom, face, edge)
    _text(axes, 10, top - 12, name, ha="left", fontsize=36, fontweight="bold", color=colour)
    _text(axes, 258, top - 12, r"flow matching:  $dx/dt = v(x, t\,|\,c)$", ha="right", fontsize=27)
    part = name.lower().replace(" ", "")
    n = {p: row(gallery, measure="size", preset=p, part=part)["parameters"] / 1e6 for p in ("mini", "paper")}
    text = f"{n['mini']:.1f} M parameters  (full size {n['paper']:,.0f} M)"
    _text(axes, 134, bottom + 7.5, text, fontsize=25, color=MUTED)


def _arrow(axes, top, bottom, text):
    look = {"arrowstyle": "-|>", "mutation_scale": 42, "linewidth": 6, "color": INK}
    axes.add_patch(FancyArrowPatch((22, top), (22, bottom), **look))
    _text(axes, 34, (top + bottom) / 2, text, ha="left", fontsize=26)


def _sphere(axes):
    """Noise on the left, carried along bent lines to the rim of a circle: a drawing, not a measurement."""
    rng, n = np.random.default_rng(3), 24
    start = rng.normal(size=(n, 2)).clip(-1.6, 1.6) * (12, 7.5) + (46, 199)
    angle = 2 * np.pi * (np.arange(n) + rng.uniform(-0.35, 0.35, n)) / n
    end = np.stack([200 + 36 * np.cos(angle), 199 + 16 * np.sin(angle)], 1)
    t = np.linspace(0, 1, 40)[:, None]
    for a, b in zip(start, end, strict=True):
        line = (1 - t) * a + t * b
        line[:, 1] += 0.5 * (199 - a[1]) * np.sin(np.pi * t[:, 0]) ** 2  # first towards the mean, then apart
        axes.plot(*line.T, color=BLUE, alpha=0.35, linewidth=2.2, zorder=2)
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(200 + 36 * np.cos(turn), 199 + 16 * np.sin(turn), color=MUTED, linewidth=3, zorder=2)
    axes.scatter(*start.T, s=90, facecolors="white", edgecolors=BLUE, linewidths=3, zorder=3)
    axes.scatter(*end.T, s=110, color=BLUE, zorder=3)
    _text(axes, 46, 176.5, "noise, by seed", fontsize=25)
    _text(axes, 200, 176.5, "one answer per seed", fontsize=25)


@figure((268, 114), "Share of pieces in which a judge recognises the prompted instrument, speed and mode.",
        "results/prompts.json")  # fmt: skip
def prompts(figure, result):
    """A judge that never saw the embedder, on generated and on real pieces, with 95 % intervals; dotted: chance."""
    sources = (("held-out round trips", "real music", REAL), ("generated", "MUSE", SAMPLED))
    axes = figure.add_subplot()
    dots = {"color": MUTED, "linestyle": (0, (1.5, 1.5)), "linewidth": 4}
    for k, (attribute, chance) in enumerate(CHANCE.items()):
        axes.plot([100 * chance] * 2, [-k - 0.42, -k + 0.42], **dots)
        for y, (source, _, (colour, marker)) in zip((-k + 0.23, -k - 0.23), sources, strict=True):
            found = row(result, measure="accuracy", attribute=attribute, source=source)
            value, low, high = (100 * found[name] for name in ("accuracy", "low", "high"))
            axes.plot([low, high], [y, y], color=colour, linewidth=7, solid_capstyle="butt", zorder=3)
            axes.scatter(value, y, s=480, color=colour, marker=marker, edgecolors="white", linewidths=2, zorder=4)
            text = {"ha": "right", "va": "center", "fontsize": 27, "fontweight": "bold", "annotation_clip": False}
            axes.annotate(f"{value:.0f} %", (122, y), color=colour, **text)
    axes.set_yticks(-np.arange(len(CHANCE)), list(CHANCE), color=INK)
    axes.set(xlim=(0, 122), ylim=(-len(CHANCE) + 0.45, 0.55), xticks=[0, 25, 50, 75, 100])
    axes.set_xlabel("pieces in which it is recognised, %")
    axes.grid(False, axis="y")
    for _, name, (colour, marker) in sources:
        axes.scatter([], [], s=480, color=colour, marker=marker, label=name)
    axes.plot([], [], **dots, label="chance")
    figure.legend(loc="outside upper left", ncols=3, borderaxespad=0, columnspacing=1.2, handlelength=1.2)
