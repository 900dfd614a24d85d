"""Pictures of sound: waveform, mel and log-frequency spectrograms, latents. Arrays in, a matplotlib Figure out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musekit.show.style import HEAT, PALETTE, SIGNED, finish, new_figure, styled


def mel_filters(bands: int, n_fft: int, sample_rate: int, top: float = 12000.0) -> np.ndarray:
    """Triangles evenly spaced on the mel scale, 2595 log10(1 + f / 700 Hz), from 40 Hz: (bands, n_fft / 2 + 1)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (40.0, min(top, sample_rate / 2)))
    edges = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    hz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    width = np.maximum(edges[1:] - edges[:-1], sample_rate / n_fft)  # at least one bin wide: no empty band
    rise = 1 - (edges[1:-1, None] - hz) / width[:-1, None]
    fall = 1 - (hz - edges[1:-1, None]) / width[1:, None]
    return np.clip(np.minimum(rise, fall), 0, None)


def magnitudes(audio: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """|STFT| of audio (C, N) or (N,), the channels' mean power, in amplitudes: (n_fft / 2 + 1, T)."""
    audio = np.atleast_2d(np.asarray(audio, dtype=np.float32))
    frames = max(1, -(-audio.shape[1] // hop))
    padded = np.pad(audio, ((0, 0), (n_fft // 2, n_fft + frames * hop - audio.shape[1])))
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=1)[:, : frames * hop : hop]
    power = sum(np.abs(np.fft.rfft(channel * window)) ** 2 for channel in blocks) / len(blocks)
    return (np.sqrt(power) / (n_fft / 4)).T


def decibels(x: np.ndarray, floor: float = -80.0) -> np.ndarray:
    """20 log10 x, not below `floor` dB under 1."""
    return 20 * np.log10(np.maximum(x, 10 ** (floor / 20)))


def _mel(axes, audio: np.ndarray, sample_rate: int, bands: int = 96) -> None:
    n_fft = 4096 if sample_rate > 30000 else 2048
    hop = max(n_fft // 8, audio.shape[-1] // 900)
    mel = decibels(np.sqrt(mel_filters(bands, n_fft, sample_rate) @ magnitudes(audio, n_fft, hop) ** 2))
    top = max(mel.max(), -60.0)
    axes.imshow(
        mel, origin="lower", aspect="auto", cmap=HEAT, vmin=top - 60, vmax=top, interpolation="nearest",
        extent=(0, audio.shape[-1] / sample_rate, 0, bands),
    )  # fmt: skip
    axes.set(yticks=[], xlabel="")
    axes.grid(False)


def _waveform(axes, audio: np.ndarray, sample_rate: int, columns: int = 600) -> None:
    """The outline (least and greatest value a column), which is what the eye sees of many samples."""
    mono = np.atleast_2d(audio).mean(0)
    step = max(1, len(mono) // columns)
    blocks = mono[: len(mono) // step * step].reshape(-1, step)
    t = np.arange(len(blocks)) * step / sample_rate
    axes.fill_between(t, blocks.min(1), blocks.max(1) + 1e-4, color=PALETTE[0], linewidth=0)
    peak = max(float(np.abs(mono).max()), 1e-3)
    axes.set(xlim=(0, len(mono) / sample_rate), ylim=(-peak, peak), yticks=[])
    axes.tick_params(labelbottom=False, bottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)


@styled
def contact_sheet(clips: Sequence[tuple[str, np.ndarray]], sample_rate: int, title="", caption="", stamp=""):
    """Waveform above mel spectrogram of each (label, audio (C, N)): what notes and rhythm a batch of pieces has.

    Each mel picture spans 60 dB below its own peak, 40 Hz to 12 kHz.
    """
    n = len(clips)
    columns = next(c for c in (1, 2, 3, 4) if n <= (1, 4, 9, 16)[c - 1] or c == 4)
    rows = -(-n // columns)
    width = {1: 9.0, 2: 6.0, 3: 4.6, 4: 3.9}[columns] * columns
    figure = new_figure(width, 2.5 * rows + 0.9, title)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[1, 3] * rows)
    for i, (label, audio) in enumerate(clips):
        row, column = divmod(i, columns)
        above, below = figure.add_subplot(grid[2 * row, column]), figure.add_subplot(grid[2 * row + 1, column])
        above.set_title(label)
        _waveform(above, np.asarray(audio), sample_rate)
        _mel(below, np.asarray(audio), sample_rate)
        if row == rows - 1 or i + columns >= n:
            below.set_xlabel("seconds")
        else:
            below.tick_params(labelbottom=False)
    return finish(figure, caption, stamp)


@styled
def spectrogram(audio: np.ndarray, sample_rate: int, title="", caption="", stamp="", low=55.0, high=7040.0):
    """Level over time and log frequency, octaves of A marked: notes are lines, chords are ladders."""
    n_fft, audio = 8192, np.atleast_2d(audio)
    hop = max(512, audio.shape[1] // 1200)
    m = magnitudes(audio, n_fft, hop)
    rows = int(48 * np.log2(high / low))
    hz = low * 2 ** (np.arange(rows) / 48)
    bins = np.arange(m.shape[0]) * sample_rate / n_fft
    picture = decibels(np.stack([np.interp(hz, bins, frame) for frame in m.T], axis=1))
    top = max(picture.max(), -60.0)
    figure = new_figure(9, 4.5, title)
    axes = figure.add_subplot()
    extent = (0, audio.shape[1] / sample_rate, 0, rows)
    image = axes.imshow(picture, origin="lower", aspect="auto", cmap=HEAT, vmin=top - 60, vmax=top, extent=extent)
    octaves = np.arange(0, rows + 1, 48)
    axes.set_yticks(octaves, [f"{low * 2 ** (o / 48):,.0f}" for o in octaves])
    axes.set(xlabel="seconds", ylabel="Hz")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="dB", shrink=0.9)
    return finish(figure, caption, stamp)


@styled
def latents(z: np.ndarray, seconds: float, title="", caption="", stamp=""):
    """Latents (C, T): one row a channel, one column a latent frame, colours symmetric about zero."""
    z = np.asarray(z)
    most = float(np.quantile(np.abs(z), 0.995)) or 1.0
    figure = new_figure(9, 3.6, title)
    axes = figure.add_subplot()
    extent = (0, seconds, len(z), 0)
    image = axes.imshow(z, aspect="auto", cmap=SIGNED, vmin=-most, vmax=most, extent=extent, interpolation="nearest")
    axes.set(xlabel="seconds", ylabel="channel")
    axes.grid(False)
    figure.colorbar(image, ax=axes, shrink=0.9)
    return finish(figure, caption, stamp)
