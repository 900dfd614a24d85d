"""Bell: the views of one kernel tell each other that a library changed. Other notebooks are asked for by Refresh."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

_listeners: dict[Path, weakref.WeakSet] = {}


def listen(folder: Path, view) -> None:
    """Have `view.library_changed()` called when another view changes the library of that folder."""
    _listeners.setdefault(Path(folder), weakref.WeakSet()).add(view)


def ring(folder: Path, by) -> None:
    """Tell all but `by`, who knows."""
    for view in list(_listeners.get(Path(folder), ())):
        if view is not by:
            call: Callable[[], None] = view.library_changed
            call()
