"""Statistics of the evaluation: scipy's where it has them, the others from their definitions.

intervals    of means, differences, percentiles, proportions     spread       average pairwise distance
kernel       kernel distance (KAD)                               neighbours   precision, recall, density, coverage
"""

from __future__ import annotations

from musekit.statistics.intervals import (
    accuracy,
    interval,
    mean_interval,
    paired_difference,
    percentile_difference,
    wilson,
)
from musekit.statistics.kernel import KernelDistance
from musekit.statistics.spread import spread, spread_draws, unit_distances

__all__ = [
    "KernelDistance", "accuracy", "interval", "mean_interval", "paired_difference", "percentile_difference", "spread",
    "spread_draws", "unit_distances", "wilson",
]  # fmt: skip
