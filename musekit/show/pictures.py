"""Pictures of sound: waveforms and log-frequency spectrograms. Arrays in, a matplotlib Figure out."""

from collections.abc import Sequence

import numpy as np

from musekit.show.style import HEAT, PALETTE, drawn, plain


def magnitudes(audio, n_fft: int, hop: int) -> np.ndarray:
    """Amplitudes of audio (C, N) or (N,), averaged over the channels as power: (n_fft / 2 + 1, T)."""
    import torch

    audio = torch.as_tensor(np.atleast_2d(np.asarray(audio, dtype=np.float32)))
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(audio, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    return (spectrum.abs().square().mean(0).sqrt() / (n_fft / 4)).numpy()


def decibels(amplitudes: np.ndarray, floor: float = -80.0) -> np.ndarray:
    """20 log10 of amplitudes, not below `floor` dB."""
    return 20 * np.log10(np.maximum(amplitudes, 10 ** (floor / 20)))


def log_frequency(audio, sample_rate: int, low=65.4, octaves=6, per_octave=16, columns=110) -> np.ndarray:
    """Levels in dB of audio (C, N), `per_octave` rows per octave from `low` Hz: (octaves * per_octave, T).

    The lowest frequency comes first. T is about `columns`, fewer for short audio.
    """
    n_fft = 8192
    m = magnitudes(audio, n_fft, max(512, np.shape(audio)[-1] // columns))
    hz = low * 2 ** (np.arange(octaves * per_octave) / per_octave)
    bins = np.arange(len(m)) * sample_rate / n_fft
    return decibels(np.stack([np.interp(hz, bins, frame) for frame in m.T], axis=1))


def outline(audio, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value of the mono signal of audio (C, N) in at most `columns` equal blocks."""
    mono = np.atleast_2d(audio).mean(0)
    step = -(-len(mono) // columns)
    blocks = np.pad(mono, (0, -len(mono) % step)).reshape(-1, step)
    return blocks.min(1), blocks.max(1)


def _spectrogram(axes, audio, sample_rate: int, named: bool, **resolution) -> None:
    """Six octaves from C2 to 50 dB below the peak, the C's marked, and named if `named`.

    Levels are in steps of 4 dB, which the eye hardly sees and which halve the size of the file.
    """
    levels = 4 * np.round(log_frequency(audio, sample_rate, **resolution) / 4)
    top = max(float(levels.max()), -60.0)
    look = {"origin": "lower", "aspect": "auto", "cmap": HEAT, "interpolation": "nearest"}
    axes.imshow(levels, vmin=top - 50, vmax=top, extent=(0, np.shape(audio)[-1] / sample_rate, 0, 6), **look)
    axes.set_yticks(range(7), [f"C{2 + i}" for i in range(7)] if named else [])
    axes.grid(False)


def _waveform(axes, audio, seconds: float) -> None:
    low, high = outline(audio, 600)
    peak = max(float(np.abs([low, high]).max()), 1e-3)
    axes.fill_between(np.linspace(0, seconds, len(low)), low, high + 1e-4, color=PALETTE[0], linewidth=0)
    axes.set(xlim=(0, seconds), ylim=(-peak, peak), yticks=[])
    axes.tick_params(labelbottom=False, bottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)


@drawn(9, 5)
def contact_sheet(figure, clips: Sequence[tuple[str, np.ndarray]], sample_rate: int):
    """Waveform above log-frequency spectrogram of each (label, audio (C, N)): a batch of pieces at a glance.

    Each spectrogram spans six octaves from C2 (65 Hz) and 50 dB below its own peak.
    """
    n = len(clips)
    columns = next(c for c in (1, 2, 3, 4) if n <= c * c or c == 4)
    rows = -(-n // columns)
    figure.set_size_inches({1: 9.0, 2: 12.0, 3: 13.8, 4: 15.6}[columns], 2.5 * rows + 0.9)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[1, 3] * rows)
    for i, (label, audio) in enumerate(clips):
        row, column = divmod(i, columns)
        above, below = figure.add_subplot(grid[2 * row, column]), figure.add_subplot(grid[2 * row + 1, column])
        seconds, lowest = np.shape(audio)[-1] / sample_rate, i + columns >= n
        above.set_title(label)
        _waveform(above, audio, seconds)
        _spectrogram(below, audio, sample_rate, named=column == 0, per_octave=24, columns=400)
        below.set_xlabel("seconds" if lowest else "")
        below.tick_params(labelbottom=lowest)


@drawn(9, 4.5)
def score_over_spectrogram(figure, notes: Sequence[Sequence[float]], audio: np.ndarray, sample_rate: int):
    """The log-frequency spectrogram of audio (C, N), and each written note as a line over it.

    A note is [onset in seconds, duration in seconds, MIDI pitch, ...].
    """
    axes = figure.add_subplot()
    _spectrogram(axes, audio, sample_rate, named=True, per_octave=48, columns=1200)
    octave = [(note[2] - 36) / 12 for note in notes]  # above C2
    axes.hlines(octave, [n[0] for n in notes], [n[0] + n[1] for n in notes], color=PALETTE[4], linewidth=1.6)
    axes.set(xlabel="seconds", ylabel="pitch")


@drawn(11, 3)
def strip(figure, clips: Sequence[tuple[str, np.ndarray]], sample_rate: int, columns: int = 4):
    """Log-frequency spectrograms side by side, (label, audio (C, N)) each: notes are lines, beats are edges."""
    columns = min(columns, len(clips))
    rows = -(-len(clips) // columns)
    figure.set_size_inches(11, 2.15 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for i, (label, audio) in enumerate(clips):
        lowest = i + columns >= len(clips)
        _spectrogram(grid[i], audio, sample_rate, named=i % columns == 0)
        grid[i].set_title(plain(label, 124 // columns), fontsize=10, fontweight="normal")
        grid[i].set_xlabel("seconds" if lowest else "")
        grid[i].tick_params(labelbottom=lowest)
    for axes in grid[len(clips) :]:
        axes.set_visible(False)
