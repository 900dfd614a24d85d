"""The house style of every figure: colours, letters, captions.

Figures are made without pyplot, so they need no screen, leave nothing open and change no global setting.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable

# Okabe & Ito's palette: tellable apart with every common colour blindness, and in grey by its order
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, MUTED, GRID = "#1B1F24", "#6B7280", "#E5E7EB"
HEAT, SIGNED = "magma", "RdBu_r"  # colour maps: energies, and values around zero
DPI = 110
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 12,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 2.0,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
}

# What a colour stands for wherever the three are compared, and its marker: real music, MUSE's samples, regression
REAL, SAMPLED, AVERAGED = (PALETTE[2], "o"), (PALETTE[0], "^"), (PALETTE[5], "X")
# The house style for a sheet that is read from two metres: at true size no letter is under 24 pt
SHEET = {
    **STYLE,
    "font.size": 26,
    "axes.titlesize": 28,
    "axes.labelsize": 26,
    "axes.linewidth": 2.0,
    "axes.labelpad": 8,
    "grid.linewidth": 1.6,
    "xtick.labelsize": 25,
    "ytick.labelsize": 25,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 8,
    "ytick.major.pad": 8,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.fontsize": 26,
    "lines.linewidth": 5.0,
    "lines.markersize": 16,
}


def styled(draw: Callable) -> Callable:
    """Draw under the house style, whatever the caller's rcParams are, and leave those as they were."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        from matplotlib import rc_context, rcParamsDefault

        quiet = {key: rcParamsDefault[key] for key in rcParamsDefault if not key.startswith(("backend", "webagg"))}
        with rc_context({**quiet, **STYLE}):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float = 8.0, height: float = 4.5, title: str = ""):
    """An empty Figure of that size in inches, laid out so that nothing overlaps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=15, fontweight="bold")
    return figure


def finish(figure, caption: str = "", stamp: str = ""):
    """Set caption and stamp below the figure, wrapped to its width; returns the figure."""
    columns = int(figure.get_figwidth() * 11.5)
    lines = textwrap.wrap(caption, columns) + textwrap.wrap(stamp, columns)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=11, color=MUTED)
    return figure


def plain(text: str, length: int = 60) -> str:
    """A person's text for a figure: cut, `$` taken literally, letters that the font does not have as squares."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    text = text if len(text) <= length else text[: length - 3].rstrip() + "..."
    shown = "".join(c if font.get_char_index(ord(c)) else "\u25a1" for c in text)
    return shown.replace("$", r"\$")
