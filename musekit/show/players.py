"""Players: audio to an HTML object that sounds by itself, even in an untrusted notebook that was never run.

`<audio controls src="data:audio/ogg;base64,...">`: a short compressed copy inside the page, no kernel, no file, no
script. IPython's own `Audio` needs a trusted notebook; a widget needs a kernel.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np

from musekit.config import MuseError

SECONDS = 6.0  # of a clip that are kept, by default
RATE = 32_000  # Hz, the highest rate that is kept: all of what the codec keeps (16.5 kHz) but its edge
MOST_RATE = 96_000  # Hz; libsndfile's Vorbis ends the process above 200 kHz
OPUS_RATE = 24_000  # Hz, one of the few that Opus knows
PEAK = 0.9  # a clip that would clip after compression is turned down to this
FADE = 0.05  # seconds of fade-out where a clip is cut
STYLE = "display:inline-block;margin:4px 14px 4px 0;vertical-align:top;width:230px"


class Player:
    """A figure with a caption and players; the last value of a cell shows it."""

    def __init__(self, markup: str, caption: str):
        self.html, self.caption = markup, caption

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Player({self.caption!r}, {len(self.html) / 1000:.0f} kB)"


def as_array(audio) -> np.ndarray:
    """audio (N,), (1, N) or (2, N), numpy or torch -> float32 (channels, N). Raises MuseError for anything else."""
    x = np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio, dtype=np.float32)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[0] not in (1, 2) or x.shape[1] < 1:
        raise MuseError(f"a player wants audio of shape (N,), (1, N) or (2, N), not {np.shape(audio)}")
    return np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def compressed(
    audio,
    sample_rate: int,
    seconds: float | None = SECONDS,
    mono: bool = False,
    rate: int = RATE,
    kbps: float | None = None,
) -> bytes:
    """audio (channels, N) at `sample_rate` Hz as an OGG file: Vorbis of the smallest quality, or Opus if `kbps` is set.

    6 s of music become 36 kB in stereo at 32 kHz, 28 kB mono, 21 kB mono at 22.05 kHz (a third more as base64).
    Only the first `seconds` are kept (None: all), with a short fade where it is cut. `rate` in Hz is the highest
    that is kept; audio below it stays as it is. Opus (at 24 kHz, `kbps` kbit/s a channel, 6 to 256) keeps as much in
    half the bytes where clips are short: 3 s mono at 20 kbit/s are 8 kB.
    """
    import soundfile
    import soxr

    x = as_array(audio)
    x = x.mean(0, keepdims=True) if mono else x
    keep = x.shape[1] if seconds is None else max(1, round(seconds * sample_rate))
    if keep < x.shape[1]:
        x = x[:, :keep].copy()
        fade = min(keep, round(FADE * sample_rate))
        x[:, keep - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    rate = min(rate, MOST_RATE) if kbps is None else OPUS_RATE
    if rate < sample_rate or kbps is not None:
        x, sample_rate = soxr.resample(x.T, sample_rate, rate).T, rate
    x = x * min(1.0, PEAK / max(float(np.abs(x).max(initial=0.0)), 1e-9))
    file = io.BytesIO()
    coding = "VORBIS" if kbps is None else "OPUS"
    level = 1.0 if kbps is None else 1 - (kbps - 6) / 250  # libsndfile: 6 kbit/s at 1, 256 at 0
    with soundfile.SoundFile(
        file, "w", sample_rate, x.shape[0], format="OGG", subtype=coding, compression_level=level
    ) as out:
        for start in range(0, x.shape[1], sample_rate):  # libsndfile's Vorbis overflows on one long block
            out.write(x.T[start : start + sample_rate])
    return file.getvalue()


def audio_tag(audio, sample_rate: int, label: str, **options) -> str:
    """One `<audio>` element with its sound inside; `label` is read aloud by a screen reader. Options: `compressed`."""
    data = base64.b64encode(compressed(audio, sample_rate, **options)).decode("ascii")
    return (
        f'<audio controls preload="metadata" style="width:100%" aria-label="{html.escape(label, quote=True)}" '
        f'src="data:audio/ogg;base64,{data}"></audio>'
    )


def figure(audio, sample_rate: int, caption: str, note: str = "", **options) -> str:
    """`<figure>` of one clip: its caption (bold), its player, a note below (small). All three are escaped."""
    below = f'<div style="font-size:85%;opacity:.75">{html.escape(note)}</div>' if note else ""
    label = f"audio: {caption}" + (f", {note}" if note else "")
    return (
        f'<figure style="{STYLE}"><figcaption style="font-weight:600">{html.escape(caption)}</figcaption>'
        f"{audio_tag(audio, sample_rate, label, **options)}{below}</figure>"
    )


def player(audio, sample_rate: int, caption: str, note: str = "", **options) -> Player:
    """One clip: audio (2, N), (1, N) or (N,) at `sample_rate` Hz. Options are those of `compressed`."""
    return Player(figure(audio, sample_rate, caption, note, **options), caption)


def players(
    clips: Sequence, sample_rate: int, captions: Sequence[str], notes: Sequence[str] = (), title: str = "", **options
) -> Player:
    """Several clips side by side, each with its caption and, where given, its note; `title` stands above them."""
    if len(captions) != len(clips) or (notes and len(notes) != len(clips)):
        raise MuseError(f"{len(clips)} clips, {len(captions)} captions and {len(notes)} notes do not go together")
    notes = notes or [""] * len(clips)
    rows = [figure(clip, sample_rate, *texts, **options) for clip, *texts in zip(clips, captions, notes)]
    head = f'<div style="font-weight:600">{html.escape(title)}</div>' if title else ""
    return Player(f"<div>{head}{''.join(rows)}</div>", title or ", ".join(captions))
