"""LibraryView: the library as a panel. Search and filter, a list of pieces, and actions on the chosen ones."""

from __future__ import annotations

import ipywidgets as w

from musekit.config import MuseError
from musekit.entry import Entry
from musekit.lab.job import Job
from musekit.lab.rendering import render_again
from musekit.lab.view import WIDE, View, classed, row
from musekit.library import SORTS, Library
from musekit.muse import Muse

MAX_SHOWN = 500  # pieces in the list
EMPTY_BIN = "Empty the bin"


def described(entry: Entry) -> str:
    """A piece in one line of plain text."""
    star = "\N{BLACK STAR} " if entry.star else ""
    facts = [f"{star}{entry.name:.120}", f"{entry.seconds:.1f} s"]
    facts += [entry.made[:16].replace("T", " "), f"seed {entry.recipe.seed}" if entry.recipe else "imported"]
    facts += [f"similarity {entry.similarity:+.2f}"] if entry.similarity is not None else []
    return ", ".join([*facts, *(f"#{tag:.40}" for tag in entry.tags[:12])])


class LibraryView(View):
    """`state` is the `library.Library` behind it. A system is needed for "Make this again" only."""

    def __init__(self, library: Library | None = None, muse: Muse | None = None):
        """A library (default: MUSEKIT_HOME/library) and a system."""
        super().__init__("muse-library")
        self.state = Library() if library is None else library
        self.muse, self.job = muse, Job(self._show)
        self._make()
        self.refresh()
        self.shelves.add(self)

    def _make(self) -> None:
        self.name(
            query=classed(w.Text("", placeholder="words in name, prompt, tags, notes", description="search", **WIDE),
                          "muse-wide"),
            sort=w.Dropdown(options=list(SORTS), description="sort", **WIDE),
            starred=w.Checkbox(False, description="starred only", indent=False),
            list=w.SelectMultiple(options=[], rows=12, layout=w.Layout(width="100%")),
            text=w.Text("", description="text", placeholder="a name, a note, or tags separated by commas", **WIDE),
            path=w.Text("", description="folder", placeholder="to write to or to read from", **WIDE),
        )  # fmt: skip
        for one in (self.query, self.sort, self.starred):
            one.observe(self.safely(self.refresh), "value")
        self.list.observe(self.safely(self._show_text), "value")
        actions = row(
            self.button("play", "Play", "play the chosen piece", self._play, "play", "primary"),
            self.button("star", "Star", "star the chosen pieces, or remove their stars", self._star, "star"),
            self.button("delete", "Delete", "put the chosen pieces into the bin", self._delete, "trash"),
            self.button("undo", "Undo", "bring back what was deleted last; again: before that", self._undo, "undo"),
            self.button("purge", EMPTY_BIN, "remove deleted pieces for ever; press twice", self._purge, "", "danger"),
            self.button("again", "Make this again", "render the chosen piece from its recipe", self._again, "refresh"),
        )
        changes = row(
            self.text,
            self.button("rename", "Rename", "the chosen piece", lambda: self._write(self.state.rename), "pencil"),
            self.button("note", "Note", "write this note to the chosen piece", lambda: self._write(self.state.note)),
            self.button("tag", "Tag", "add these tags to the chosen pieces", lambda: self._tag("add"), "tag"),
            self.button("untag", "Untag", "remove these tags from them", lambda: self._tag("remove"), "minus"),
        )
        files = row(
            self.path,
            self.button("export", "Export", "write the chosen pieces (or all) as FLAC files", self._export, "upload"),
            self.button("bring", "Import", "add the sounds of a folder", self._import, "download"),
        )
        look = self.button("look", "Refresh", "another notebook may have kept something", self.refresh, "refresh")
        self.panel("Library", row(self.query, self.sort, self.starred, look), self.list, actions, self.player, changes,
                   files)  # fmt: skip

    def refresh(self) -> None:
        """Read the library again; another notebook may have changed it. Chosen pieces stay chosen."""
        found = self.state.search(self.query.value, starred=self.starred.value, sort=self.sort.value)
        chosen = set(self.list.value)
        with self.list.hold_sync():  # one message to the page
            self.list.options = [(described(entry), entry.id) for entry in found[:MAX_SHOWN]]
            self.list.value = tuple(entry.id for entry in found[:MAX_SHOWN] if entry.id in chosen)
        self.purge.description = EMPTY_BIN

    def _show_text(self) -> None:
        if len(self.list.value) == 1:
            self.text.value = self.state.get(self.list.value[0]).name

    def _some(self) -> list[str]:
        if not self.list.value:
            raise MuseError("choose some pieces first")
        return list(self.list.value)

    def _one(self) -> str:
        if len(self.list.value) != 1:
            raise MuseError("choose one piece first")
        return self.list.value[0]

    # -- actions

    def _play(self) -> None:
        entry = self.state.get(self._one())
        audio, rate = self.state.audio(entry.id)
        self.player.play(audio, rate, entry.name)

    def _star(self) -> None:
        ids = self._some()
        on = not all(self.state.get(identity).star for identity in ids)
        self.state.star(ids, on)
        self._changed("starred" if on else "no longer starred")

    def _undo(self) -> None:
        self._changed(f"{len(self.state.undo())} came back")

    def _tag(self, how: str) -> None:
        ids = self._some()
        self.state.tag(ids, **{how: self.text.value.split(",")})
        self._changed(f"changed the tags of {len(ids)}")

    def _write(self, call) -> None:
        call(self._one(), self.text.value)
        self._changed("changed")

    def _delete(self) -> None:
        ids = self._some()
        self.state.delete(ids)
        self._changed(f"{len(ids)} went into the bin; Undo brings them back")

    def _purge(self) -> None:
        n = len(self.state.search(deleted=True))
        if self.purge.description != EMPTY_BIN:
            self._changed(f"{self.state.purge()} were removed")
        elif n:
            self.purge.description = f"Really remove {n} for ever?"
            self.say(f"{n} in the bin; press again to remove them, there is no undo")
        else:
            self.say("the bin is empty")

    def _export(self) -> None:
        ids, place = list(self.list.value) or None, self.path.value.strip() or str(self.state.folder / "export")
        self.job.start(lambda: "; ".join([f"written: {place}", *self.state.export(place, ids)]))

    def _import(self) -> None:
        place = self.path.value.strip()
        if not place:
            raise MuseError("write the folder to import into the field beside this button")

        def work() -> str:
            added, refused = self.state.import_folder(place)
            self.library_changed()
            return f"{len(added)} added" + (f"; {len(refused)} refused: {refused[0]}" if refused else "")

        self.job.start(work)

    def _again(self) -> None:
        entry = self.state.get(self._one())
        if self.muse is None:
            raise MuseError("this view has no system; make it with LibraryView(library, muse)")

        def work() -> str:
            piece = render_again(self.muse, entry, self.job.follow(1), self.job.flag)
            self.player.play(piece.audio, piece.sample_rate, f"again: {entry.name}")
            same = self.state.same_sound(entry.id, piece)
            return "made again: the same bits" if same else "made again; bits differ on this machine"

        self.job.start(work)

    def _changed(self, text: str) -> None:
        self.say(text)
        self.library_changed()

    def _show(self) -> None:
        self.show_job(self.job, self.again, self.export, self.bring)
