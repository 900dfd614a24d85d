"""The files of a dataset's folder, and which of them a table means."""

import functools
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from musekit.corpus.sound import BadAudio

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus", ".oga", ".au", ".caf", ".w64")
MOST = 1000  # files of one name that are compared with a path
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

    def is_file(self, path: str) -> bool:
        """Whether it is one of these, and no pipe or device."""
        return path in self.files and os.path.isfile(self.folder / path)

    @functools.cached_property
    def plain(self) -> dict[str, list[str]]:
        """Audio files by "/" and their plain path, and by its last part; with and without suffix."""
        found = defaultdict(list)
        for path in self.audio:
            whole = f"/{plain(path)}"
            for key in {whole, whole.rpartition("/")[2]}:
                found[key].append(path)
                found[posixpath.splitext(key)[0]].append(path)
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
        found = self.plain.get(wanted, [])
        for other in self.plain.get(wanted.rpartition("/")[2], [])[:MOST] if not found else ():
            form = f"/{plain(other)}" if wanted.endswith(AUDIO) else posixpath.splitext(f"/{plain(other)}")[0]
            found = [*found, other] if form.endswith(wanted) or wanted.endswith(form) else found
        if path.startswith("../") or not found and re.match(r"/|[a-zA-Z]:/", path):
            raise BadAudio("outside the folder")
        if not found:
            raise BadAudio("in a hidden or linked folder" if os.path.exists(self.folder / path) else "no such file")
        if len(found) > 1:
            raise BadAudio(f"several files have this name ({', '.join(found[:3])})")
        return found[0]
