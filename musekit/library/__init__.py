"""The Library: what was kept, in a folder of its own.

library/library.sqlite    what is known of each piece, and its full-text index (WAL: several processes at once)
library/edits.jsonl       every change a person made, one a line, so that a lost database loses nothing
library/sounds/<id>.flac  the sounds; each carries its recipe, so a file alone can be made again

library = Library()                       # MUSEKIT_HOME/library
kept = library.add(piece, tags=["slow"])
library.search('sad "piano', tags=["slow"], sort="similarity")
library.again(kept.id, muse)              # the same bits
"""

from musekit.library.entry import Entry
from musekit.library.shelf import Library

__all__ = ["Entry", "Library"]
