"""The default policy one request at a time, on dicts and lists: the same victims as the arrays', faster in Python."""

import numpy as np
import numpy.typing as npt

from paging.frequencies import hottest_keys
from paging.policy.aged_frequency import (
    FAULT_TICK,
    GRACE_SHARE,
    HALF_LIFE_SHARE,
    MAX_DOUBLINGS,
    SEED_SHARE,
)
from paging.policy.candidates import look_count, lowest


class ScalarAgedFrequency:
    """A cache of `num_slots` rows under `AgedFrequency`, requested one key at a time.

    See there for the reasons; every floating-point operation is the same, in the same order. With `seed_counts_V`,
    int64 [V], it starts with that frequency list, and its hottest rows in the slots.
    """

    def __init__(self, num_slots: int, *, seed_counts_V: npt.NDArray[np.int64] | None = None) -> None:
        assert num_slots > 0
        self._num_slots = num_slots
        self._half_life = HALF_LIFE_SHARE * num_slots
        self._grace = GRACE_SHARE * num_slots
        self._clock = 0.0
        self._epoch = 0.0
        self._slot_of: dict[int, int] = {}
        self._count_of_absent: dict[int, float] = {}
        self._fresh: set[int] = set()  # keys that were preloaded and not requested yet
        self._key: list[int] = []  # by slot, as the next two
        self._count: list[float] = []
        self._last: list[float] = []
        self._candidates: list[int] = []  # slots, the next victim last
        self._looked_at = 0.0
        if seed_counts_V is not None:
            self._preload(seed_counts_V)

    def request(self, key: int) -> bool:
        """Ask for a row; return whether it was there. Afterwards it is."""
        slot = self._slot_of.get(key)
        hit = slot is not None
        if slot is None:
            slot = self._fetch(key)
            self._clock += FAULT_TICK
        elif key in self._fresh:
            self._fresh.remove(key)
            self._clock += FAULT_TICK
        else:
            self._clock += 1.0
        if self._clock - self._epoch >= MAX_DOUBLINGS * self._half_life:
            self._rescale()
        self._count[slot] += 2.0 ** ((self._clock - self._epoch) / self._half_life)
        self._last[slot] = self._clock
        return hit

    def resident(self) -> set[int]:
        """Return the keys of the rows that are there."""
        return set(self._slot_of)

    def _fetch(self, key: int) -> int:
        count = self._count_of_absent.pop(key, 0.0)
        if len(self._key) < self._num_slots:
            slot = len(self._key)
            self._key.append(key)
            self._count.append(count)
            self._last.append(self._clock)
        else:
            slot = self._victim()
            old = self._key[slot]
            del self._slot_of[old]
            self._fresh.discard(old)
            self._count_of_absent[old] = self._count[slot]
            self._key[slot] = key
            self._count[slot] = count
        self._slot_of[key] = slot
        return slot

    def _victim(self) -> int:
        while True:
            while self._candidates:
                slot = self._candidates.pop()
                if self._last[slot] <= self._looked_at:  # not requested since
                    return slot
            scores = np.array(self._count) / (self._clock - np.array(self._last) + self._grace)
            self._candidates = lowest(scores, look_count(self._num_slots))[::-1].tolist()
            self._looked_at = self._clock

    def _rescale(self) -> None:
        self._count = [count * 2.0**-MAX_DOUBLINGS for count in self._count]
        for key in self._count_of_absent:
            self._count_of_absent[key] *= 2.0**-MAX_DOUBLINGS
        self._epoch += MAX_DOUBLINGS * self._half_life

    def _preload(self, counts_V: npt.NDArray[np.int64]) -> None:
        keys = np.flatnonzero(counts_V)
        total = float(counts_V.sum())
        counts = counts_V[keys] * (SEED_SHARE * self._num_slots / total if total else 0.0)
        self._count_of_absent = dict(zip(keys.tolist(), counts.tolist(), strict=True))
        for key in hottest_keys(counts_V, self._num_slots)[::-1].tolist():
            self._fetch(key)
            self._fresh.add(key)
