"""Statistics of the evaluation: scipy's where it has them, the others from their definitions.

Intervals are two-sided, 95 %. Means, spreads and percentiles have the seeded percentile bootstrap's (Efron 1979),
proportions Wilson's (Wilson 1927).

The kernel distance is KAD (Chung et al. 2025, arXiv 2502.15602), 100 times the squared maximum mean discrepancy
(Gretton et al. 2012) with a Gaussian kernel, whose bandwidth s is the reference's median distance between two rows:

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),    k(a, b) = exp(-|a - b|^2 / (2 s^2))

Each expectation is a mean over pairs of different rows, so the estimate is unbiased at any N, and may be below 0 where
the distributions are equal.

Precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): a set's manifold is the union of balls around its
rows, each reaching to the row's third nearest neighbour in the set. Precision is the share of generated rows inside the
real manifold, recall the share of real rows inside the generated one.
"""

from collections.abc import Callable

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000  # of the bootstrap
SCALE = 100.0  # of the kernel distance, the paper's
NEIGHBOURS = 3  # of precision and recall


# -- intervals


def counts(n: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of n items is drawn in each bootstrap sample, (resamples, n).

    The same seed gives the same draws, so statistics of paired items (same seeds, prompts or clips) are redrawn
    together, and the interval of their difference is the paired one.
    """
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap draws."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def mean_interval(x: np.ndarray, seed: int = 0) -> dict:
    """{"mean", "low", "high"}: the mean of x (n,) and its interval."""
    x = np.asarray(x, float)
    low, high = interval(counts(len(x), seed) @ x / len(x))
    return {"mean": float(x.mean()), "low": low, "high": high}


def two_sample(x: np.ndarray, y: np.ndarray, statistic: Callable, seed: int = 0) -> dict:
    """{"value", "low", "high"} of statistic(x, y), which reduces the last axes; x and y are redrawn independently."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(x), np.asarray(y)), lambda a, b, axis: statistic(a, b), n_resamples=RESAMPLES, batch=100,
        confidence_level=CONFIDENCE, method="percentile", vectorized=True, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return {"value": float(statistic(x, y)), "low": float(found.low), "high": float(found.high)}


def accuracy(right: np.ndarray) -> dict:
    """{"n", "correct", "accuracy", "low", "high"} of an array of booleans, with Wilson's interval; accuracy is None
    for an empty array."""
    from scipy.stats import binomtest

    n, correct = len(right), int(np.sum(right))
    if not n:
        return {"n": 0, "correct": 0, "accuracy": None, "low": 0.0, "high": 1.0}
    found = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return {"n": n, "correct": correct, "accuracy": correct / n, "low": float(found.low), "high": float(found.high)}


# -- spread: the average distance between two different rows


def unit_distances(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """Euclidean distances between rows of x (n, D) and of y (m, D, default x): (n, m). Exact zeros on x's diagonal."""
    from scipy.spatial.distance import cdist

    return cdist(x, x if y is None else y)


def spread(x: np.ndarray) -> float:
    """Average distance of two different rows of x (n, D). Unbiased for any n, so sets of unequal size compare."""
    return float(unit_distances(x).sum() / (len(x) * (len(x) - 1)))


def spread_draws(x: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Bootstrap draws (resamples,) of the spread of x (n, D), n >= 2, without draws that consist of one row only.

    A row drawn twice is no pair with itself: sum_ij w_i w_j d_ij / (n^2 - sum_i w_i^2), w_i the times row i was drawn.
    """
    w = counts(len(x), seed, resamples)
    pairs = w.sum(1) ** 2 - (w**2).sum(1)
    return ((w @ unit_distances(x)) * w).sum(1)[pairs > 0] / pairs[pairs > 0]


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> dict:
    """{"value", "low", "high"} of sum(numerators) / sum(denominators); their items, such as prompts, are redrawn."""
    a, b, w = np.asarray(numerators, float), np.asarray(denominators, float), counts(len(numerators), seed)
    low, high = interval((w @ a) / (w @ b))
    return {"value": float(a.sum() / b.sum()), "low": low, "high": high}


# -- kernel distance


def kernel(x: np.ndarray, bandwidth: float) -> np.ndarray:
    """k of every pair of rows of x (n, D): (n, n)."""
    return np.exp(-(unit_distances(x) ** 2) / (2 * bandwidth**2))


def distance_draws(k: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kernel distances (R,) of two sets in a kernel matrix k (n, n), in which row i is a[r, i] and b[r, i] times.

    A row drawn twice is no pair with itself, so draws are unbiased too; NaN where a set consists of one row only.
    """

    def pairs(w: np.ndarray) -> np.ndarray:
        squares = w**2
        count = w.sum(1) ** 2 - squares.sum(1)
        return (((w @ k) * w).sum(1) - squares @ np.diag(k)) / np.where(count > 0, count, np.nan)

    return SCALE * (pairs(a) + pairs(b) - 2 * ((a @ k) * b).sum(1) / (a.sum(1) * b.sum(1)))


def permuted(n: int, m: int, seed: int, times: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Memberships (times + 1, n + m) of two sets of n and m rows: the true ones, then random permutations of them."""
    first = np.tile(np.arange(n + m) < n, (times + 1, 1)).astype(float)
    np.random.default_rng(seed).permuted(first[1:], axis=1, out=first[1:])
    return first, 1 - first


def share_as_large(draws: np.ndarray) -> float:
    """The permutation test's p: how often permuted statistics, draws[1:], reach the true one, draws[0]."""
    return float((draws >= draws[0]).mean())


class KernelDistance:
    """The kernel distance of sets to this reference (m, D). Raises ValueError for fewer than two different rows."""

    def __init__(self, reference: np.ndarray, bandwidth: float | None = None):
        from scipy.spatial.distance import pdist

        if len(reference) < 2:
            raise ValueError("a kernel distance needs two rows on each side")
        self.reference = np.asarray(reference, float)
        self.bandwidth = float(np.median(pdist(self.reference)) if bandwidth is None else bandwidth)
        if not self.bandwidth > 0:
            raise ValueError("the reference's rows are all alike, so a kernel has no bandwidth")

    def matrix(self, x: np.ndarray) -> np.ndarray:
        """The kernel matrix of x (n, D) and the reference together."""
        return kernel(np.concatenate([x, self.reference]), self.bandwidth)

    def draws(self, x: np.ndarray, drawn_x: np.ndarray, drawn_y: np.ndarray) -> np.ndarray:
        """Bootstrap draws (R,) of the distance of x (n, D); `drawn_*` (R, n) and (R, m) are from `counts`.

        Paired sets share `drawn_x`.
        """
        a, b = np.pad(drawn_x, ((0, 0), (0, len(self.reference)))), np.pad(drawn_y, ((0, 0), (len(x), 0)))
        return distance_draws(self.matrix(x), a, b)

    def permutations(self, x: np.ndarray, seed: int = 0) -> np.ndarray:
        """The distance of x (n, D), then its values where rows of x and of the reference change places at random."""
        return distance_draws(self.matrix(x), *permuted(len(x), len(self.reference), seed))

    def of(self, x: np.ndarray) -> float:
        """The distance of x (n, D), n >= 2."""
        return float(self.draws(x, np.ones((1, len(x))), np.ones((1, len(self.reference))))[0])

    def measured(self, x: np.ndarray, seed: int = 0) -> dict:
        """{"value", "low", "high", "p"}: the distance of x (n, D), n >= 2, its interval, and the permutation test's p.

        The interval is valid where the distance is clearly above 0; near 0 it is too wide (the statistic degenerates),
        so that it contains 0 proves nothing. p says whether the sets differ.
        """
        draws = self.draws(x, counts(len(x), seed), counts(len(self.reference), seed + 1))
        low, high = interval(draws[np.isfinite(draws)])
        permutations = self.permutations(x, seed)
        return {"value": float(permutations[0]), "low": low, "high": high, "p": share_as_large(permutations)}


# -- nearest neighbours


def radii(x: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Distance of each row of x (n, D) to its k-th nearest other row, (n,). Raises ValueError for n <= k."""
    if len(x) <= k:
        raise ValueError(f"balls of {k} neighbours need more than {k} rows, not {len(x)}")
    return np.partition(unit_distances(x), k, axis=1)[:, k]  # the row itself is at 0


def coverage(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Shares of the rows of y (m, D), m > 3, that have a row of x (n, D), n > 3, in their ball; that lie in x's balls.

    The first is coverage (Naeem et al. 2020, arXiv 2002.09797), which is 1 - prod_i (m - i) / (n + m - i), i = 1 to 3,
    on average where both sets have one distribution; the second is recall.
    """
    d = unit_distances(x, y)
    return float((d <= radii(y)[None]).any(0).mean()), float((d <= radii(x)[:, None]).any(0).mean())


def precision_and_recall(generated: np.ndarray, real: np.ndarray) -> dict[str, dict]:
    """{"precision", "recall"}, each {"value", "low", "high"}; both sets need more than 3 rows.

    Intervals are those of the counted rows (Wilson), for fixed manifolds.
    """
    d = unit_distances(generated, real)  # (n, m)
    shares = {
        "precision": accuracy((d <= radii(real)[None]).any(1)),
        "recall": accuracy((d <= radii(generated)[:, None]).any(0)),
    }
    return {name: {"value": s["accuracy"], "low": s["low"], "high": s["high"]} for name, s in shares.items()}
