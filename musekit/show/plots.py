"""Charts of numbers, one function each: arrays in, a matplotlib Figure in the house style out.

Every function also takes `title`, `caption` and `stamp` (see `style.drawn`).
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np

from musekit.show.style import GRID, HEAT, INK, MARKERS, MUTED, PALETTE, SIGNED, below, drawn, plain

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


class Picture:
    """A figure as a PNG of few colours, a quarter of matplotlib's size; the last value of a cell shows it.

    `command` says how to draw a notebook's figures again. A notebook that sets it has it printed below each figure.
    """

    command = ""

    def __init__(self, figure, colours: int = 32):
        from PIL import Image

        below(figure, self.command)
        full, small = io.BytesIO(), io.BytesIO()
        figure.savefig(full, format="png", dpi=72)
        image = Image.open(full).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        image.save(small, format="PNG", optimize=True)
        self.png, self.alt = small.getvalue(), figure.get_suptitle()

    def _repr_mimebundle_(self, **options) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        data = {"image/png": base64.b64encode(self.png).decode("ascii"), "text/plain": repr(self)}
        return data, {"image/png": {"alt": self.alt}}  # read aloud on a page

    def __repr__(self) -> str:
        return f"Picture({self.alt!r}, {len(self.png) / 1000:.0f} kB)"


class Moving(Picture):
    """Figures of one size as a GIF that runs again and again, the last one longest; plays without a kernel."""

    def __init__(self, figures: Sequence, milliseconds: int = 120, colours: int = 12):
        from PIL import Image

        frames = []
        for figure in figures:
            full = io.BytesIO()
            figure.savefig(full, format="png", dpi=56)
            frames.append(Image.open(full).convert("RGB").quantize(colours, dither=Image.Dither.NONE))
        times, data = [milliseconds] * (len(frames) - 1) + [20 * milliseconds], io.BytesIO()
        frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
        self.png, self.alt = data.getvalue(), figures[-1].get_suptitle()

    def _repr_mimebundle_(self, **options) -> tuple[dict[str, str], dict]:
        source = f"data:image/gif;base64,{base64.b64encode(self.png).decode('ascii')}"
        return {"text/html": f'<img alt="{html.escape(self.alt)}" src="{source}">', "text/plain": repr(self)}, {}


@drawn(8, 4.5)
def sweep(
    figure, curves: Curves, levels: Mapping[str, float] | None = None, xlabel="", ylabel="", log="", ylim=None,
    marks=True,
):  # fmt: skip
    """Measured values at each setting: {name: (x, y)}; y may be (m, k), k runs drawn as faint points and their mean.

    levels: named horizontal lines. log: "", "x", "y" or "xy". marks: False for curves of very many points.
    """
    axes = figure.add_subplot()
    for i, (name, (x, y)) in enumerate(curves.items()):
        y = np.asarray(y, dtype=float).reshape(len(x), -1)
        look = {"color": PALETTE[i % 8], "marker": MARKERS[i % 8] if marks else None}
        if y.shape[1] > 1:
            axes.plot(x, y, **look, linestyle="none", alpha=0.3, markersize=4)
        axes.plot(x, y.mean(1), **look, label=name)
    for name, level in (levels or {}).items():
        axes.axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.5)
        place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 11, "color": MUTED}
        axes.annotate(name, (1.01, level), **place)
    axes.set(xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel, **({} if ylim is None else {"ylim": ylim}))
    if len(curves) > 1:
        axes.legend()


@drawn(8, 4.5)
def bars(figure, labels: Sequence[str], groups: Mapping[str, tuple], ylabel="", number="{:.2f}"):
    """Bars with intervals: {group: (values, lows, highs)}, one value per label.

    NaN leaves a gap; an interval that is NaN or a single point is not drawn.
    """
    figure.set_size_inches(max(6.0, 1.1 + 0.62 * len(labels) * max(1.6, len(groups))), 4.5)
    axes = figure.add_subplot()
    x, width = np.arange(len(labels)), 0.8 / len(groups)
    for i, (name, group) in enumerate(groups.items()):
        values, lows, highs = (np.asarray(v, dtype=float) for v in group)
        at = x + (i - (len(groups) - 1) / 2) * width
        axes.bar(at, values, 0.92 * width, color=PALETTE[i % 8], label=name)
        known = highs > lows  # not where either is NaN
        spread = np.stack([values - lows, highs - values])[:, known]
        axes.errorbar(at[known], values[known], spread, fmt="none", ecolor=INK, elinewidth=1.5, capsize=4)
        for a, value, high in zip(at, values, np.fmax(highs, values), strict=True):
            if np.isfinite(value):
                place = {"textcoords": "offset points", "ha": "center", "fontsize": 10}
                axes.annotate(number.format(value), (a, high), (0, 4), **place)
    axes.margins(y=0.1)  # room for the numbers
    axes.set_xticks(x, labels)
    axes.set(ylabel=ylabel)
    axes.grid(False, axis="x")
    if len(groups) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(groups), borderaxespad=0.2)


@drawn(6.2, 6.0)
def trajectories(figure, paths: np.ndarray, data: np.ndarray, field: tuple, labels: Sequence[int]):
    """Samples of a 2-D flow: paths (n, steps + 1, 2) from noise (rings) to data (dots), coloured by labels (n,).

    data (m, 2) lies behind in grey; field = (places (k, 2), velocities (k, 2)) is drawn as arrows.
    """
    axes = figure.add_subplot()
    axes.scatter(*np.asarray(data).T, s=10, color=MUTED, alpha=0.25, linewidths=0, label="data", zorder=1)
    places, velocities = (np.asarray(v) for v in field)
    axes.quiver(*places.T, *velocities.T, color=MUTED, alpha=0.5, width=0.003, angles="xy", zorder=1)
    paths, labels = np.asarray(paths), np.asarray(labels)
    for label in np.unique(labels):
        colour, own = PALETTE[int(label) % 8], paths[labels == label]
        axes.plot(own[..., 0].T, own[..., 1].T, color=colour, linewidth=0.9, alpha=0.45, zorder=2)
        axes.scatter(*own[:, 0].T, s=22, facecolors="none", edgecolors=colour, linewidths=1.1, zorder=3)
        axes.scatter(*own[:, -1].T, s=26, color=colour, linewidths=0, zorder=4)
    axes.plot([], [], "o", color=INK, fillstyle="none", label="noise, t = 0")
    axes.plot([], [], "o", color=INK, label="sample, t = 1")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.06), ncols=3, borderaxespad=0, columnspacing=1.2)


@drawn(7.6, 5.6)
def scatter(
    figure, groups: Mapping[str, np.ndarray], background=None, marked: Mapping | None = None, xlabel="", ylabel=""
):
    """Points in two dimensions, such as projected embeddings: {group: (n, 2)} before a grey background (m, 2).

    Groups differ in colour and in marker. marked: {name: (2,) or (k, 2)} large crosses, for single answers and means.
    """
    axes = figure.add_subplot()
    if background is not None:
        axes.scatter(*np.asarray(background).T, s=7, color=MUTED, alpha=0.22, linewidths=0, zorder=1)
    for i, (name, points) in enumerate(groups.items()):
        look = {"color": PALETTE[i % 8], "marker": MARKERS[i % 8], "alpha": 0.85, "edgecolors": "white"}
        axes.scatter(*np.asarray(points).reshape(-1, 2).T, s=30, linewidths=0.4, label=name, zorder=2, **look)
    for i, (name, points) in enumerate((marked or {}).items()):
        look = {"color": INK, "marker": "X*P"[i % 3], "edgecolors": "white"}
        axes.scatter(*np.asarray(points).reshape(-1, 2).T, s=190, linewidths=1.2, label=name, zorder=3, **look)
    axes.set(xlabel=xlabel, ylabel=ylabel, xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


@drawn(8, 6)
def pairs(figure, rows: Sequence[tuple[str, float, float]], names: tuple[str, str], xlabel="", xlim=None):
    """Two values per row joined by a line, (label, first, second), to see row by row which is larger."""
    figure.set_size_inches(8, 1.6 + 0.3 * len(rows))
    axes = figure.add_subplot()
    y = np.arange(len(rows))[::-1]
    values = np.array([row[1:] for row in rows], dtype=float).T
    axes.hlines(y, *values, color=GRID, linewidth=3, zorder=1)
    for i in range(2):
        axes.scatter(values[i], y, s=55, color=PALETTE[i], marker=MARKERS[i], label=names[i], zorder=2)
    axes.set_yticks(y, [plain(row[0], 48) for row in rows])
    axes.set(xlabel=xlabel, **({} if xlim is None else {"xlim": xlim}))
    axes.grid(False, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)


@drawn(9, 3.8)
def images(figure, arrays: Mapping[str, np.ndarray], extent=None, xlabel="", ylabel="", signed=False):
    """Arrays (rows, columns) of one quantity side by side under one colour scale, first row at the bottom.

    signed: colours are symmetric about zero.
    """
    most = max(float(np.quantile(np.abs(array), 0.999)) for array in arrays.values()) or 1.0
    grid = figure.subplots(1, len(arrays), sharey=True, squeeze=False)[0]
    look = {"cmap": SIGNED if signed else HEAT, "vmin": -most if signed else 0, "vmax": most}
    for axes, (name, array) in zip(grid, arrays.items(), strict=True):
        shown = axes.imshow(
            np.asarray(array), origin="lower", aspect="auto", extent=extent, interpolation="nearest", **look
        )
        axes.set_title(name)
        axes.set_xlabel(xlabel)
        axes.grid(False)
    grid[0].set_ylabel(ylabel)
    figure.colorbar(shown, ax=list(grid), shrink=0.9)


@drawn(7.4, 6.2)
def diagonal(figure, groups: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit="s", factor=2.0):
    """Predicted against measured, {name: (measured, predicted)}, on equal logarithmic axes; shaded: within a factor."""
    axes = figure.add_subplot()
    every = np.concatenate([np.ravel(values) for pair in groups.values() for values in pair])
    ends = np.array([0.5 * every.min(), 2 * every.max()])
    axes.fill_between(ends, ends / factor, ends * factor, color=MUTED, alpha=0.12, linewidth=0)
    axes.plot(ends, ends, color=INK, linewidth=1.5)
    for i, (name, (measured, predicted)) in enumerate(groups.items()):
        look = {"color": PALETTE[i % 8], "marker": MARKERS[i % 8], "edgecolors": "white", "linewidths": 0.5}
        axes.scatter(measured, predicted, s=44, label=name, zorder=3, **look)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", fontsize=10)


@drawn(10, 4.5)
def waterfall(figure, steps: Sequence[tuple[str, float, str]], unit="ms"):
    """What each step leaves of a time, (name, time, what it removes), on a logarithmic axis, the first on top."""
    figure.set_size_inches(10, 1.6 + 0.6 * len(steps))
    axes, y = figure.add_subplot(), -np.arange(len(steps))
    times = np.array([time for _, time, _ in steps], dtype=float)
    before, least = np.maximum(times, np.roll(times, 1)), times.min() / 2
    before[0] = times[0]
    axes.barh(y, times - least, 0.72, left=least, color=[MUTED] + [PALETTE[0]] * (len(steps) - 1))
    axes.barh(y, before - times, 0.72, left=times, color=PALETTE[1], alpha=0.4)
    for i, (_, time, removed) in enumerate(steps):
        text = f"÷ {times[i - 1] / time:.3g}  {removed}" if i else removed
        axes.annotate(text, (before[i], y[i]), (6, 0), textcoords="offset points", va="center", fontsize=10.5)
    axes.set_yticks(y, [f"{name}\n{time:,.{1 if time >= 10 else 2}f} {unit}" for name, time, _ in steps])
    decades = 10.0 ** np.arange(np.ceil(np.log10(least)), np.floor(np.log10(times.max())) + 1)
    axes.set(xscale="log", xlim=(least, times.max() * (times.max() / least) ** 1.4), xlabel=f"{unit} per sample")
    axes.set_xticks(decades, [f"{d:g}" for d in decades])
    axes.minorticks_off()
    axes.grid(False, axis="y")
