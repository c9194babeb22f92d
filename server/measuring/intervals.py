"""Medians, and intervals around them that assume nothing of the distribution."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A median and an interval that holds the true one with at least `confidence`."""

    median: float
    low: float
    high: float
    confidence: float


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median of samples and the narrowest symmetric order-statistic interval of at least `confidence`.

    The number of samples below the true median is binomial with one half, whatever the distribution. With too few
    samples for the confidence asked for, the whole range is returned with the confidence that it has.
    """
    if not samples:
        raise ValueError("no samples")
    ordered, count = sorted(samples), len(samples)
    best = Interval(statistics.median(ordered), ordered[0], ordered[-1], _coverage(count, 0))
    for cut in range(1, (count - 1) // 2 + 1):
        if _coverage(count, cut) < confidence:
            break
        best = Interval(best.median, ordered[cut], ordered[count - 1 - cut], _coverage(count, cut))
    return best


def _coverage(count: int, cut: int) -> float:
    """Return the chance that the median lies between the order statistics `cut` from either end."""
    outside: float = sum(math.comb(count, below) for below in range(cut + 1)) / 2**count
    return 1 - 2 * outside
