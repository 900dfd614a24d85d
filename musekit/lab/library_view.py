"""LibraryView: the library as a panel. Search and filter, a page of pieces, and actions on the chosen ones."""

from __future__ import annotations

import threading
from pathlib import Path

import ipywidgets as w

from musekit.config import MuseError
from musekit.lab.job import Job
from musekit.lab.player import Player
from musekit.lab.rendering import render_again
from musekit.lab.view import WIDE, View, button, classed, escaped, row, tags_of
from musekit.library import Entry, Library
from musekit.library.library import SORTS
from musekit.muse import Muse

PAGE = 12  # pieces; the same widgets are filled again, so that no page grows
ANY_TAG = "(any tag)"
EMPTY_BIN = "Empty the bin"


class Line:
    """One piece of the page. The same widgets show one piece after another."""

    def __init__(self, owner: LibraryView):
        self.entry: Entry | None = None
        self._filling = False
        self.chosen = w.Checkbox(False, indent=False, description="", tooltip="choose")
        self.star = w.ToggleButton(False, icon="star", tooltip="star", layout=w.Layout(width="auto"))
        self.play, self.text = button("Play", "play this piece", "play"), w.HTML()
        for name in ("chosen", "star", "play", "text"):
            getattr(self, name).add_class(f"muse-line-{name}")
        self.box = classed(w.HBox([self.chosen, self.star, self.play, self.text]), "muse-line")
        starred = owner.safely(lambda: owner.state.star([self.entry.id], self.star.value))
        self.play.on_click(owner.safely(lambda: owner.play(self.entry)))
        self.star.observe(lambda change: None if self._filling else starred(), "value")
        self.chosen.observe(lambda change: None if self._filling else owner.show_name(), "value")

    def fill(self, entry: Entry | None) -> None:
        """Show another piece, or nothing."""
        self._filling, self.entry = True, entry
        self.box.layout.display = "none" if entry is None else "flex"
        self.chosen.value = False
        if entry is not None:
            self.star.value, self.text.value = entry.star, described(entry)
        self._filling = False


def described(entry: Entry) -> str:
    """A piece in two lines of escaped HTML."""
    facts = [f"{entry.seconds:.1f} s", entry.made[:16].replace("T", " ")]
    facts += [f"seed {entry.recipe.seed}"] if entry.recipe else ["imported"]
    facts += [f"similarity {entry.similarity:+.2f}"] if entry.similarity is not None else []
    tags = "".join(f'<span class="muse-tag">{escaped(tag, 40)}</span>' for tag in entry.tags[:12])
    name = escaped(entry.name, 120)
    return (
        f'<div class="muse-piece-name" title="{name}"><bdi>{name}</bdi></div>'
        f'<div class="muse-piece-facts">{escaped(", ".join(facts))}{tags}</div>'
    )


