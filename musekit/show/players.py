"""Audio players and result cards: HTML that plays by itself, even in an untrusted notebook without a kernel.

`<audio controls src="data:audio/ogg;base64,...">` holds a compressed copy of the sound: no kernel, no file, no script.
IPython's own `Audio` needs a trusted notebook, and a widget needs a kernel.
"""

import base64
import functools
import html
import io
from collections.abc import Sequence

import numpy as np
from IPython.display import HTML

from musekit.prompts import read_prompt
from musekit.show.pictures import outline
from musekit.show.style import PALETTE

DEFAULT_SECONDS = 6.0
DEFAULT_RATE = 32_000  # Hz; covers all but the edge of what the mini codec keeps (16.5 kHz)
MAX_VORBIS_RATE = 96_000  # Hz; libsndfile's Vorbis crashes the process above 200 kHz
OPUS_RATE = 24_000  # Hz, one of the few that Opus supports
FADE_SECONDS = 0.05  # fade-out where a clip is cut
PEAK = 0.9  # louder clips are turned down to this, so that compression does not clip
LUFS = -20.0  # of matched sounds
MOST_GAIN = 20.0  # dB, for a sound that is nearly silent
PLAYER_STYLE = "display:inline-block;margin:4px 14px 4px 0;vertical-align:top;width:230px"
CARD_STYLE = (
    "display:inline-block;width:280px;margin:6px;padding:8px 10px;vertical-align:top;"
    "border:1px solid rgba(128,128,128,.4);border-radius:8px;line-height:1.35"
)
PROMPT_STYLE = "font-weight:600;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"


def as_array(audio) -> np.ndarray:
    """audio (N,), (1, N) or (2, N), numpy or torch, as finite float32 (channels, N)."""
    x = np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio, dtype=np.float32)
    return np.nan_to_num(np.atleast_2d(x), posinf=0.0, neginf=0.0)


