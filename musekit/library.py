"""The library of kept pieces: keep, find, tag, star, delete and undo, export and import.

sounds/<id>.flac  the sound; the file alone is enough to render its piece again
sounds/<id>.json  its entry, with its present name, tags, star and notes; where it is lost, the sound's own entry counts

library = Library()                       # the folder MUSEKIT_HOME/library
entry = library.add(piece, tags=["slow"])
library.search("sad piano", tags=["slow"], sort="similarity")

Several processes may use one folder.
"""

import datetime
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import filelock
import msgspec
import numpy as np

from musekit import entry as files
from musekit.config import MuseError, home, suggest
from musekit.corpus.listing import AUDIO
from musekit.entry import Entry, clean_tags, clean_text, measured, quantize, read_entry, read_samples
from musekit.files import read_json, write_atomic
from musekit.recipe import file_stem

MAX_DOWNLOAD = 400 * 2**20  # bytes, through the connection of a page
LOCK_SECONDS = 30.0  # to wait for another process's write
SORTS: dict[str, Callable[[Entry], object]] = {  # the smallest first; equal ones newest first
    "newest": lambda e: 0,
    "name": lambda e: e.name.casefold(),
    "similarity": lambda e: 2.0 if e.similarity is None else -e.similarity,
    "starred": lambda e: not e.star,
}


