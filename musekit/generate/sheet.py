"""What `musekit generate` shows of its pieces: a table and a contact sheet."""

from __future__ import annotations

import io
from pathlib import Path

SHOWN = 16  # pieces in the contact sheet


def draw(made: list, path: Path, title: str) -> Path:
    """The contact sheet of the first pieces (`files.Made`); returns its path."""
    import soundfile

    from musekit.files import write_atomic
    from musekit.show.pictures import contact_sheet
    from musekit.show.style import plain

    clips, sample_rate = [], 0
    several = len({piece.recipe.prompt for piece in made}) > 1
    for piece in made[:SHOWN]:
        audio, sample_rate = soundfile.read(piece.path, dtype="float32", always_2d=True)
        whose = f"{plain(piece.recipe.prompt, 40)}   " if several else ""
        clips.append((f"{whose}seed {piece.recipe.seed}   similarity {piece.similarity:.2f}", audio.T))
    title = plain(title, 90) + (" (smoke preset: noise)" if made[0].recipe.preset == "smoke" else "")
    figure, data = contact_sheet(clips, sample_rate, title=title), io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_atomic(path, data.getvalue())
    return path


def table(made: list) -> str:
    """One line a piece."""
    width = max(4, *(len(str(piece.recipe.seed)) for piece in made))
    lines = [f"{'seed':>{width}}  seconds  similarity  file"]
    for p in made:
        lines.append(f"{p.recipe.seed:>{width}}  {p.recipe.seconds:7.2f}  {p.similarity:10.3f}  {p.path}")
    return "\n".join(lines)


def short(text: str, length: int = 80) -> str:
    """Text that may be long, cut for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."