def loudness_of(audio, sample_rate: int) -> float:
    """The loudness of audio (channels, N) in LUFS (ITU-R BS.1770-4), -inf for silence."""
    import torch

    x, hop = as_array(audio), round(0.1 * sample_rate)
    x = np.tile(x, -(-4 * hop // max(1, x.shape[1])))  # its blocks have 0.4 s
    size = (x.shape[1] // 65536 + 2) * 65536  # a fast length for the transform, with room for the filters' end
    weighted = torch.fft.irfft(torch.fft.rfft(torch.from_numpy(x), size) * k_weighting(sample_rate, size))
    power = weighted[:, : x.shape[1] // hop * hop].square().sum(0).double().numpy()
    blocks = np.convolve(power.reshape(-1, hop).mean(1), np.ones(4) / 4, "valid")
    blocks = blocks[blocks > 10 ** ((0.691 - 70) / 10)]  # -70 LUFS
    blocks = blocks[blocks > 0.1 * blocks.mean()] if len(blocks) else blocks
    return float(10 * np.log10(blocks.mean()) - 0.691) if len(blocks) else -np.inf


@functools.lru_cache(4)
def k_weighting(rate: int, size: int):
    """The complex response of BS.1770's two filters, a high shelf and a high pass, at the frequencies of rfft(size)."""
    import torch
    from torchaudio.functional import highpass_biquad, treble_biquad

    impulse = torch.zeros(65536)
    impulse[0] = 0.25  # torchaudio clips at full scale
    return 4 * torch.fft.rfft(highpass_biquad(treble_biquad(impulse, rate, 4.0, 1500.0), rate, 38.0, 0.5), size)


def compressed(
    audio, sample_rate: int, seconds: float | None = DEFAULT_SECONDS, mono=False, rate=DEFAULT_RATE, kbps=None,
    matched=False, lossless=False,
) -> bytes:  # fmt: skip
    """The first `seconds` (None: all) of audio (channels, N) at `sample_rate` Hz as an OGG file, or `lossless` as FLAC.

    The coding is Vorbis at its lowest quality and at most `rate` Hz, or Opus at 24 kHz if `kbps` is set (kbit/s per
    channel, 6 to 256). Opus needs half the bytes for short clips: 3 s of mono at 20 kbit/s take 8 kB. With
    `matched` the sound is at `LUFS`, or as near to it as `MOST_GAIN` and `PEAK` allow.
    """
    import soundfile
    import soxr

    x = as_array(audio)
    x = x.mean(0, keepdims=True) if mono else x
    length = x.shape[1] if seconds is None else max(1, round(seconds * sample_rate))
    if length < x.shape[1]:
        x = x[:, :length].copy()
        fade = min(length, round(FADE_SECONDS * sample_rate))
        x[:, length - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    rate = min(rate, sample_rate, MAX_VORBIS_RATE) if kbps is None else OPUS_RATE
    if rate != sample_rate:
        x = soxr.resample(x.T, sample_rate, rate).T
    if matched:
        x = x * 10 ** (min(LUFS - loudness_of(x, rate), MOST_GAIN) / 20)
    x = x * min(1.0, PEAK / max(float(np.abs(x).max(initial=0.0)), 1e-9))
    level = 1.0 if kbps is None else 1 - (kbps - 6) / 250  # libsndfile: 6 kbit/s at 1, 256 at 0
    options = {"format": "OGG", "subtype": "VORBIS" if kbps is None else "OPUS", "compression_level": level}
    options = {"format": "FLAC", "subtype": "PCM_16", "compression_level": 0.0} if lossless else options
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, x.shape[0], **options) as out:
        for start in range(0, x.shape[1], rate):  # libsndfile's Vorbis overflows on one long block
            out.write(x.T[start : start + rate])
    return file.getvalue()


def audio_tag(audio, sample_rate: int, label: str, **options) -> str:
    """One `<audio>` element that holds its sound; screen readers read `label`. Options: those of `compressed`."""
    data = base64.b64encode(compressed(audio, sample_rate, **options)).decode("ascii")
    return (
        f'<audio controls preload="metadata" style="width:100%" aria-label="{html.escape(label, quote=True)}" '
        f'src="data:audio/ogg;base64,{data}"></audio>'
    )


def player(audio, sample_rate: int, caption: str, note: str = "", **options) -> HTML:
    """One clip (2, N), (1, N) or (N,): caption above, note below, both escaped. Options: those of `compressed`."""
    below = f'<div style="font-size:85%;opacity:.75">{html.escape(note)}</div>' if note else ""
    label = f"audio: {caption}" + (f", {note}" if note else "")
    markup = (
        f'<figure style="{PLAYER_STYLE}"><figcaption style="font-weight:600">{html.escape(caption)}</figcaption>'
        f"{audio_tag(audio, sample_rate, label, **options)}{below}</figure>"
    )
    return HTML(markup)


def players(
    clips: Sequence, sample_rate: int, captions: Sequence[str], notes: Sequence[str] = (), title: str = "", **options
) -> HTML:
    """Several clips side by side, each with its caption and, if given, its note, below a common title."""
    each = zip(clips, captions, notes or [""] * len(clips), strict=True)
    markup = "".join(player(clip, sample_rate, *texts, **options).data for clip, *texts in each)
    head = f'<div style="font-weight:600">{html.escape(title)}</div>' if title else ""
    return HTML(f"<div>{head}{markup}</div>")


def waveform(audio, columns: int = 260, height: int = 56) -> str:
    """The outline of audio (channels, N) as an SVG."""
    low, high = outline(as_array(audio), columns)
    scale = 0.48 * height / max(float(np.abs([low, high]).max()), 1e-3)
    top = [f"{x},{height / 2 - scale * y:.1f}" for x, y in enumerate(high)]
    bottom = [f"{x},{height / 2 - scale * y + 0.4:.1f}" for x, y in reversed(list(enumerate(low)))]
    return (
        f'<svg role="img" aria-label="waveform" viewBox="0 0 {len(high)} {height}" width="100%" height="{height}" '
        f'preserveAspectRatio="none"><polygon fill="{PALETTE[0]}" points="{" ".join(top + bottom)}"/></svg>'
    )


def steering(piece) -> str:
    """What the prompt was read to ask of the music, what else was asked, and the beat that was drawn for it."""
    all_, asked = piece.controls, piece.recipe.controls
    said = read_prompt(piece.recipe.prompt) if asked else {}
    words = {"bpm": f"{all_.bpm or 0:g} BPM", "key": f"{all_.key} {all_.mode}", "metre": f"{all_.metre} beats a bar"}
    words |= {"chords": all_.chords, "melody": f"a melody of {len(all_.melody or ())} notes"}
    kinds: dict[str, list[str]] = {"read in the prompt": [], "asked": [], "drawn": []}
    for name in (name for name in words if getattr(all_, name) is not None):
        how = "read in the prompt" if name in said else "drawn" if getattr(asked, name, None) is None else "asked"
        kinds[how].append(words[name])
    return "; ".join(f"{how}: {', '.join(each)}" for how, each in kinds.items() if each)


def card(piece, note: str = "") -> str:
    """A generated piece as HTML: prompt, waveform, player, seed, similarity (cosine of text and sound), settings."""
    recipe = piece.recipe
    prompt = html.escape(recipe.prompt, quote=True)
    label = f"seed {recipe.seed}: {recipe.prompt}"
    sound = audio_tag(piece.audio, piece.sample_rate, label, seconds=None, rate=piece.sample_rate, matched=True)
    facts = f"seed {recipe.seed} &middot; similarity {piece.similarity:+.2f}"
    facts += f"<br>{html.escape(note)}" if note else ""
    settings = f"{recipe.seconds:g} s, {recipe.stage2_steps} steps of {recipe.stage2_solver}"
    settings += f", guidance {recipe.guidance_scale:g}"
    steered = html.escape(steering(piece))
    facts += f"<br>{steered}" if steered else ""
    level = f"played at {LUFS:g} LUFS, the file has {loudness_of(piece.audio, piece.sample_rate):.1f}"
    facts += f"<br>not: {html.escape(recipe.negative_prompt)}" if recipe.negative_prompt else ""
    return (
        f'<figure class="muse-card" style="{CARD_STYLE}"><figcaption style="{PROMPT_STYLE}" title="{prompt}">{prompt}'
        f"</figcaption>{waveform(piece.audio)}{sound}<div>{facts}</div>"
        f'<div style="font-size:85%;opacity:.7">{settings}, NFE {sum(piece.nfe.values())}<br>{level}</div></figure>'
    )
