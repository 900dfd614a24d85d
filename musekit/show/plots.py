"""One function a figure: arrays in, a matplotlib Figure out, in the house style (`style`).

Every function takes `caption`, which states the finding, and `stamp`, the small print that says where its numbers
come from. Pictures of sound are in `pictures` and can be called from here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from musekit.show.pictures import contact_sheet, latents, spectrogram
from musekit.show.style import GRID, HEAT, INK, MARKERS, MUTED, PALETTE, SIGNED, finish, new_figure, plain, styled

__all__ = [
    "GRID", "HEAT", "INK", "MARKERS", "MUTED", "PALETTE", "SIGNED", "finish", "new_figure", "plain", "styled",
    "bars", "contact_sheet", "latents", "loss_curves", "pairs", "panels", "scatter", "spectrogram", "sweep",
    "trajectories", "written_and_heard",
]  # fmt: skip


def _levels(axes, levels: Mapping[str, float] | None) -> None:
    """A dashed line at each level, named in the right margin, where no data is."""
    for name, level in (levels or {}).items():
        axes.axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.5)
        place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 11, "color": MUTED}
        axes.annotate(name, (1.01, level), **place)


@styled
def loss_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    floors: Mapping[str, float] | None = None,
    ylabel="loss", xlabel="training samples", log=False, title="", caption="", stamp="",
):  # fmt: skip
    """Each {name: (samples, loss)} as a line, each {name: level} as a dashed line named at its end."""
    figure = new_figure(8, 4.5, title)
    axes = figure.add_subplot()
    for i, (name, (samples, loss)) in enumerate(curves.items()):
        axes.plot(samples, loss, color=PALETTE[i % 8], label=name)
    _levels(axes, floors)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    if len(curves) > 1:
        axes.legend()
    return finish(figure, caption, stamp)


@styled
def bars(
    labels: Sequence[str],
    groups: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    ylabel="", ylim=None, levels: Mapping[str, float] | None = None, number="{:.2f}", title="", caption="", stamp="",
):  # fmt: skip
    """Bars with intervals: {group: (values, lows, highs)}, one value a label; NaN leaves a gap. levels: named lines."""
    figure = new_figure(max(6.0, 1.1 + 0.62 * len(labels) * max(1.6, len(groups))), 4.5, title)
    axes = figure.add_subplot()
    x, width = np.arange(len(labels)), 0.8 / len(groups)
    for i, (name, (values, lows, highs)) in enumerate(groups.items()):
        values, lows, highs = (np.asarray(v, dtype=float) for v in (values, lows, highs))
        at = x + (i - (len(groups) - 1) / 2) * width
        axes.bar(at, values, 0.92 * width, color=PALETTE[i % 8], label=name)
        spread = np.stack([values - lows, highs - values]).clip(min=0)
        axes.errorbar(at, values, spread, fmt="none", ecolor=INK, elinewidth=1.5, capsize=4)
        for a, value, high in zip(at, values, np.fmax(highs, values), strict=True):
            if np.isfinite(value):
                text, place = number.format(value), (0, 4)
                axes.annotate(text, (a, high), place, textcoords="offset points", ha="center", fontsize=10)
    _levels(axes, levels)
    axes.set_xticks(x, labels)
    axes.set(ylabel=ylabel, ylim=ylim)
    axes.grid(False, axis="x")
    if len(groups) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(groups), borderaxespad=0.2)
    return finish(figure, caption, stamp)


@styled
def trajectories(
    paths: np.ndarray,
    data: np.ndarray | None = None,
    field: tuple[np.ndarray, np.ndarray] | None = None,
    labels: Sequence[int] | None = None, title="", caption="", stamp="",
):  # fmt: skip
    """Samples of a 2-D flow on their way: paths (n, steps + 1, 2) from noise (rings) to data (dots).

    data (m, 2) lies behind in grey; field = (places (k, 2), velocities (k, 2)) as arrows; labels (n,) colour the rows.
    """
    figure = new_figure(6.2, 6.0, title)
    axes = figure.add_subplot()
    if data is not None:
        axes.scatter(*np.asarray(data).T, s=10, color=MUTED, alpha=0.25, linewidths=0, label="data", zorder=1)
    if field is not None:
        places, velocities = (np.asarray(v) for v in field)
        axes.quiver(*places.T, *velocities.T, color=MUTED, alpha=0.5, width=0.003, angles="xy", zorder=1)
    paths = np.asarray(paths)
    labels = np.zeros(len(paths), int) if labels is None else np.asarray(labels)
    for label in np.unique(labels):
        colour, rows = PALETTE[int(label) % 8], paths[labels == label]
        for row in rows:
            axes.plot(*row.T, color=colour, linewidth=0.9, alpha=0.45, zorder=2)
        axes.scatter(*rows[:, 0].T, s=22, facecolors="none", edgecolors=colour, linewidths=1.1, zorder=3)
        axes.scatter(*rows[:, -1].T, s=26, color=colour, linewidths=0, zorder=4)
    axes.plot([], [], "o", color=INK, fillstyle="none", label="noise, t = 0")
    axes.plot([], [], "o", color=INK, label="sample, t = 1")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.06), ncols=3, borderaxespad=0, columnspacing=1.2)
    return finish(figure, caption, stamp)


@styled
def scatter(
    groups: Mapping[str, np.ndarray],
    background: np.ndarray | None = None,
    marked: Mapping[str, np.ndarray] | None = None, xlabel="", ylabel="", title="", caption="", stamp="",
):  # fmt: skip
    """Points in two dimensions, such as projected embeddings: {group: (n, 2)} before a grey background (m, 2).

    Groups differ in colour and in marker. marked: {name: (2,) or (k, 2)} large crosses, for single answers and means.
    """
    figure = new_figure(7.6, 5.6, title)
    axes = figure.add_subplot()
    if background is not None:
        axes.scatter(*np.asarray(background).T, s=7, color=MUTED, alpha=0.22, linewidths=0, zorder=1)
    for i, (name, points) in enumerate(groups.items()):
        axes.scatter(
            *np.asarray(points).reshape(-1, 2).T, s=30, color=PALETTE[i % 8], marker=MARKERS[i % 8], alpha=0.85,
            edgecolors="white", linewidths=0.4, label=name, zorder=2,
        )  # fmt: skip
    for i, (name, points) in enumerate((marked or {}).items()):
        at = np.asarray(points).reshape(-1, 2).T
        axes.scatter(
            *at, s=190, color=INK, marker="X*P"[i % 3], edgecolors="white", linewidths=1.2, label=name, zorder=3
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, xticks=[], yticks=[])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return finish(figure, caption, stamp)


@styled
def sweep(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    levels: Mapping[str, float] | None = None, xlabel="", ylabel="", logx=False, logy=False, ylim=None, title="",
    caption="", stamp="",
):  # fmt: skip
    """What was measured at each setting: {name: (settings, values)} as marked lines; levels: named horizontal lines."""
    figure = new_figure(8, 4.5, title)
    axes = figure.add_subplot()
    for i, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, color=PALETTE[i % 8], marker=MARKERS[i % 8], markersize=6, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if logx:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    if logy:
        axes.set_yscale("log")
    if ylim is not None:  # set_ylim(None) would freeze the limits
        axes.set_ylim(ylim)
    _levels(axes, levels)
    if len(curves) > 1:
        axes.legend(loc="best")
    return finish(figure, caption, stamp)


@styled
def pairs(
    rows: Sequence[tuple[str, float, float]],
    names: tuple[str, str], xlabel="", xlim=None, title="", caption="", stamp="",
):  # fmt: skip
    """Two values a row joined by a line, (label, first, second): which of the two is larger, row by row."""
    figure = new_figure(8, 1.6 + 0.3 * len(rows), title)
    axes = figure.add_subplot()
    y = np.arange(len(rows))[::-1]
    first, second = (np.array([row[k] for row in rows], dtype=float) for k in (1, 2))
    axes.hlines(y, first, second, color=GRID, linewidth=3, zorder=1)
    for i, values in enumerate((first, second)):
        axes.scatter(values, y, s=55, color=PALETTE[i], marker=MARKERS[i], label=names[i], zorder=2)
    axes.set_yticks(y, [plain(row[0], 48) for row in rows])
    axes.set(xlabel=xlabel, **({} if xlim is None else {"xlim": xlim}))
    axes.grid(False, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    return finish(figure, caption, stamp)


@styled
def panels(
    images: Mapping[str, np.ndarray], extent=None, xlabel="", ylabel="", cmap=HEAT, title="", caption="", stamp=""
):
    """Pictures (rows, columns) of one quantity side by side under one colour scale, first row at the bottom."""
    figure = new_figure(3.6 * len(images) + 0.8, 3.8, title)
    most = max(float(np.quantile(image, 0.999)) for image in images.values())
    axes = figure.subplots(1, len(images), sharey=True, squeeze=False)[0]
    for place, (name, image) in zip(axes, images.items(), strict=True):
        shown = place.imshow(
            np.asarray(image), origin="lower", aspect="auto", cmap=cmap, vmin=0, vmax=most, extent=extent
        )
        place.set_title(name)
        place.set_xlabel(xlabel)
        place.grid(False)
    axes[0].set_ylabel(ylabel)
    figure.colorbar(shown, ax=axes, shrink=0.9)
    return finish(figure, caption, stamp)


@styled
def written_and_heard(
    notes: Sequence[Sequence[float]], audio: np.ndarray, sample_rate: int, title="", caption="", stamp=""
):
    """The spectrogram of audio (C, N), and every written note [onset_s, duration_s, midi pitch, ...] as a line."""
    low, high = 55.0, 7040.0  # Hz
    figure = spectrogram(audio, sample_rate, title, caption, stamp, low=low, high=high)
    axes = figure.axes[0]
    row = [48 * np.log2(440 * 2 ** ((note[2] - 69) / 12) / low) for note in notes]
    axes.hlines(row, [n[0] for n in notes], [n[0] + n[1] for n in notes], color=PALETTE[4], linewidth=1.6)
    axes.set_xlim(0, np.atleast_2d(audio).shape[1] / sample_rate)
    return figure
