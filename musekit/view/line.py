"""Line: one piece on the Library's page. The same widgets show one piece after another."""

from __future__ import annotations

import ipywidgets as w

from musekit.library.entry import Entry
from musekit.view.parts import button, escaped


class Line:
    """One piece of the page: chosen or not, what it is, star and play."""

    def __init__(self, owner):
        self.entry: Entry | None = None
        self.chosen = w.Checkbox(False, indent=False, description="", tooltip="choose")
        self.text = w.HTML()
        self.star = w.ToggleButton(False, icon="star", tooltip="star", layout=w.Layout(width="auto"))
        self.play = button("Play", "hear it", "play")
        self.box = w.HBox([self.chosen, self.star, self.play, self.text])
        for name in ("chosen", "text", "star", "play"):
            getattr(self, name).add_class(f"muse-line-{name}")
        self.box.add_class("muse-line")
        self._filling = False
        self.play.on_click(owner.safely(lambda: owner.play(self.entry)))
        self.star.observe(lambda change: None if self._filling else owner.safely(self._starred(owner))(), "value")
        self.chosen.observe(lambda change: None if self._filling else owner.safely(owner.chose)(), "value")

    def _starred(self, owner):
        return lambda: owner.state.star([self.entry.id], self.star.value)

    def fill(self, entry: Entry | None) -> None:
        """Show another piece, or nothing."""
        self._filling, self.entry = True, entry
        self.box.layout.display = "none" if entry is None else "flex"
        self.chosen.value = False
        if entry is not None:
            self.star.value = entry.star
            self.text.value = described(entry)
        self._filling = False


def described(entry: Entry) -> str:
    """A piece in two lines of HTML, all of it escaped."""
    facts = [f"{entry.seconds:.1f} s", entry.made[:16].replace("T", " ")]
    facts += [f"seed {entry.seed}"] if entry.seed is not None else ["imported"]
    facts += [f"similarity {entry.similarity:+.2f}"] if entry.similarity is not None else []
    tags = "".join(f'<span class="muse-tag">{escaped(tag, 40)}</span>' for tag in entry.tags[:12])
    name = escaped(entry.name, 120)
    return (
        f'<div class="muse-piece-name" title="{name}"><bdi>{name}</bdi></div>'
        f'<div class="muse-piece-facts">{escaped(", ".join(facts))}{tags}</div>'
    )
