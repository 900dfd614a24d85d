"""Four answers to one prompt, as pictures of their sound."""

import base64
import io

import numpy as np

from musekit.show.style import HEAT, INK, MUTED, SAMPLED
from poster.sheet import rows

INPUTS = ("results/gallery.json",)
SIZE = (205, 283)
ALT = "Four log-frequency spectrograms: four different pieces for one prompt, by different instruments."


def picture(data: str) -> np.ndarray:
    """A picture of the gallery, (rows, columns) of 0 to 1."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) / 255


def draw(read, figure):
    """One above the other, numbered as on the map."""
    pieces = rows(read("results/gallery.json"), measure="piece")
    grid = figure.subplots(len(pieces), 1, sharex=True)
    for i, (axes, piece) in enumerate(zip(grid, pieces, strict=True)):
        extent = (0, piece["seconds"], 0, piece["octaves"])
        axes.imshow(picture(piece["png"]), origin="lower", aspect="auto", cmap=HEAT, vmin=0, vmax=1, extent=extent)
        axes.set_title(f"seed {piece['seed']}: {piece['nearest']}", fontsize=27, fontweight="normal", color=INK, pad=8)
        axes.text(
            0.012, 0.93, str(i + 1), transform=axes.transAxes, ha="left", va="top", fontsize=28, fontweight="bold",
            color=SAMPLED[0], bbox={"boxstyle": "circle,pad=0.25", "facecolor": "white", "linewidth": 0},
        )  # fmt: skip
        axes.set(yticks=[0, piece["octaves"]], yticklabels=["C2", f"C{2 + piece['octaves']}"])
        axes.tick_params(axis="y", colors=MUTED)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    grid[-1].set(xticks=[0, 4, 8, 12], xlabel="seconds")
