"""A result card: one generated piece as HTML, with its prompt, player, waveform, seed and similarity.

Everything is inside the card (the sound as OGG, the waveform as SVG), so it also shows where nothing may be fetched.
"""

from __future__ import annotations

import html

import numpy as np

from musekit.show.players import as_array, audio_tag

STYLE = (
    "display:inline-block;width:280px;margin:6px;padding:8px 10px;vertical-align:top;"
    "border:1px solid rgba(128,128,128,.4);border-radius:8px;line-height:1.35"
)
PROMPT = "font-weight:600;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
COLOUR = "#0072B2"


def waveform(audio, columns: int = 260, height: int = 56) -> str:
    """The outline of audio (channels, N) as an SVG: least and greatest value of the mono signal in each column."""
    mono = as_array(audio).mean(0)
    step = max(1, -(-len(mono) // columns))
    padded = np.pad(mono, (0, -len(mono) % step))
    low, high = (f(padded.reshape(-1, step), axis=1) for f in (np.min, np.max))
    scale = 0.48 * height / max(float(np.abs(mono).max()), 1e-3)
    top = [f"{x},{height / 2 - scale * y:.1f}" for x, y in enumerate(high)]
    bottom = [f"{x},{height / 2 - scale * y + 0.4:.1f}" for x, y in reversed(list(enumerate(low)))]
    return (
        f'<svg role="img" aria-label="waveform" viewBox="0 0 {len(high)} {height}" width="100%" height="{height}" '
        f'preserveAspectRatio="none"><polygon fill="{COLOUR}" points="{" ".join(top + bottom)}"/></svg>'
    )


def card(piece, note: str = "") -> str:
    """The card of a `sample.Piece`. Prompt and note are escaped; similarity: cosine of text and sound, -1 to 1."""
    recipe = piece.recipe
    prompt = html.escape(recipe.prompt, quote=True)
    nfe = sum(piece.nfe.values())
    label = f"seed {recipe.seed}: {recipe.prompt}"
    sound = audio_tag(piece.audio, piece.sample_rate, label, seconds=None, rate=piece.sample_rate)
    facts = f"seed {recipe.seed} &middot; similarity {piece.similarity:+.2f}"
    facts += f"<br>{html.escape(note)}" if note else ""
    how = f"{recipe.seconds:g} s, {recipe.stage2_steps} steps, guidance {recipe.guidance_scale:g}, NFE {nfe}"
    return (
        f'<figure class="muse-card" style="{STYLE}"><figcaption style="{PROMPT}" title="{prompt}">{prompt}</figcaption>'
        f"{waveform(piece.audio)}{sound}<div>{facts}</div>"
        f'<div style="font-size:85%;opacity:.7">{how}</div></figure>'
    )