def now() -> str:
    """UTC, to the microsecond, so that the latest piece sorts first."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Library:
    """The pieces of one folder. Methods take the ids of entries that `search` returns.

    `trouble` says which sounds could not be read when the library was last searched.
    """

    def __init__(self, folder: str | Path | None = None):
        """Open or make the library of a folder (default: MUSEKIT_HOME/library). Raises MuseError where it cannot."""
        self.folder, self.trouble = Path(folder).expanduser() if folder is not None else home() / "library", ""
        self._past: list[tuple[Entry, ...]] = []  # before each change of this object, oldest first
        self.sounds, self.lock = self.folder / "sounds", filelock.FileLock(self.folder / ".lock", timeout=LOCK_SECONDS)
        try:
            self.sounds.mkdir(parents=True, exist_ok=True)
            with self.lock:
                pass
        except (OSError, NotImplementedError) as error:  # no locks on this file system
            why = getattr(error, "strerror", None) or error
            raise MuseError(f"cannot make the library {self.folder}: {why}; choose another MUSEKIT_HOME") from error

    def file(self, entry: Entry) -> Path:
        """The FLAC file of an entry."""
        return self.sounds / f"{entry.id}.flac"

    def _all(self) -> dict[str, Entry]:
        """{id: entry} of all pieces, those in the bin too."""
        entries, unread = {}, []
        for identity in sorted({path.stem for path in self.sounds.glob("[!.]*.*")}):
            path = self.sounds / f"{identity}.json"
            try:
                try:
                    entry = read_json(path, Entry)
                except (OSError, MuseError):  # lost or damaged
                    sound = path.with_suffix(".flac")
                    entry = measured(read_entry(sound), *read_samples(sound))
                entries[identity] = replace(entry, id=identity)
            except MuseError:
                unread.append(identity)
        self.trouble = f"{len(unread)} sounds cannot be read: {', '.join(unread[:3])}" if unread else ""
        return entries

    def _put(self, *entries: Entry) -> None:
        for entry in entries:
            write_atomic(self.file(entry).with_suffix(".json"), msgspec.json.encode(entry))

    # -- keep

    def add(self, piece, name: str = "", tags: Iterable[str] = (), star: bool = False, notes: str = "") -> Entry:
        """Keep a `muse.Piece` or a `lab.rendering.RenderedPiece`. Returns its entry.

        The same sound of the same recipe is kept once: adding it again returns the entry that is there, out of the bin,
        with these tags too and with its file written again. Raises MuseError where the disk is full.
        """
        entry = files.entry_of(piece)
        own = {"name": clean_text(name or entry.name), "notes": clean_text(notes, lines=True)}
        entry = replace(entry, **own, tags=clean_tags(tags), star=star)
        return self._keep(quantize(piece.audio), piece.sample_rate, entry)[0]

    def _keep(self, audio: np.ndarray, sample_rate: int, entry: Entry) -> tuple[Entry, bool]:
        """The entry of int16 samples (channels, N), and whether it is new: a piece is its samples and its recipe."""
        identity = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(5)}"  # no text from a user
        entry = measured(replace(entry, id=identity, made=entry.made or now(), deleted=None), audio, sample_rate)
        with self.lock:
            same = [e for e in self._all().values() if e.content == entry.content and entry.recipe in (None, e.recipe)]
            if same:
                entry = replace(same[0], deleted=None, tags=clean_tags([*same[0].tags, *entry.tags]))
            write_atomic(self.file(entry), files.flac(audio, sample_rate, entry))
            self._put(entry)
        return entry, not same

    # -- find

    def search(self, text: str = "", tags: Iterable[str] = (), starred: bool = False, sort: str = "newest",
               deleted: bool = False) -> list[Entry]:  # fmt: skip
        """Entries whose name, prompt, tags or notes contain each word of `text`, and that have all tags.

        sort: one of `SORTS`. deleted: search the bin. Raises MuseError for an unknown sort order.
        """
        if sort not in SORTS:
            raise suggest(sort, SORTS, "sort order")
        words, tags = clean_text(text).casefold().split(), set(clean_tags(tags))
        found = [
            entry
            for entry in self._all().values()
            if bool(entry.deleted) is deleted
            and (entry.star or not starred)
            and tags <= set(entry.tags)
            and all(word in text_of(entry) for word in words)
        ]
        return sorted(sorted(found, key=lambda e: (e.made, e.id), reverse=True), key=SORTS[sort])

    def get(self, identity: str) -> Entry:
        """One entry. Raises MuseError where there is none."""
        return found(self._all(), identity)

    def __len__(self) -> int:
        return len(self.search())

    def audio(self, identity: str) -> tuple[np.ndarray, int]:
        """The sound (channels, N) float32 and its rate in Hz. Raises MuseError where the file is gone or broken."""
        path = self.file(self.get(identity))
        return files.read_audio(path, path.name)

    def same_sound(self, identity: str, piece) -> bool:
        """Whether a piece has exactly the samples of an entry."""
        return self.get(identity).content == files.fingerprint(quantize(piece.audio), piece.sample_rate)

    # -- change

    def _change(self, ids: Iterable[str], change: Callable[[Entry], Entry]) -> None:
        """Change several entries. Raises MuseError, before any change, where one does not exist."""
        with self.lock:
            there = self._all()
            before = tuple(found(there, identity) for identity in ids)
            self._put(*map(change, before))
            self._past.append(before)

    def tag(self, ids: Iterable[str], add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Add tags to pieces and remove tags from them."""
        new, gone = clean_tags(add), clean_tags(remove)
        self._change(ids, lambda e: replace(e, tags=clean_tags(t for t in (*e.tags, *new) if t not in gone)))

    def star(self, ids: Iterable[str], on: bool = True) -> None:
        """Star pieces, or remove their stars."""
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
        """Put pieces into the bin. `undo` brings the last ones back."""
        time = now()
        self._change(ids, lambda e: replace(e, deleted=time))

    def undo(self) -> list[str]:
        """Take back the last change of names, tags, stars, notes or deletions, or else the last `delete` of another
        process; returns the ids of the pieces, [] where there is nothing to undo.
        """
        with self.lock:
            there, back = self._all(), self._past.pop() if self._past else ()
            if not back:
                bin_ = [e for e in there.values() if e.deleted]
                back = [replace(e, deleted=None) for e in bin_ if e.deleted == max(e.deleted for e in bin_)]
            back = [e for e in back if e.id in there]
            self._put(*back)
        return [e.id for e in back]

    def purge(self) -> int:
        """Remove all pieces in the bin for ever, with their files; returns how many."""
        with self.lock:
            gone = [entry for entry in self._all().values() if entry.deleted]
            for path in map(self.file, gone):
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
        return len(gone)

    # -- export and import

    def export(self, folder: str | Path, ids: Iterable[str] | None = None) -> list[str]:
        """Write pieces (None: all but the bin) into a folder, as FLAC files with their present names, tags and notes.

        Returns one line per piece whose sound is missing or broken. Raises MuseError for a folder that is not writable.
        """
        folder, missing = Path(folder).expanduser(), []
        for entry in self.search() if ids is None else [self.get(identity) for identity in ids]:
            try:
                samples = read_samples(self.file(entry))
            except MuseError:
                missing.append(f"the sound of {entry.id} is missing or broken and was not exported")
            else:
                write_atomic(folder / f"{file_stem(entry.name, 30)}-{entry.id}.flac", files.flac(*samples, entry))
        return missing

    def download(self, ids: Iterable[str]) -> tuple[str, bytes]:
        """One piece as a FLAC file, or several as a ZIP of such files: its name, and its bytes.

        Raises MuseError where a sound is missing or broken, or all are too much for a browser.
        """
        with tempfile.TemporaryDirectory() as folder:
            if missing := self.export(pieces := Path(folder) / "pieces", ids):
                raise MuseError(missing[0])
            paths = list(pieces.iterdir())
            if sum(path.stat().st_size for path in paths) > MAX_DOWNLOAD:
                raise MuseError(f"{len(paths)} pieces are too much for one download: export them to a folder")
            if len(paths) == 1:
                return paths[0].name, paths[0].read_bytes()
            archive = shutil.make_archive(f"{folder}/all", "zip", pieces)
            return f"muse-{len(paths)}-pieces-{now()[:19].replace(':', '')}.zip", Path(archive).read_bytes()

    def import_folder(self, folder: str | Path) -> tuple[list[Entry], list[str]]:
        """Add the sounds of a folder and of its subfolders; the files there stay as they are.

        Files of a library or of `musekit generate` keep their entries, others have only a name. Returns the
        new entries, and one line per file that could not be read. Sounds that the library has are skipped. Raises
        MuseError for a bad folder or a full disk.
        """
        folder, added, refused = Path(folder).expanduser(), [], []
        if not folder.is_dir():
            raise MuseError(f"{str(folder)!r} is not a folder; choose one that holds sounds")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in AUDIO or path.name.startswith(".") or not path.is_file():
                continue
            try:
                entry, samples = read_entry(path), read_samples(path)
            except MuseError as error:
                refused.append(str(error))
                continue
            entry, new = self._keep(*samples, entry)
            if new:
                added.append(entry)
        return added, refused


def text_of(entry: Entry) -> str:
    """All text that a search looks through, in lower case."""
    return "\n".join((entry.name, entry.prompt, entry.notes, *entry.tags)).casefold()


def found(entries: dict[str, Entry], identity: str) -> Entry:
    """One of the entries. Raises MuseError where there is none of this id."""
    if identity not in entries:
        raise MuseError(f"the library has no piece {str(identity)[:60]!r}; take the id of an entry from `search`")
    return entries[identity]
