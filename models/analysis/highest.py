"""The highest of many numbers that come in chunks.

Shape legend: R lists, C candidates of a chunk, n kept of each list.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.analysis.stored_matrices import Floats, Ids


class Ranking(NamedTuple):
    """The best of each list, best first."""

    ids_Rn: npt.NDArray[np.int64]
    values_Rn: Floats


class Highest:
    """The n highest values of each list, and what they are of; in memory of R x (n + C) at most."""

    def __init__(self, num_lists: int, n: int, *, by_magnitude: bool = False) -> None:
        """by_magnitude: -3 is higher than 2. Where fewer than n candidates come, the ranking is as much shorter."""
        self._n = n
        self._by_magnitude = by_magnitude
        self._ids = np.empty((num_lists, 0), dtype=np.int64)
        self._values = np.empty((num_lists, 0), dtype=np.float32)

    def add(self, values_RC: npt.NDArray[Any], ids_C: Ids) -> None:
        """Take in a chunk: each list's values of the same candidates."""
        values = np.concatenate((self._values, values_RC), axis=1, dtype=np.float32)
        ids = np.concatenate((self._ids, np.broadcast_to(ids_C, values_RC.shape)), axis=1, dtype=np.int64)
        if values.shape[1] > self._n:
            kept = np.argpartition(-self._keys(values), self._n - 1, axis=1)[:, : self._n]
            values, ids = np.take_along_axis(values, kept, 1), np.take_along_axis(ids, kept, 1)
        self._values, self._ids = values, ids

    def ranking(self) -> Ranking:
        """Return what is highest so far."""
        order = np.lexsort((self._ids, -self._keys(self._values)), axis=1)
        return Ranking(np.take_along_axis(self._ids, order, 1), np.take_along_axis(self._values, order, 1))

    def _keys(self, values: Floats) -> Floats:
        keys: Floats = np.abs(values) if self._by_magnitude else values
        return keys


def highest(values_C: npt.NDArray[Any], n: int, *, by_magnitude: bool = False) -> Ranking:
    """Return the ranking of one list whose candidates are all at hand; ids are positions in it, shapes are [n]."""
    best = Highest(1, n, by_magnitude=by_magnitude)
    best.add(np.asarray(values_C)[None], np.arange(len(values_C)))
    ids_1n, values_1n = best.ranking()
    return Ranking(ids_1n[0], values_1n[0])
