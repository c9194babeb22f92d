"""What policies that order rows by a score share: which slots hold rows, and eviction of the lowest scores.

| state of a slot       | means                                                                          |
|-----------------------|--------------------------------------------------------------------------------|
| SETTLED               | holds a row that was requested                                                 |
| FRESH                 | holds a row that was inserted and not requested yet                            |
| + CANDIDATE           | and has not changed since the last look at all slots found it among the lowest |
| FREE                  | holds no row                                                                   |
"""

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from paging.policy.candidates import look_count, lowest
from paging.policy.protocol import Held, Integers, Slots

SETTLED, FRESH, CANDIDATE, FREE = 0, 1, 2, 4


class ScoredPolicy(abc.ABC):
    """Evicts the rows of lowest score; scores must not fall, against each other, when a row is requested.

    Scores are looked at once for a 64th of all slots: until these candidates are used up, rows that come or are
    requested are not reconsidered. So a victim costs the arithmetic of 64 scores, whatever the number of slots.
    """

    def __init__(self, num_slots: int) -> None:
        assert num_slots > 0
        self._state = np.full(num_slots, FREE, dtype=np.uint8)
        self._candidates: Slots = np.empty(0, dtype=np.int64)
        self._next_candidate = 0

    @property
    def num_slots(self) -> int:
        """Slots that the policy looks after."""
        return len(self._state)

    @abc.abstractmethod
    def _scores(self, slots: Slots) -> npt.NDArray[Any]:
        """Return the scores of slots that hold rows."""

    def _put_aside(self, slots: Slots) -> None:  # noqa: B027 most policies remember nothing
        """Put aside what is worth knowing about rows that leave."""

    def insert(self, slots: Integers, keys: Integers) -> None:
        """Note that rows now fill free slots."""
        assert len(slots) == len(keys)
        assert (self._state[slots] == FREE).all()
        self._state[slots] = FRESH

    def evict(self, count: int, held: Held) -> Slots:
        """Empty up to `count` slots that are not held, those of lowest score first."""
        victims: list[Slots] = []
        missing = count
        while missing > 0:
            if self._next_candidate >= len(self._candidates) and not self._look(missing, held):
                break
            stop = self._next_candidate + missing
            found = self._candidates[self._next_candidate : stop]
            self._next_candidate = stop
            found = found[((self._state[found] & CANDIDATE) != 0) & (held[found] == 0)]
            # At once: a second look must not find them again.
            self._put_aside(found)
            self._state[found] = FREE
            victims.append(found)
            missing -= len(found)
        return np.concatenate(victims) if victims else np.empty(0, dtype=np.int64)

    def remove(self, slots: Integers) -> None:
        """Note that slots which held rows are now free."""
        assert (self._state[slots] != FREE).all()
        self._put_aside(slots.astype(np.int64, copy=False))
        self._state[slots] = FREE

    def resident(self) -> Slots:
        """Return the slots that hold rows, ascending."""
        return np.flatnonzero(self._state != FREE)

    def _look(self, count: int, held: Held) -> bool:
        """Find `count` candidates or more among the rows that may go; return whether there are any."""
        slots = np.flatnonzero((self._state != FREE) & (held == 0))
        self._candidates = slots[lowest(self._scores(slots), max(count, look_count(self.num_slots)))]
        self._next_candidate = 0
        self._state &= ~np.uint8(CANDIDATE)
        self._state[self._candidates] |= CANDIDATE
        return len(self._candidates) > 0
