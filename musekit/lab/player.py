"""Player: plays the sounds of a view, one at a time on the page, and hands files to the browser.

It is the browser's own `<audio controls>` with a check box for looping.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from musekit.show.players import compressed


class Player(anywidget.AnyWidget):
    """`play` a sound, `download` a file."""

    _esm = Path(__file__).with_name("player.js")
    _css = Path(__file__).with_name("muse.css")
    label = traitlets.Unicode("").tag(sync=True)
    sound = traitlets.Bytes(b"").tag(sync=True)
    turn = traitlets.Int(0).tag(sync=True)  # counts the sounds; its change starts the player

    def __init__(self, **options):
        super().__init__(**options)
        self.add_class("muse-player")

    def play(self, audio, sample_rate: int, label: str) -> None:
        """Play audio (channels, N); `label` is shown and read aloud."""
        data = compressed(audio, sample_rate, seconds=None, rate=sample_rate)
        with self.hold_sync():  # one message, so that the page never has half of it
            self.sound, self.label, self.turn = data, label[:400], self.turn + 1

    def download(self, name: str, data: bytes) -> None:
        """Save a FLAC file in the browser's downloads."""
        self.send({"kind": "download", "name": name, "mime": "audio/flac"}, [data])
