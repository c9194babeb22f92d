"""S3-FIFO: rows must be requested again while in a small queue to get into the main one; scans pass through the small.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. A row enters the small queue, a
tenth of the slots, or the main one where it left the small one only lately (a ghost). At the end of the small queue
it moves on if it was requested at least twice after the request that fetched it; at the end of the main one each
request, up to three, buys one more round.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from paging.keys import KeyRange
from paging.policy.protocol import Held, Integers, Slots

_NEVER_REQUESTED = -1
_MAX_REQUESTS = 3
_SMALL_SHARE = 10


class S3FIFO:
    """Evicts from the small queue while that has more than its tenth, else from the main one.

    A row that must stay goes to the end of its queue and keeps its requests.
    """

    def __init__(self, num_slots: int) -> None:
        assert num_slots > 0
        self._num_small = max(1, num_slots // _SMALL_SHARE)
        self._small: OrderedDict[int, None] = OrderedDict()  # slots, oldest first
        self._main: OrderedDict[int, None] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()  # keys, oldest first
        self._num_ghosts = num_slots - self._num_small
        self._key = np.full(num_slots, -1, dtype=np.int64)  # -1: the slot is free
        self._requests = np.zeros(num_slots, dtype=np.int64)  # capped when read

    @property
    def num_slots(self) -> int:
        """Slots that the policy looks after."""
        return len(self._key)

    def seed(self, keys: Integers, counts: npt.NDArray[Any]) -> None:
        """Do nothing: a queue knows no frequencies."""

    def forget(self, keys: KeyRange) -> None:
        """Forget that rows left the small queue lately."""
        for key in [key for key in self._ghosts if key in keys]:
            del self._ghosts[key]

    def insert(self, slots: Integers, keys: Integers) -> None:
        """Note that rows now fill free slots."""
        assert len(slots) == len(keys)
        assert (self._key[slots] < 0).all()
        self._key[slots] = keys
        self._requests[slots] = _NEVER_REQUESTED
        for slot, key in zip(slots.tolist(), keys.tolist(), strict=True):
            if key in self._ghosts:
                del self._ghosts[key]
                self._main[slot] = None
            else:
                self._small[slot] = None

    def touch(self, slots: Integers) -> None:
        """Note one row request for each slot; the first after insertion does not count."""
        np.add.at(self._requests, slots, 1)

    def evict(self, count: int, held: Held) -> Slots:
        """Empty up to `count` slots that are not held."""
        count = min(count, int(np.count_nonzero((self._key >= 0) & (held == 0))))
        return np.fromiter((self._evict_one(held) for _ in range(count)), dtype=np.int64, count=count)

    def remove(self, slots: Integers) -> None:
        """Note that slots which held rows are now free."""
        assert (self._key[slots] >= 0).all()
        self._key[slots] = -1
        for slot in slots.tolist():
            queue = self._small if slot in self._small else self._main
            del queue[slot]

    def resident(self) -> Slots:
        """Return the slots that hold rows, ascending."""
        return np.flatnonzero(self._key >= 0)

    def heat(self, slots: Integers) -> npt.NDArray[np.float64]:
        """Return the requests, up to three, and four more for rows of the main queue."""
        assert (self._key[slots] >= 0).all()
        is_main = np.fromiter((slot in self._main for slot in slots.tolist()), dtype=np.bool_, count=len(slots))
        return np.clip(self._requests[slots], 0, _MAX_REQUESTS) + 4.0 * is_main

    def _evict_one(self, held: Held) -> int:
        """Empty one slot; there must be one that is not held."""
        from_small = len(self._small) >= self._num_small
        while True:
            slot = self._pass_small(held) if from_small else self._pass_main(held)
            if slot is not None:
                self._key[slot] = -1
                return slot
            from_small = not from_small  # all of it is held, or moved on to the main queue

    def _pass_small(self, held: Held) -> int | None:
        for _ in range(len(self._small)):
            slot, _ = self._small.popitem(last=False)
            if held[slot]:
                self._small[slot] = None
            elif self._requests[slot] > 1:
                self._requests[slot] = 0
                self._main[slot] = None
            else:
                self._ghosts[int(self._key[slot])] = None
                if len(self._ghosts) > self._num_ghosts:
                    self._ghosts.popitem(last=False)
                return slot
        return None

    def _pass_main(self, held: Held) -> int | None:
        for _ in range((_MAX_REQUESTS + 1) * len(self._main)):
            slot, _ = self._main.popitem(last=False)
            if held[slot]:
                self._main[slot] = None
            elif self._requests[slot] > 0:
                self._requests[slot] = min(self._requests[slot], _MAX_REQUESTS) - 1
                self._main[slot] = None
            else:
                return slot
        return None
