"""Statistics of the evaluation. scipy's where it has them, the rest from their definitions.

bootstrap    intervals of means, differences, percentiles    proportion   how many of n
pairwise     distances of rows, and spread, their average    sparsity     Hoyer's
frechet      Frechet distance, and at infinite N             kernel       kernel distance (KAD)
neighbours   precision, recall, density, coverage, nearest row
"""

from __future__ import annotations

from musekit.statistics.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    interval,
    mean_interval,
    paired_difference,
    percentile_difference,
)
from musekit.statistics.kernel import KernelDistance
from musekit.statistics.pairwise import spread, spread_draws, unit_distances
from musekit.statistics.proportion import accuracy, wilson
from musekit.statistics.sparsity import hoyer

__all__ = [
    "CONFIDENCE", "RESAMPLES", "KernelDistance", "accuracy", "hoyer", "interval", "mean_interval", "paired_difference",
    "percentile_difference", "spread", "spread_draws", "unit_distances", "wilson",
]  # fmt: skip
