"""The files of a dataset's folder, and which of them a table means."""

from __future__ import annotations

import functools
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from musekit.corpus.sound import BadAudio

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus", ".oga", ".au", ".caf", ".w64")
OTHER = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".ape", ".wv", ".mpc", ".ac3", ".amr")  # of other decoders


def plain(path: str) -> str:
    """A path by which paths of other systems are compared."""
    return unicodedata.normalize("NFC", path).casefold()


class Listing:
    """The files below a folder, by their paths relative to it. Dot files and folders are none of them, and links to
    folders are not followed; links to files are: a hub's snapshot consists of them.
    """

    def __init__(self, folder: Path):
        self.folder, self.files, self.passed_over = folder, set(), {}
        for root, folders, files in os.walk(folder):
            here = Path(root).relative_to(folder).as_posix() + "/" if Path(root) != folder else ""
            links = {name for name in folders if os.path.islink(os.path.join(root, name))}
            folders[:] = sorted(name for name in folders if name[0] != "." and name not in links)
            self.passed_over |= {here + name: "a linked folder, which is not followed" for name in links}
            self.files |= {here + name for name in files if name[0] != "."}
        other = (path for path in self.files if path.lower().endswith(OTHER))
        self.passed_over |= dict.fromkeys(other, "a format that is not read: convert it to FLAC, OGG or MP3")
        self.audio = sorted(path for path in self.files if path.lower().endswith(AUDIO))

    @functools.cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Audio files by the last part of their plain paths, with and without suffix."""
        found = defaultdict(list)
        for path in self.audio:
            name = plain(path).rpartition("/")[2]
            for key in {name, posixpath.splitext(name)[0]}:
                found[key].append(path)
        return found

    def find(self, name: str) -> str:
        """The path of the file that a table calls `name`: this path, or the one file that it can mean when it is of
        another system, in another case, absolute, or without suffix. Raises BadAudio.
        """
        if name in self.files:
            return name
        path = posixpath.normpath(name.replace("\\", "/"))
        for root in {str(self.folder.absolute()), str(self.folder.resolve())}:
            path = path.removeprefix(f"{root}/")
        if path in self.files:
            return path
        wanted = f"/{plain(path)}"
        found = [
            (f"/{form}" != wanted, candidate)
            for candidate in self.by_name.get(wanted.rpartition("/")[2], ())
            for form in (plain(candidate), posixpath.splitext(plain(candidate))[0])
            if f"/{form}".endswith(wanted) or wanted.endswith(f"/{form}")
        ]
        found = [candidate for worse, candidate in found if worse == min(found)[0]]
        if path.startswith("../") or not found and re.match(r"/|[a-zA-Z]:/", path):
            raise BadAudio("outside the folder")
        if not found:
            hidden = os.path.exists(self.folder / path)
            raise BadAudio("in a hidden or linked folder" if hidden else "no such file")
        if len(found) > 1:
            raise BadAudio(f"several files have this name ({', '.join(found)})")
        return found[0]
