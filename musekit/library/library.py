"""The library: keep, find, tag, star, delete and undo, export and import. Several processes may use one folder."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import secrets
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from musekit.config import MuseError, suggest
from musekit.files import write_atomic
from musekit.library import sounds
from musekit.library.sounds import Entry, clean_tags, clean_text
from musekit.library.store import Store, content_of, measured, new_id, now, put
from musekit.recipe import file_stem

SORTS: dict[str, Callable[[Entry], tuple]] = {  # the least first
    "newest": lambda e: (),
    "oldest": lambda e: (e.made, e.id),
    "name": lambda e: (e.name.casefold(),),
    "similarity": lambda e: (-(-2.0 if e.similarity is None else e.similarity),),
    "longest": lambda e: (-e.seconds,),
    "starred": lambda e: (not e.star,),
}


@dataclass
class Imported:
    """The result of importing a folder."""

    added: list[Entry] = field(default_factory=list)
    present: list[str] = field(default_factory=list)  # files whose sound the library has
    refused: list[tuple[str, str]] = field(default_factory=list)  # (file, why)


def words(text: str) -> list[str]:
    """The words of a text as search compares them: in lower case, without accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain.casefold())


def entry_of(piece) -> Entry:
    """What is known of a `muse.Piece` or a `lab.rendering.RenderedPiece`."""
    embedding = np.asarray(piece.embedding, dtype="<f4").tobytes()
    origin, similarity = getattr(piece, "origin", None), float(piece.similarity)
    return Entry(name=piece.recipe.prompt, recipe=piece.recipe, origin=origin, embedding=embedding,
                 similarity=similarity, made=now())  # fmt: skip


