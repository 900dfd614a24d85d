"""`Library`: tag, star, delete with undo, make again, export, check. Several processes may use one folder at once."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from musekit.config import MuseError
from musekit.library import database, exchange, journal, repair
from musekit.library.entry import Entry, checked_id, edited, now, written, written_tags
from musekit.library.store import Store
from musekit.recipe import Recipe


class Library(Store):
    """What was kept, and all that can be done with it. Ids are those of the entries that `search` gives."""

    def __init__(self, folder: str | Path | None = None):
        """Open or make the library of a folder (default: MUSEKIT_HOME/library). Raises MuseError where that fails."""
        super().__init__(folder)
        self._undo: list[list[str]] = []

    # -- change

    def _edit(self, ids: Iterable[str], **change) -> list[str]:
        """One change of several entries, all of them or none."""
        wanted = list(dict.fromkeys(checked_id(i) for i in ([ids] if isinstance(ids, str) else ids)))

        def task(db: sqlite3.Connection) -> None:
            found = [database.get(db, i, self.sounds) for i in wanted]
            if None in found:
                raise MuseError(f"the library has no piece {wanted[found.index(None)]}; nothing was changed")
            line = {"ids": wanted, "time": now(), **change}
            journal.append(self.edits, [line])
            for entry in found:
                database.put(db, edited(entry, line))

        if wanted:
            self._do(task, write=True)
        return wanted

    def tag(self, ids: Iterable[str], add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Give tags to pieces and take tags from them, in bulk."""
        self._edit(ids, tag=list(written_tags(add)), untag=list(written_tags(remove)))

    def star(self, ids: Iterable[str], on: bool = True) -> None:
        """Star pieces, or take their stars."""
        self._edit(ids, set={"star": bool(on)})

    def rename(self, identity: str, name: str) -> None:
        """Call a piece something else; "" brings the prompt back."""
        self._edit([identity], set={"name": written(name, "name") or self.get(identity).prompt or identity})

    def note(self, identity: str, text: str) -> None:
        """Write a note to a piece; it is searched too."""
        self._edit([identity], set={"notes": written(text, "note", lines=True)})

    def delete(self, ids: Iterable[str]) -> None:
        """Put pieces into the bin. `undo` brings the last lot back, `restore` any."""
        if done := self._edit(ids, set={"deleted": now()}):
            self._undo.append(done)

    def restore(self, ids: Iterable[str]) -> None:
        """Take pieces out of the bin."""
        self._edit(ids, set={"deleted": None})

    def undo(self) -> list[str]:
        """Bring back what the last `delete` of this session took; returns the ids, [] where there is nothing."""
        while self._undo:
            there = {entry.id for entry in self.bin()}
            lot = [i for i in self._undo.pop() if i in there]
            if lot:
                self.restore(lot)
                return lot
        return []

    def bin(self) -> list[Entry]:
        """What was deleted and not yet purged, newest first."""
        return self.search(deleted=True)

    def purge(self, ids: Iterable[str] | None = None) -> int:
        """Remove deleted pieces for ever, files too (None: the whole bin); returns how many. There is no undo.

        Raises MuseError for a piece that is not in the bin.
        """
        there = {entry.id: entry for entry in self.bin()}
        wanted = list(there) if ids is None else [checked_id(i) for i in ids]
        if stray := [i for i in wanted if i not in there]:
            raise MuseError(f"{stray[0]} is not in the bin; delete it first")

        def task(db: sqlite3.Connection) -> None:
            journal.append(self.edits, [{"ids": wanted, "purge": True, "time": now()}])
            for identity in wanted:
                database.drop(db, identity)

        if wanted:
            self._do(task, write=True)
        for identity in wanted:  # after the row: a kill between leaves a file that the next opening removes
            there[identity].path.unlink(missing_ok=True)
        return len(wanted)

    # -- make again

    def recipe(self, identity: str) -> Recipe:
        """What made a piece. Raises MuseError for an imported sound, which has none."""
        entry = self.get(identity)
        if entry.recipe is None:
            raise MuseError(f"{identity} was imported as plain sound; it has no recipe")
        return Recipe.from_json(entry.recipe)

    def again(self, identity: str, muse, on_step=None, cancel=None):
        """The piece once more from its recipe: the same bits on the same kind of machine (`same_bits` tells)."""
        from musekit.explore.take import remake

        return remake(muse, self.recipe(identity), self.origin(identity), self.embedding(identity), on_step, cancel)

    def origin(self, identity: str):
        """The piece's `take.Origin`, or None."""
        from musekit.explore.take import Origin

        text = self.get(identity).origin
        return None if text is None else Origin.from_json(text)

    def embedding(self, identity: str):
        """The piece's embedding (512,) as a tensor, or None for a plain sound."""
        import torch

        raw = self.get(identity).embedding
        return None if raw is None else torch.from_numpy(np.frombuffer(raw, "<f4").copy())

    def same_bits(self, identity: str, piece) -> bool:
        """Whether a piece's samples are, bit for bit, those that were kept before they became a file."""
        audio = np.ascontiguousarray(np.asarray(piece.audio, dtype=np.float32))
        return self.get(identity).samples_sha256 == hashlib.sha256(audio.tobytes()).hexdigest()

    # -- in and out, and what is wrong

    def export(self, path: str | Path, ids: Iterable[str] | None = None) -> Path:
        """A zip of the sounds and `library.csv`; see `exchange.export`."""
        return exchange.export(self, path, ids)

    def import_folder(self, folder: str | Path, tags: Sequence[str] = ()) -> exchange.Imported:
        """Take in a folder's sounds; see `exchange.import_folder`."""
        return exchange.import_folder(self, folder, tags)

    def check(self) -> list[repair.Problem]:
        """All that is wrong, [] where nothing is; see `repair.check`. Changes nothing."""
        return repair.check(self)

    def repair(self) -> list[str]:
        """Mend what can be mended without making sound again; returns what was done."""
        return repair.mend_all(self)

    def mend(self, identity: str, muse) -> Entry:
        """Make the file of a piece again from its recipe, where it is missing or was altered."""
        return repair.mend(self, identity, muse)
