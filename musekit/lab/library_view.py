"""LibraryView: the library as a panel. Search and filter, a list of pieces, and actions on the chosen ones."""

import os

from musekit.config import MuseError
from musekit.entry import Entry
from musekit.lab.job import Job
from musekit.lab.rendering import render_again
from musekit.lab.view import PANELS, View, escaped
from musekit.library import SORTS, Library
from musekit.muse import Muse

PAGE = 250  # pieces in the list
EMPTY_BIN = PANELS["Library"]["controls"]["purge"]["description"]


def described(entry: Entry) -> str:
    """A piece in one line of plain text."""
    star = "\N{BLACK STAR} " if entry.star else ""
    facts = [f"{star}{entry.name:.120}", f"{entry.seconds:.1f} s"]
    facts += [entry.made[:16].replace("T", " "), f"seed {entry.recipe.seed}" if entry.recipe else "imported"]
    facts += [f"similarity {entry.similarity:+.2f}"] if entry.similarity is not None else []
    return ", ".join([*facts, *(f"#{tag:.40}" for tag in entry.tags[:12])])


def total(entries: list[Entry]) -> str:
    """How many pieces, and how long they are."""
    seconds = round(sum(entry.seconds for entry in entries))
    return f"{len(entries):,} {'piece' if len(entries) == 1 else 'pieces'}, {seconds // 60}:{seconds % 60:02d} min"


class LibraryView(View):
    """`state` is the `library.Library` behind it. A system is needed for "Make this again" only."""

    def __init__(self, library: Library | None = None, muse: Muse | None = None):
        """A library (default: MUSEKIT_HOME/library) and a system."""
        super().__init__("Library")
        self.state = Library() if library is None else library
        self.muse, self.job = muse, Job(self._show)
        shown = {name: self.refresh for name in ("query", "sort", "starred", "look", "page")}
        self.make({"sort": {"options": list(SORTS)}}, shown | {
            "list": self._show_text, "play": self._play, "star": self._star, "delete": self._delete,
            "undo": lambda: self._changed(f"{len(self.state.undo())} are as before"), "purge": self._purge,
            "save": lambda: self.player.download(*self.state.download(self._some())),
            "again": self._again, "export": self._export, "bring": self._import,
            "rename": lambda: self._write(self.state.rename), "note": lambda: self._write(self.state.note),
            "tag": lambda: self._tag("add"), "untag": lambda: self._tag("remove"),
        })  # fmt: skip
        if os.environ.get("MUSEKIT_VISITOR"):
            for control in (self.path, self.export, self.bring):
                control.layout.display = "none"
        self.refresh()
        if self.state.trouble:
            self.say(self.state.trouble, bad=True)
        self.shelves.add(self)

    def refresh(self) -> None:
        """Read the library again; another notebook may have changed it. Chosen pieces stay chosen."""
        found = self.found = self.state.search(self.query.value, starred=self.starred.value, sort=self.sort.value)
        chosen, self.page.max = set(self.list.value), max(1, -(-len(found) // PAGE))
        shown = found[(self.page.value - 1) * PAGE : self.page.value * PAGE]
        with self.list.hold_sync():  # one message to the page
            self.list.options = [(described(entry), entry.id) for entry in shown]
            self.list.value = tuple(entry.id for entry in shown if entry.id in chosen)
        self.purge.description = EMPTY_BIN
        self._tell()

    def _show_text(self) -> None:
        if len(self.list.value) == 1:
            self.text.value = self.state.get(self.list.value[0]).name
        self._tell()

    def _tell(self) -> None:
        """Totals, and all about the one chosen piece."""
        chosen = [entry for entry in self.found if entry.id in self.list.value]
        lines = [f"{total(self.found)}; chosen: {total(chosen)}"]
        lines[0] += f"; page {self.page.value} of {self.page.max}" if self.page.max > 1 else ""
        if len(chosen) == 1:
            recipe, notes = chosen[0].recipe, chosen[0].notes
            lines += [described(chosen[0])]
            lines += [f"prompt: {recipe.prompt}"] if recipe else []
            lines += [f"not: {recipe.negative_prompt}"] if recipe and recipe.negative_prompt else []
            lines += [f"notes: {notes}"] if notes else []
        self.facts.value = "<br>".join(escaped(line, 2000).replace("\n", "<br>") for line in lines)

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

    def _place(self) -> str:
        if os.environ.get("MUSEKIT_VISITOR"):  # the buttons are hidden; a message may come nevertheless
            raise MuseError("a visitor has no folders on this machine; take Save")
        return self.path.value.strip()

    def _export(self) -> None:
        ids, place = list(self.list.value) or None, self._place() or str(self.state.folder / "export")
        self.job.start(lambda: "; ".join([f"written: {place}", *self.state.export(place, ids)]))

    def _import(self) -> None:
        place = self._place()
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