class Library(Store):
    """The pieces of one folder. Ids are those of entries that `search` returns.

    Adding writes the sound first and commits its entry after it; purging commits first and removes the file after it.
    A process that is killed between the two leaves a file without an entry, which `import_folder` can add.
    """

    def __init__(self, folder: str | Path | None = None):
        """Open or make the library of a folder (default: MUSEKIT_HOME/library). Raises MuseError where that fails."""
        super().__init__(folder)
        self._deleted: list[list[str]] = []  # what each `delete` of this session took, for `undo`

    # -- keep

    def add(self, piece, name: str = "", tags: Iterable[str] = (), star: bool = False, notes: str = "") -> Entry:
        """Keep a `muse.Piece` or a `lab.rendering.RenderedPiece`. Returns its entry.

        The same sound of the same recipe is kept once: adding it again returns the entry that is there, out of the bin
        and with its file restored if need be. Raises MuseError where the disk is full.
        """
        entry, notes = entry_of(piece), clean_text(notes, lines=True)
        entry = replace(entry, name=clean_text(name or entry.name), tags=clean_tags(tags), star=star, notes=notes)
        return self._keep(sounds.quantize(piece.audio), piece.sample_rate, entry)[0]

    def _keep(self, audio: np.ndarray, sample_rate: int, entry: Entry) -> tuple[Entry, bool]:
        """The entry of integer samples (channels, N), and whether it is new."""
        entry = measured(replace(entry, id=new_id(), made=entry.made or now(), deleted=None), audio, sample_rate)
        same = [e for e in self.all().values() if e.content == entry.content and entry.recipe in (None, e.recipe)]
        if not same:
            write_atomic(self.file(entry), sounds.flac(audio, sample_rate, entry))
            with self.transaction() as db:
                put(db, entry)
            return entry, True
        if content_of(self.file(same[0])) != entry.content:  # the file was removed or damaged
            write_atomic(self.file(same[0]), sounds.flac(audio, sample_rate, same[0]))
        if same[0].deleted:
            self.restore([same[0].id])
        return self.get(same[0].id), False

    # -- find

    def search(self, text: str = "", tags: Iterable[str] = (), starred: bool = False, sort: str = "newest",
               limit: int | None = None, offset: int = 0, deleted: bool = False) -> list[Entry]:  # fmt: skip
        """Entries with all words of `text` (as beginnings of words of name, prompt, tags or notes) and all tags.

        A text is only words: quotes and operators mean nothing. sort: one of `SORTS`, equal ones newest first. deleted:
        search the bin. Raises MuseError for an unknown sort order.
        """
        if sort not in SORTS:
            raise suggest(sort, SORTS, "sort order")
        asked, tags, nothing = words(text), set(clean_tags(tags)), bool(text.strip()) and not words(text)

        def fits(e: Entry) -> bool:
            if bool(e.deleted) is not deleted or (starred and not e.star) or not tags <= set(e.tags):
                return False
            there = "".join(f" {word}" for word in words("\n".join((e.name, e.prompt, e.notes, *e.tags))))
            return all(f" {word}" in there for word in asked)

        found = [] if nothing else [e for e in self.all().values() if fits(e)]
        found = sorted(sorted(found, key=lambda e: (e.made, e.id), reverse=True), key=SORTS[sort])
        return found[offset:] if limit is None else found[offset : offset + limit]

    def get(self, identity: str) -> Entry:
        """One entry. Raises MuseError where there is none."""
        return found(self.all(), identity)

    def tags(self) -> dict[str, int]:
        """{tag: number of pieces with it, without the bin}, the most used first."""
        counts = collections.Counter(tag for entry in self.search() for tag in entry.tags)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def __len__(self) -> int:
        return len(self.search())

    def audio(self, identity: str) -> tuple[np.ndarray, int]:
        """The sound (channels, N) float32 and its rate in Hz. Raises MuseError where the file is gone or broken."""
        import soundfile

        path = self.file(self.get(identity))
        try:
            x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (OSError, RuntimeError) as error:
            raise MuseError(
                f"the sound of {identity} is missing or broken ({path}); keep the same piece again, or import a copy"
            ) from error
        return x.T, rate

    def same_sound(self, identity: str, piece) -> bool:
        """Whether a piece has the very samples of an entry."""
        return self.get(identity).content == sounds.fingerprint(sounds.quantize(piece.audio), piece.sample_rate)

    # -- change

    def _change(self, ids: Iterable[str], change: Callable[[Entry], Entry]) -> list[str]:
        """Change several entries, all of them or none."""
        wanted = list(dict.fromkeys([ids] if isinstance(ids, str) else ids))
        with self.transaction() as db:
            there = self.entries(db)
            for entry in [change(found(there, identity)) for identity in wanted]:
                put(db, entry)
        return wanted

    def tag(self, ids: Iterable[str], add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Add tags to pieces and remove tags from them."""
        new, gone = clean_tags(add), clean_tags(remove)
        self._change(ids, lambda e: replace(e, tags=clean_tags(t for t in (*e.tags, *new) if t not in gone)))

    def star(self, ids: Iterable[str], on: bool = True) -> None:
        """Star pieces, or take their stars."""
        self._change(ids, lambda e: replace(e, star=on))

    def rename(self, identity: str, name: str) -> None:
        """Rename a piece; "" brings its prompt back."""
        text = clean_text(name)
        self._change([identity], lambda e: replace(e, name=text or e.prompt or e.id))

    def note(self, identity: str, text: str) -> None:
        """Write a note to a piece; search reads it too."""
        notes = clean_text(text, lines=True)
        self._change([identity], lambda e: replace(e, notes=notes))

    def delete(self, ids: Iterable[str]) -> None:
        """Put pieces into the bin. `undo` brings the last ones back, `restore` any."""
        time = now()
        self._deleted.append(self._change(ids, lambda e: replace(e, deleted=time)))

    def restore(self, ids: Iterable[str]) -> None:
        """Take pieces out of the bin."""
        self._change(ids, lambda e: replace(e, deleted=None))

    def undo(self) -> list[str]:
        """Bring back what the last `delete` of this session took; returns the ids, [] where there is nothing."""
        there, back = {entry.id for entry in self.bin()}, []
        while self._deleted and not back:
            back = [identity for identity in self._deleted.pop() if identity in there]
        self.restore(back)
        return back

    def bin(self) -> list[Entry]:
        """Deleted pieces that were not purged, newest first."""
        return self.search(deleted=True)

    def purge(self, ids: Iterable[str] | None = None) -> int:
        """Remove deleted pieces for ever, with their files (None: the whole bin); returns how many.

        Raises MuseError for a piece that is not in the bin.
        """
        with self.transaction() as db:
            there = {e.id: e for e in self.entries(db).values() if e.deleted}
            gone = list(there.values()) if ids is None else [found(there, identity, "bin") for identity in ids]
            db.executemany("DELETE FROM pieces WHERE id = ?", [(entry.id,) for entry in gone])
        for entry in gone:  # only after the commit
            with contextlib.suppress(OSError):
                self.file(entry).unlink()
        return len(gone)

    # -- in and out

    def export(self, path: str | Path, ids: Iterable[str] | None = None) -> Path:
        """Write a zip of pieces (None: all but the bin): FLAC files that hold their present names, tags and notes.

        A missing or broken sound is left out, with a line in `notices`. Raises MuseError where the zip cannot be
        written; an older one at that place then stays.
        """
        entries = self.search() if ids is None else [self.get(identity) for identity in ids]
        path = Path(path).expanduser().with_suffix(".zip")
        aside = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(aside, "w") as file:  # not compressed: FLAC does not get smaller
                for entry in entries:
                    try:
                        data = sounds.flac(*sounds.read_samples(self.file(entry)), entry)
                        file.writestr(f"{file_stem(entry.name, 30)}-{entry.id}.flac", data)
                    except MuseError:
                        self.notices.append(f"the sound of {entry.id} is missing or broken and was not exported")
            os.replace(aside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise MuseError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
        return path

    def import_folder(self, folder: str | Path, tags: Sequence[str] = ()) -> Imported:
        """Add the sounds of a folder and of the folders in it; the files there stay as they are.

        Files of a library or of `musekit generate` keep their entries, others have a name only. All of them get `tags`.
        A file that cannot be read is listed in `refused`. Raises MuseError for a bad folder or a full disk.
        """
        folder, tags, done = Path(folder).expanduser(), clean_tags(tags), Imported()
        if not folder.is_dir():
            raise MuseError(f"{str(folder)!r} is not a folder; choose one that holds sounds")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in sounds.SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            try:
                sounds.read_sound(path)  # raises where it is too long, silent or not sound
                entry, (audio, rate) = sounds.read_entry(path), sounds.read_samples(path)
            except MuseError as error:
                done.refused.append((path.name, str(error)))
                continue
            entry, new = self._keep(audio, rate, replace(entry, tags=clean_tags([*entry.tags, *tags])))
            done.added.append(entry) if new else done.present.append(path.name)
        return done


def found(entries: dict[str, Entry], identity: str, where: str = "library") -> Entry:
    """One of the entries. Raises MuseError where it is none of them."""
    if identity not in entries:
        raise MuseError(f"the {where} has no piece {str(identity)[:60]!r}; take the id of an entry from `search`")
    return entries[identity]
