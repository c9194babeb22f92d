"""The default policy: keep the rows that are requested often and were requested not long ago.

heat = count / (age + grace)

count: the row's requests ever, the older ones counting less, halved every 50 * num_slots ticks of the clock. Counts
outlive residency: every key has one, and a frequency list sets their start. age: ticks since the row's last request.
grace: 0.3 * num_slots ticks, in which a new row is not yet judged. Read as an estimate, heat is how often a
row will be requested, given that it has not been for a while. Both constants scale with the number of slots and lie on
a plateau: on the real text they were chosen on, a factor of 3 in one of them moves hit rates by at most 0.003.

The clock ticks once for a hit and 1/32 for the request of a row that had to be fetched. Time nearly stands still while
a prompt of rare tokens goes through, and what was hot before it still is afterwards.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from paging.keys import KeyRange
from paging.policy.protocol import Integers, Slots
from paging.policy.scored import FREE, FRESH, SETTLED, ScoredPolicy

HALF_LIFE_SHARE = 50
"""Ticks in which a past request comes to count half, per slot."""
GRACE_SHARE = 0.3
"""Ticks added to every age, per slot."""
FAULT_TICK = 1 / 32
"""What the request of a fetched row adds to the clock; a power of two, so that times are exact."""
SEED_SHARE = 0.25
"""Requests that a frequency list stands for, per slot."""
MAX_DOUBLINGS = 64
"""Half-lives after which counts are rescaled."""


class AgedFrequency(ScoredPolicy):
    """Evicts the row of least heat.

    Counts grow with time instead of shrinking: a request at time t adds 2^((t - epoch) / half-life), which leaves every
    ratio as decay would. After 64 half-lives all are scaled down by 2^-64, an exact operation, and the epoch moves.
    Times are multiples of 1/32 and exact up to 10^14 requests.
    """

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_slots)
        self._half_life = HALF_LIFE_SHARE * num_slots
        self._grace = GRACE_SHARE * num_slots
        self._clock = 0.0
        self._epoch = 0.0
        self._key = np.zeros(num_slots, dtype=np.int64)
        self._count = np.zeros(num_slots, dtype=np.float64)
        self._last = np.zeros(num_slots, dtype=np.float64)
        self._count_of_absent = np.zeros(num_slots, dtype=np.float64)  # by key; that of a resident row is out of date

    def seed(self, keys: Integers, counts: npt.NDArray[Any]) -> None:
        """Add a frequency list to the counts of absent rows, as if it were 0.25 * num_slots requests made just now."""
        assert len(keys) == len(counts)
        total = float(counts.sum())
        if total > 0:
            self._make_room(keys)
            self._count_of_absent[keys] += counts * (SEED_SHARE * self.num_slots / total * self._weight())

    def forget(self, keys: KeyRange) -> None:
        """Forget the counts of absent rows."""
        self._count_of_absent[keys.start : keys.stop] = 0

    def insert(self, slots: Integers, keys: Integers) -> None:
        """Note that rows now fill free slots; a row that is neither seeded nor ever requested goes first."""
        super().insert(slots, keys)
        self._make_room(keys)
        self._key[slots] = keys
        self._count[slots] = self._count_of_absent[keys]
        self._last[slots] = self._clock

    def touch(self, slots: Integers) -> None:
        """Note one row request for each slot, all at one time."""
        state = self._state
        num_fetched = int(np.count_nonzero(state[slots] & FRESH))
        state[slots] = SETTLED
        self._clock += len(slots) - (1 - FAULT_TICK) * num_fetched
        if self._clock - self._epoch >= MAX_DOUBLINGS * self._half_life:
            self._rescale()
        np.add.at(self._count, slots, self._weight())
        self._last[slots] = self._clock

    def heat(self, slots: Integers) -> npt.NDArray[np.float64]:
        """Return the estimated requests per tick of the clock."""
        assert (self._state[slots] != FREE).all()
        return self._scores(slots.astype(np.int64, copy=False)) / self._weight()

    def _weight(self) -> float:
        """Return what a request now adds to a count."""
        return float(2.0 ** ((self._clock - self._epoch) / self._half_life))

    def _scores(self, slots: Slots) -> npt.NDArray[np.float64]:
        return self._count[slots] / (self._clock - self._last[slots] + self._grace)

    def _put_aside(self, slots: Slots) -> None:
        self._count_of_absent[self._key[slots]] = self._count[slots]

    def _rescale(self) -> None:
        steps = int((self._clock - self._epoch) // (MAX_DOUBLINGS * self._half_life))
        factor = 2.0 ** (-MAX_DOUBLINGS * steps)
        self._count *= factor
        self._count_of_absent *= factor
        self._epoch += steps * MAX_DOUBLINGS * self._half_life

    def _make_room(self, keys: Integers) -> None:
        num_keys = int(keys.max(initial=-1)) + 1
        if num_keys > len(self._count_of_absent):
            grown = np.zeros(max(num_keys, 2 * len(self._count_of_absent)), dtype=np.float64)
            grown[: len(self._count_of_absent)] = self._count_of_absent
            self._count_of_absent = grown