class LibraryView(View):
    """`state` is the `library.Library` behind it. A system is needed for "Make this again" only."""

    def __init__(self, folder: str | Path | Library | None = None, weights: str | Path | Muse | None = None):
        """A library or its folder (default: MUSEKIT_HOME/library); a system or its name."""
        super().__init__("muse-library")
        self.player = Player()
        self.state = folder if isinstance(folder, Library) else Library(folder)
        self.weights, self.job, self.page = weights, Job(self._show), 0
        self._refreshing = threading.RLock()  # a job's end and a click must not fill the page at once
        self._make()
        self.refresh()
        self.watch(self.state.folder)
        if self.state.notices:
            self.say("; ".join(self.state.notices))

    def _make(self) -> None:
        self.name(
            query=classed(w.Text("", placeholder="search: words in name, prompt, tags, notes"), "muse-wide"),
            tag=w.Dropdown(options=[ANY_TAG], description="tag", style={"description_width": "26px"}),
            sort=w.Dropdown(options=list(SORTS), description="sort", style={"description_width": "32px"}),
            starred=w.Checkbox(False, description="starred only", indent=False),
            bin=w.Checkbox(False, description="show the bin", indent=False),
            look=button("Refresh", "another notebook may have kept something", "refresh"),
            before=button("\N{LEFTWARDS ARROW}", "previous page"),
            after=button("\N{RIGHTWARDS ARROW}", "next page"),
            where=w.HTML(""),
            tags=w.Text("", description="tags", placeholder="separated by commas", **WIDE),
            give=button("Tag", "add these tags to the chosen pieces", "tag"),
            take=button("Untag", "remove these tags from the chosen pieces", "minus"),
            delete=button("Delete", "put the chosen pieces into the bin", "trash"),
            undo=button("Undo", "bring back what was deleted last", "undo"),
            restore=button("Restore", "take the chosen pieces out of the bin"),
            purge=button(EMPTY_BIN, "remove what is in the bin for ever; press twice", "", "danger"),
            text=w.Text("", description="text", placeholder="a name, or a note", **WIDE),
            rename=button("Rename", "give the chosen piece this name", "pencil"),
            note=button("Note", "write this note to the chosen piece"),
            again=button("Make this again", "render the chosen piece from its recipe", "refresh"),
            path=w.Text("", description="place", placeholder="a zip to write, or a folder to read", **WIDE),
            export=button("Export", "write the chosen pieces (or all) as a zip of FLAC files", "upload"),
            bring=button("Import", "add the sounds of a folder", "download"),
        )
        self.lines = [Line(self) for _ in range(PAGE)]
        for one in (self.query, self.tag, self.sort, self.starred, self.bin):
            one.observe(self.safely(lambda: self._turn(-self.page)), "value")
        self.on_click({
            self.before: lambda: self._turn(-1), self.after: lambda: self._turn(1), self.look: self.refresh,
            self.give: lambda: self._tag("add"), self.take: lambda: self._tag("remove"), self.delete: self._delete,
            self.undo: self._undo, self.restore: self._restore, self.purge: self._purge, self.again: self._again,
            self.rename: lambda: self._write(self.state.rename), self.note: lambda: self._write(self.state.note),
            self.export: self._export, self.bring: self._import,
        })  # fmt: skip
        self.bin_tools = row(self.restore, self.purge)
        exchange = w.Accordion([row(self.path, self.export, self.bring)], titles=("Export and import",))
        self.panel(
            "Library",
            row(self.query, self.tag, self.sort),
            row(self.starred, self.bin, self.look),
            classed(w.VBox([line.box for line in self.lines]), "muse-list"),
            row(self.before, self.after, self.where, self.delete, self.undo), self.bin_tools, self.player,
            row(self.tags, self.give, self.take), row(self.text, self.rename, self.note, self.again), exchange,
        )  # fmt: skip

    # -- what is shown

    def refresh(self) -> None:
        """Read the library again; another notebook may have changed it."""
        with self._refreshing:
            tags = [ANY_TAG, *self.state.tags()]
            if list(self.tag.options) != tags:
                chosen = self.tag.value
                self.tag.options = tags
                self.tag.value = chosen if chosen in tags else ANY_TAG
            wanted = [] if self.tag.value == ANY_TAG else [self.tag.value]
            found = self.state.search(self.query.value, wanted, self.starred.value, self.sort.value, PAGE + 1,
                                      self.page * PAGE, self.bin.value)  # fmt: skip
            shown, first = found[:PAGE], self.page * PAGE
            for i, line in enumerate(self.lines):
                line.fill(shown[i] if i < len(shown) else None)
            self.before.disabled, self.after.disabled = self.page == 0, len(found) <= PAGE
            self.bin_tools.layout.display = None if self.bin.value else "none"
            self.where.value = f"{first + 1} to {first + len(shown)}" if shown else "nothing here"
            self.purge.description = EMPTY_BIN

    library_changed = refresh

    def _turn(self, by: int) -> None:
        self.page = max(0, self.page + by)
        self.refresh()

    def show_name(self) -> None:
        """Put the chosen piece's name where it can be changed."""
        found = [line.entry for line in self.lines if line.entry is not None and line.chosen.value]
        if len(found) == 1:
            self.text.value = found[0].name

    def _chosen(self) -> list[str]:
        return [line.entry.id for line in self.lines if line.entry is not None and line.chosen.value]

    def _some(self) -> list[str]:
        if not (found := self._chosen()):
            raise MuseError("choose some pieces first")
        return found

    def _one(self) -> str:
        if len(found := self._chosen()) != 1:
            raise MuseError("choose one piece first")
        return found[0]

    # -- what is done

    def play(self, entry: Entry) -> None:
        """Play a piece."""
        audio, rate = self.state.audio(entry.id)
        self.player.play(audio[:2], rate, entry.name)

    def _tag(self, how: str) -> None:
        ids = self._some()
        self.state.tag(ids, **{how: tags_of(self.tags.value)})
        self._changed(f"changed the tags of {len(ids)}")

    def _delete(self) -> None:
        ids = self._some()
        self.state.delete(ids)
        self._changed(f"{len(ids)} went into the bin; Undo brings them back")

    def _undo(self) -> None:
        self._changed(f"{len(self.state.undo())} came back")

    def _restore(self) -> None:
        self.state.restore(self._some())
        self._changed("restored")

    def _purge(self) -> None:
        if self.purge.description != EMPTY_BIN:
            self._changed(f"{self.state.purge()} were removed")
        elif n := len(self.state.bin()):
            self.purge.description = f"Really remove {n} for ever?"
            self.say(f"{n} in the bin; press again to remove them, there is no undo")
        else:
            self.say("the bin is empty")

    def _write(self, call) -> None:
        call(self._one(), self.text.value)
        self._changed("changed")

    def _export(self) -> None:
        ids, place = self._chosen() or None, self.path.value.strip() or str(self.state.folder / "export.zip")

        def work() -> str:
            before = len(self.state.notices)
            written = self.state.export(place, ids)
            return "; ".join([f"written: {written.name}", *self.state.notices[before:]])

        self.job.start(work, "writing")

    def _import(self) -> None:
        place = self.path.value.strip()
        if not place:
            raise MuseError("write the folder to import into the field beside this button")

        def work() -> str:
            done = self.state.import_folder(place)
            self.refresh()
            self.notify(self.state.folder)
            text = f"{len(done.added)} added, {len(done.present)} were there"
            return text + (f"; {len(done.refused)} refused: {done.refused[0][1]}" if done.refused else "")

        self.job.start(work, "reading")

    def _again(self) -> None:
        entry = self.state.get(self._one())
        if self.weights is None:
            raise MuseError('this view has no system; make it with LibraryView(..., weights="mini")')

        def work() -> str:
            if not isinstance(self.weights, Muse):
                self.weights = Muse.from_pretrained(self.weights)
            piece = render_again(self.weights, entry, self.job.follow(1), self.job.flag)
            self.player.play(piece.audio, piece.sample_rate, f"again: {entry.name}")
            same = self.state.same_sound(entry.id, piece)
            return "made again: the same bits" if same else "made again; bits differ on this machine"

        self.job.start(work)

    def _changed(self, text: str) -> None:
        self.refresh()
        self.say(text)
        self.notify(self.state.folder)

    def _show(self) -> None:
        self.show_job(self.job, self.again, self.export, self.bring)
