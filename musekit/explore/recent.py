"""Recent: the sounds that were heard last, at hand at once; those not heard for longest leave first."""

from __future__ import annotations

import threading
from collections import OrderedDict

from musekit.explore.take import Take


class Recent:
    """At most `most` takes by their keys, for several threads."""

    def __init__(self, most: int):
        self.most, self._takes, self._lock = most, OrderedDict(), threading.Lock()

    def get(self, key: str) -> Take | None:
        """A take that is still here; it counts as heard now."""
        with self._lock:
            if key in self._takes:
                self._takes.move_to_end(key)
            return self._takes.get(key)

    def put(self, key: str, take: Take) -> None:
        """Remember a take."""
        with self._lock:
            self._takes[key] = take
            while len(self._takes) > self.most:
                self._takes.popitem(last=False)

    def __len__(self) -> int:
        return len(self._takes)
