"""Small multiples and sweeps for the notebooks, and figures as pictures small enough to commit.

Like `plots`: arrays in, a matplotlib Figure out, the caption states the finding.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np

from musekit.show.pictures import decibels, magnitudes
from musekit.show.style import HEAT, MARKERS, MUTED, PALETTE, SIGNED, finish, new_figure, plain, styled


class Picture:
    """A figure as a PNG of few colours; the last value of a cell shows it. A quarter of matplotlib's own size.

    command: what draws a notebook's figures again; where a notebook sets it, each of them has it printed below.
    """

    command = ""

    def __init__(self, figure, alt: str = "", dpi: int = 72, colours: int = 32):
        from PIL import Image

        if self.command:
            below = "\n".join(filter(None, [figure.get_supxlabel(), self.command]))
            figure.supxlabel(below, x=0.01, ha="left", fontsize=11, color=MUTED)
        raw, small = io.BytesIO(), io.BytesIO()
        figure.savefig(raw, format="png", dpi=dpi)
        image = Image.open(raw).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        image.save(small, format="PNG", optimize=True)
        self.png, self.alt = small.getvalue(), alt or figure.get_suptitle()

    def _repr_mimebundle_(self, **options) -> dict[str, str]:
        return {"image/png": base64.b64encode(self.png).decode("ascii"), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Picture({self.alt!r}, {len(self.png) / 1000:.0f} kB)"


def log_frequency(audio, sample_rate: int, low: float = 65.4, octaves: int = 6, rows: int = 16) -> np.ndarray:
    """Level in dB of audio (C, N), `rows` an octave from `low` Hz (C2): (octaves * rows, T), 50 dB below its peak.

    In steps of 4 dB, which the eye hardly sees and which make the picture half as large.
    """
    audio = np.atleast_2d(np.asarray(audio, dtype=np.float32))
    n_fft, hop = 8192, max(1024, audio.shape[1] // 110)
    m = magnitudes(audio, n_fft, hop)
    hz = low * 2 ** (np.arange(octaves * rows) / rows)
    bins = np.arange(m.shape[0]) * sample_rate / n_fft
    picture = decibels(np.stack([np.interp(hz, bins, frame) for frame in m.T], axis=1))
    top = max(float(picture.max()), -60.0)
    return 4 * np.round(np.clip(picture - top, -50, 0) / 4)


def _notes(axes, audio, sample_rate: int, low: float, octaves: int, first: bool) -> None:
    """One log-frequency picture, octaves of C marked, named only in the first column."""
    picture = log_frequency(audio, sample_rate, low, octaves)
    extent = (0, np.shape(audio)[-1] / sample_rate, 0, octaves)
    axes.imshow(
        picture, origin="lower", aspect="auto", cmap=HEAT, vmin=-50, vmax=0, extent=extent, interpolation="nearest"
    )
    axes.set_yticks(range(octaves + 1), [f"C{2 + i}" for i in range(octaves + 1)] if first else [])
    axes.grid(False)


@styled
def strip(
    clips: Sequence[tuple[str, np.ndarray]], sample_rate: int, columns: int = 4, title="", caption="", stamp="",
    low: float = 65.4, octaves: int = 6,
):  # fmt: skip
    """Log-frequency spectrograms side by side, (label, audio (C, N)) each: notes are lines, beats are edges.

    Every picture spans 50 dB below its own peak.
    """
    columns = min(columns, len(clips))
    rows = -(-len(clips) // columns)
    figure = new_figure(11, 2.15 * rows + 0.9, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(clips) :]:
        axes.set_visible(False)
    for i, ((label, audio), axes) in enumerate(zip(clips, grid.flat)):
        _notes(axes, audio, sample_rate, low, octaves, first=i % columns == 0)
        axes.set_title(plain(label, 124 // columns), fontsize=10, fontweight="normal")
        if i + columns >= len(clips):
            axes.set_xlabel("seconds")
        else:
            axes.tick_params(labelbottom=False)
    return finish(figure, caption, stamp)


@styled
def moments(
    states: Sequence[tuple[str, np.ndarray, np.ndarray]], sample_rate: int, title="", caption="", stamp="",
    low: float = 65.4, octaves: int = 6,
):  # fmt: skip
    """Latents above, their sound below, at several moments: (label, latents (C, T), audio (2, N)) each.

    Latents share one colour scale, symmetric about zero; every second channel and frame is drawn.
    """
    figure = new_figure(11, 4.6, title)
    grid = figure.subplots(2, len(states), squeeze=False, height_ratios=[1, 1.5])
    most = max(float(np.quantile(np.abs(z), 0.99)) for _, z, _ in states) or 1.0
    for i, (label, z, audio) in enumerate(states):
        z = np.asarray(z)[::2, ::2]
        above, below = grid[0, i], grid[1, i]
        extent = (0, np.shape(audio)[-1] / sample_rate, len(z), 0)
        z = np.round(4 * np.clip(z / most, -1, 1)) / 4 * most  # few colours: a small file
        above.imshow(z, aspect="auto", cmap=SIGNED, vmin=-most, vmax=most, extent=extent, interpolation="nearest")
        above.set(xticks=[], yticks=[])
        above.set_title(plain(label, 30), fontsize=11)
        above.grid(False)
        _notes(below, audio, sample_rate, low, octaves, first=i == 0)
        below.set_xlabel("seconds")
    grid[0, 0].set_ylabel("latent channel")
    return finish(figure, caption, stamp)


@styled
def measures(
    panels: Sequence[tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]],
    xlabel="", log: str = "", levels: Mapping[str, float] | None = None, title="", caption="", stamp="",
):  # fmt: skip
    """Measures against one knob: a panel each (ylabel, {name: (x, y)}), points joined; y may be (m, k): k runs.

    Runs are drawn as faint points behind their mean. log: "", "x", "y" or "xy". levels: dashed lines in the last panel.
    """
    figure = new_figure(8.0 if len(panels) == 1 else 5.4 * len(panels), 3.9, title)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (ylabel, curves) in zip(grid, panels):
        for i, (name, (x, y)) in enumerate(curves.items()):
            y = np.asarray(y, dtype=float).reshape(len(x), -1)
            colour, marker = PALETTE[i % 8], MARKERS[i % 8]
            if y.shape[1] > 1:
                axes.plot(x, y, marker, color=colour, alpha=0.3, markersize=4)
            axes.plot(x, y.mean(1), marker=marker, color=colour, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if "x" in log else "linear")
        axes.set_yscale("log" if "y" in log else "linear")
        ticks = sorted({value for x, _ in curves.values() for value in x})
        axes.set_xticks(ticks, [f"{value:.3g}" for value in ticks])
        axes.minorticks_off()
        if len(curves) > 1:
            axes.legend()
    for name, level in (levels or {}).items():
        grid[-1].axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.5)
        grid[-1].annotate(
            name, (1, level), (-4, 4), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            color=MUTED, fontsize=11,
        )  # fmt: skip
    return finish(figure, caption, stamp)
