"""UMAP in a process of its own, which ends a minute after the last map.

Its compiler takes seconds to start, and hundreds of megabytes, which the kernel would keep. No torch is imported here.
"""

import warnings

import numpy as np
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

from musekit.config import MuseError

PATIENCE = 60.0  # seconds without a map


def work(rows: np.ndarray, options: dict) -> np.ndarray:
    """What the process does."""
    from umap import UMAP

    warnings.simplefilter("ignore")  # about a fixed seed that means one thread, and a graph that is not connected
    return UMAP(n_jobs=1, **options).fit_transform(rows)


def layout(rows: np.ndarray, **options) -> np.ndarray:
    """UMAP's places (n, 2) of rows (n, D). Raises what UMAP raises, and MuseError where its process dies."""
    for _ in range(2):  # the process may have died since the last map
        try:
            return get_reusable_executor(1, timeout=PATIENCE).submit(work, rows, options).result()
        except BrokenProcessPool:
            pass
    raise MuseError("the process that lays out the map has died; try once more")
