"""Least recently used: the baseline, and what most caches do."""

from typing import Any

import numpy as np
import numpy.typing as npt

from paging.keys import KeyRange
from paging.policy.protocol import Integers, Slots
from paging.policy.scored import FREE, SETTLED, ScoredPolicy


class LRU(ScoredPolicy):
    """Evicts the row whose last request, or insertion where it had none, is longest ago."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_slots)
        self._last = np.zeros(num_slots, dtype=np.int64)
        self._clock = 0

    def seed(self, keys: Integers, counts: npt.NDArray[Any]) -> None:
        """Do nothing: recency knows no frequencies."""

    def forget(self, keys: KeyRange) -> None:
        """Do nothing: of rows that have gone nothing is known."""

    def insert(self, slots: Integers, keys: Integers) -> None:
        """Note that rows now fill free slots; the last is the most recent."""
        super().insert(slots, keys)
        self._stamp(slots)

    def touch(self, slots: Integers) -> None:
        """Note one row request for each slot, in this order."""
        self._state[slots] = SETTLED
        self._stamp(slots)

    def heat(self, slots: Integers) -> npt.NDArray[np.float64]:
        """Return the times of the last requests."""
        assert (self._state[slots] != FREE).all()
        return self._last[slots].astype(np.float64)

    def _stamp(self, slots: Integers) -> None:
        # Of a slot that is there twice the later value stays: numpy assigns in order.
        self._last[slots] = np.arange(self._clock + 1, self._clock + 1 + len(slots))
        self._clock += len(slots)

    def _scores(self, slots: Slots) -> npt.NDArray[np.int64]:
        return self._last[slots]
