"""The Library, seen: search, filter, a page of pieces, and what can be done with those that are chosen."""

from __future__ import annotations

import threading
from pathlib import Path

import ipywidgets as w

from musekit import library as state
from musekit.config import MuseError
from musekit.explore.job import Job
from musekit.library.database import SORTS
from musekit.library.entry import Entry
from musekit.muse import Muse
from musekit.view import bell
from musekit.view.desk import Desk
from musekit.view.line import Line
from musekit.view.parts import WIDE, View, button, classed, row, stack, tags_of

PAGE = 12  # pieces at a time: the same widgets are filled again, so that no page grows
ALL = "(any tag)"


class Library(View):
    """`state` is the `library.Library` behind it. A system is needed for "make this again" only."""

    def __init__(self, folder: str | Path | state.Library | None = None, weights: str | Path | Muse | None = None):
        """A library or its folder (default: MUSEKIT_HOME/library); a system or its name."""
        super().__init__("muse-library")
        self.state = folder if isinstance(folder, state.Library) else state.Library(folder)
        self.weights, self.job, self.page = weights, Job(self._show), 0
        self.desk, self.again_piece = Desk(), None
        self._refreshing = threading.RLock()  # an import's end and a click: two threads must not fill one line
        self._make()
        self.refresh()
        bell.listen(self.state.folder, self)
        if self.state.notices:
            self.say("; ".join(self.state.notices))

    def _make(self) -> None:
        self.name(
            query=classed(w.Text("", placeholder="search: words in name, prompt, tags, notes"), "muse-wide"),
            tag=w.Dropdown(options=[ALL], description="tag", style={"description_width": "26px"}),
            sort=w.Dropdown(
                options=["best", *SORTS], value="newest", description="sort", style={"description_width": "32px"}
            ),
            starred=w.Checkbox(False, description="starred only", indent=False),
            bin=w.Checkbox(False, description="show the bin", indent=False),
            every=w.Checkbox(False, description="choose all", indent=False),
            look=button("Refresh", "look again: another notebook may have kept something", "refresh"),
            before=button("\N{LEFTWARDS ARROW}", "earlier page"),
            after=button("\N{RIGHTWARDS ARROW}", "next page"),
            where=w.HTML(""),
            tags=w.Text("", description="tags", placeholder="separated by commas", **WIDE),
            give=button("Tag", "give these tags to all chosen", "tag"),
            take=button("Untag", "take these tags from all chosen", "minus"),
            delete=button("Delete", "put all chosen into the bin", "trash"),
            undo=button("Undo", "bring back what was deleted last", "undo"),
            restore=button("Restore", "take all chosen out of the bin"),
            purge=button("Empty the bin", "remove what is in the bin for ever; press twice", "", "danger"),
            text=w.Text("", description="text", placeholder="a name, or a note", **WIDE),
            rename=button("Rename", "call the chosen one this", "pencil"),
            note=button("Note", "write this note to the chosen one"),
            again=button("Make this again", "render the chosen one anew from its recipe", "refresh"),
            path=w.Text("", description="place", placeholder="a zip to write, or a folder to read", **WIDE),
            export=button("Export", "write the chosen (or all) as a zip with a CSV", "upload"),
            bring=button("Import", "take in the sounds of a folder", "download"),
            check=button("Check", "is every sound there and unaltered?", "stethoscope"),
            repair=button("Repair", "rebuild what can be rebuilt"),
            bar=self.bar,
            label=self.label,
        )
        self.lines = [Line(self) for _ in range(PAGE)]
        for one in (self.query, self.tag, self.sort, self.starred, self.bin):
            one.observe(self.safely(self._first_page), "value")
        self.every.observe(self.safely(self._choose_all), "value")
        pressed = {
            self.before: lambda: self._turn(-1), self.after: lambda: self._turn(1), self.give: lambda: self._tag(True),
            self.take: lambda: self._tag(False), self.delete: self._delete, self.undo: self._undo,
            self.restore: self._restore, self.purge: self._purge, self.rename: self._rename, self.note: self._note,
            self.again: self._again, self.export: self._export, self.bring: self._bring, self.check: self._check,
            self.repair: self._repair, self.look: self.refresh,
        }  # fmt: skip
        for one, call in pressed.items():
            one.on_click(self.safely(call))
        self.waste = row(self.restore, self.purge)
        care = stack(row(self.path, self.export, self.bring), row(self.check, self.repair))
        self.panel(
            "Library",
            row(self.query, self.tag, self.sort),
            row(self.starred, self.bin, self.every, self.look),
            classed(w.VBox([line.box for line in self.lines]), "muse-list"),
            row(self.before, self.after, self.where, self.delete, self.undo), self.waste, self.desk,
            row(self.tags, self.give, self.take), row(self.text, self.rename, self.note, self.again),
            w.Accordion([care], titles=("Export, import and check",)),
        )  # fmt: skip

    # -- what is shown

    def refresh(self) -> None:
        """Ask the database again; another notebook may have written to it."""
        with self._refreshing:
            self._refresh()

    def _refresh(self) -> None:
        tags = [ALL, *self.state.tags()]
        if list(self.tag.options) != tags:
            chosen = self.tag.value
            self.tag.options = tags
            self.tag.value = chosen if chosen in tags else ALL
        asked = {"tags": [] if self.tag.value == ALL else [self.tag.value], "starred": self.starred.value}
        asked |= {"sort": self.sort.value, "deleted": self.bin.value}
        found = self.state.search(self.query.value, **asked, limit=PAGE + 1, offset=self.page * PAGE)
        for i, line in enumerate(self.lines):
            line.fill(found[i] if i < min(len(found), PAGE) else None)
        self.before.disabled, self.after.disabled = self.page == 0, len(found) <= PAGE
        self.waste.layout.display = None if self.bin.value else "none"  # only beside what is in the bin
        shown = min(len(found), PAGE)
        first = self.page * PAGE
        self.where.value = f"{first + 1} to {first + shown}" if shown else "nothing here"
        self.purge.description = "Empty the bin"
        self.every.value = False

    def _first_page(self) -> None:
        self.page = 0
        self.refresh()

    def _turn(self, by: int) -> None:
        self.page = max(0, self.page + by)
        self.refresh()

    def _choose_all(self) -> None:
        for line in self.lines:
            if line.entry is not None:
                line.chosen.value = self.every.value

    def chosen(self) -> list[Entry]:
        """The pieces that are ticked."""
        return [line.entry for line in self.lines if line.entry is not None and line.chosen.value]

    def chose(self) -> None:
        """Show the chosen one's name where it can be changed."""
        found = self.chosen()
        if len(found) == 1:
            self.text.value = found[0].name

    def _wanted(self, one: bool = False) -> list[str]:
        found = [entry.id for entry in self.chosen()]
        if not found or (one and len(found) > 1):
            raise MuseError("choose one piece first" if one else "choose some pieces first")
        return found

    # -- what is done

    def play(self, entry: Entry) -> None:
        """Put a piece on."""
        audio, rate = self.state.audio(entry.id)
        self.desk.play(audio[:2], rate, entry.name)

    def _tag(self, give: bool) -> None:
        tags, wanted = tags_of(self.tags.value), self._wanted()
        self.state.tag(wanted, **({"add": tags} if give else {"remove": tags}))
        self._done(f"{'tagged' if give else 'untagged'} {len(wanted)}")

    def _delete(self) -> None:
        wanted = self._wanted()
        self.state.delete(wanted)
        self._done(f"{len(wanted)} went into the bin; Undo brings them back")

    def _undo(self) -> None:
        self._done(f"{len(self.state.undo())} came back")

    def _restore(self) -> None:
        self.state.restore(self._wanted())
        self._done("restored")

    def _purge(self) -> None:
        if self.purge.description == "Empty the bin":
            n = len(self.state.bin())
            if n:
                self.purge.description = f"Really remove {n} for ever?"
            self.say(f"{n} in the bin" + ("; press again to remove them, there is no undo" if n else ""))
            return
        self._done(f"{self.state.purge()} were removed")

    def _rename(self) -> None:
        self.state.rename(self._wanted(one=True)[0], self.text.value)
        self._done("renamed")

    def _note(self) -> None:
        self.state.note(self._wanted(one=True)[0], self.text.value)
        self._done("noted")

    def _export(self) -> None:
        ids = [entry.id for entry in self.chosen()] or None
        place = self.path.value.strip() or str(self.state.folder / "export.zip")

        def work() -> str:
            before = len(self.state.notices)
            written = self.state.export(place, ids)
            return "; ".join([f"written: {written.name}", *self.state.notices[before:]])

        self._run(work)

    def _bring(self) -> None:
        place = self.path.value.strip()
        if not place:
            raise MuseError("write the folder to import into the field beside this button")

        def work() -> str:
            done = self.state.import_folder(place)
            self.library_changed()
            bell.ring(self.state.folder, self)
            told = [f"{len(done.added)} taken in, {len(done.present)} were there"]
            return "; ".join(told + [f"{len(done.refused)} refused: {done.refused[0][1]}"] if done.refused else told)

        self._run(work)

    def _check(self) -> None:
        def work() -> str:
            found = self.state.check()
            return "; ".join([f"{len(found)} problems", *(p.text for p in found[:3])]) if found else "all is well"

        self._run(work)

    def _repair(self) -> None:
        self._done("; ".join(self.state.repair()) or "nothing to repair")

    def _again(self) -> None:
        [identity] = self._wanted(one=True)
        if self.weights is None:
            raise MuseError('this view has no system; make it with Library(..., weights="mini")')

        def work() -> str:
            if not isinstance(self.weights, Muse):
                self.weights = Muse.from_pretrained(self.weights)
            self.again_piece = self.state.again(identity, self.weights, self.job.follow(1), self.job.flag)
            same = self.state.same_bits(identity, self.again_piece)
            name = self.state.get(identity).name
            self.desk.play(self.again_piece.audio, self.again_piece.sample_rate, f"again: {name}")
            return "made again: the same bits" if same else "made again; bits differ on this machine"

        self._run(work)

    def _run(self, work) -> None:
        self.job.start(work, "working")

    def _done(self, text: str) -> None:
        self.refresh()
        self.say(text)
        bell.ring(self.state.folder, self)

    def library_changed(self) -> None:
        """Another view kept or changed something."""
        self.safely(self.refresh)()

    def _show(self) -> None:
        self.show_job(self.job, self.again, self.export, self.bring, self.check)
