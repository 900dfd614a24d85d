"""Statistics of the evaluation: scipy's where it has them, the others from their definitions.

intervals    of means, differences, percentiles, proportions     spread       average pairwise distance
kernel       kernel distance (KAD)                               neighbours   precision, recall
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
from musekit.statistics.neighbours import nearest, precision_and_recall
from musekit.statistics.spread import spread, spread_draws, spread_with_interval, unit_distances

__all__ = [
    "KernelDistance", "accuracy", "interval", "mean_interval", "nearest", "paired_difference", "percentile_difference",
    "precision_and_recall", "spread", "spread_draws", "spread_with_interval", "unit_distances", "wilson",
]  # fmt: skip
