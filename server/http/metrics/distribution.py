"""Observations by size, as histograms want them."""

from bisect import bisect_left
from collections.abc import Sequence


class Distribution:
    """How many observations there were up to each bound, how many above the last, and their sum."""

    def __init__(self, bounds: Sequence[float], counts: Sequence[int] = (), total: float = 0.0) -> None:
        """Begin with what was observed already: a count for each bound and one above, or none."""
        self.counts = [*counts] or [0] * (len(bounds) + 1)
        self.sum = total
        self._bounds = bounds

    def note(self, value: float, times: int = 1) -> None:
        """Take in an observation that was made so many times."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times
