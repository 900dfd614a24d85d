"""The library of kept pieces: an SQLite database beside FLAC files whose comment says how each piece was made.

library/library.sqlite    the one source of truth: what is kept, its names, tags, stars and notes
library/sounds/<id>.flac  the sounds; a file alone is enough to render its piece again

library = Library()                       # the folder MUSEKIT_HOME/library
entry = library.add(piece, tags=["slow"])
library.search("sad piano", tags=["slow"], sort="similarity")
"""

from musekit.library.library import Entry, Library

__all__ = ["Entry", "Library"]
