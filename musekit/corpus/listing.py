"""The files of a dataset's folder, and which of them a table means."""

import functools
import os
import posixpath
import unicodedata
from collections import defaultdict
from pathlib import Path

from musekit.corpus.sound import BadAudio

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus", ".oga", ".au", ".caf", ".w64")
OTHER = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".ape", ".wv", ".mpc", ".ac3", ".amr")  # of other decoders


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
    def by_stem(self) -> dict[str, list[str]]:
        """Audio files by the last part of their path in Unicode's NFC form and lower case, without suffix."""
        found = defaultdict(list)
        for path in self.audio:
            found[stem(path)].append(path)
        return found

    def find(self, name: str) -> str:
        """The path of the file that a table calls `name`: this path, also as an absolute one, or the one file that has
        its name, in any case and with any suffix. Raises BadAudio.
        """
        path = posixpath.normpath(name.replace("\\", "/").removeprefix(f"{self.folder.absolute()}/"))
        if path in self.files:
            return path
        if path.startswith(("../", "/")):
            raise BadAudio("outside the folder")
        found = self.by_stem.get(stem(path), [])
        if len(found) != 1:
            raise BadAudio(f"several files have this name ({', '.join(found[:3])})" if found else "no such file")
        return found[0]


def stem(path: str) -> str:
    """The last part of a path by which paths of other systems are compared."""
    return unicodedata.normalize("NFC", posixpath.splitext(posixpath.basename(path))[0]).casefold()
