"""The house style of every figure: colours, fonts, captions (see `house.mplstyle`).

Figures are made without pyplot: they need no screen, leave nothing open and change no global setting.
"""

import functools
import textwrap
from collections.abc import Callable
from pathlib import Path

# Okabe and Ito's palette: readable with every common colour blindness, and in grey by its order
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, MUTED, GRID = "#1B1F24", "#6B7280", "#E5E7EB"
HEAT, SIGNED = "magma", "RdBu_r"  # colour maps: for energies, and for values around zero
# Colour and marker wherever these three are compared: real music, MUSE's samples, the regression baseline
REAL, SAMPLED, AVERAGED = (PALETTE[2], "o"), (PALETTE[0], "^"), (PALETTE[5], "X")
HOUSE = Path(__file__).with_name("house.mplstyle")


def styled(call: Callable, *more: Path | dict) -> Callable:
    """`call`, run under the house style and `more`, whatever the caller's rcParams are; those stay as they were."""

    @functools.wraps(call)
    def wrapper(*args, **kwargs):
        from matplotlib import style

        with style.context([HOUSE, *more], after_reset=True):
            return call(*args, **kwargs)

    return wrapper


def drawn(width: float, height: float) -> Callable:
    """Make `draw(figure, ...)` a function that returns the Figure of this size in inches.

    The function also takes `title`, `caption`, which states the finding, and `stamp`, the source of the numbers.
    """

    def decorate(draw: Callable) -> Callable:
        @styled
        @functools.wraps(draw)
        def wrapper(*args, title: str = "", caption: str = "", stamp: str = "", **kwargs):
            from matplotlib.figure import Figure

            figure = Figure(figsize=(width, height), layout="constrained")
            draw(figure, *args, **kwargs)
            if title:
                figure.suptitle(title, x=0.01, ha="left", fontsize=15, fontweight="bold")
            columns = int(figure.get_figwidth() * 11.5)
            below(figure, *textwrap.wrap(caption, columns), *textwrap.wrap(stamp, columns))
            return figure

        return wrapper

    return decorate


def below(figure, *lines: str) -> None:
    """Add lines of small print below the figure."""
    text = "\n".join(filter(None, [figure.get_supxlabel(), *lines]))
    if text:
        figure.supxlabel(text, x=0.01, ha="left", fontsize=11, color=MUTED)


def plain(text: str, length: int = 60) -> str:
    """A user's text for a figure: cut to `length`, `$` taken literally, letters without a glyph shown as squares."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    text = text if len(text) <= length else text[: length - 3].rstrip() + "..."
    shown = "".join(c if font.get_char_index(ord(c)) else "\u25a1" for c in text)
    return shown.replace("$", r"\$")
