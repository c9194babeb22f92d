"""Row keys: which of the attached storages a key belongs to.

A key is an int64. Each attached storage has a contiguous range of keys, its row `i` the key `start + i`; the base
table comes first, so that its keys are its row numbers. Knows nothing of tiers or of reading.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
"""Row keys, int64 [n]."""

S = TypeVar("S")


@dataclass(frozen=True)
class KeyRange:
    """The keys of one attached storage."""

    start: int
    """The key of its row 0."""
    stop: int
    """One past the key of its last row."""

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, key: int) -> bool:
        return self.start <= key < self.stop

    def mask(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Return which of `keys` lie in the range."""
        return (keys >= self.start) & (keys < self.stop)


class KeySpace(Generic[S]):
    """Ranges of keys, each with the storage (of type S) that has its rows.

    A range is in use from `attach` to `free`. `close` comes before `free`: from then on nobody may ask for its keys,
    but reads that are under way still end in it, so it is not handed out again.
    """

    def __init__(self) -> None:
        self.is_open = np.zeros(0, dtype=np.bool_)
        """Whether a key may be asked for, bool [num_keys]."""
        self._ranges: list[KeyRange] = []  # in ascending order
        self._storages: list[S] = []

    @property
    def num_keys(self) -> int:
        """One past the largest key that there has been: the length of arrays indexed by key."""
        return len(self.is_open)

    @property
    def ranges(self) -> tuple[KeyRange, ...]:
        """The ranges in use, ascending."""
        return tuple(self._ranges)

    @property
    def storages(self) -> tuple[S, ...]:
        """The storages of the ranges in use, ascending."""
        return tuple(self._storages)

    def attach(self, storage: S, num_rows: int) -> KeyRange:
        """Give a storage the first stretch of `num_rows` keys that is not in use."""
        if num_rows < 1:
            raise ValueError("a storage needs at least one row")
        start, place = 0, len(self._ranges)
        for index, used in enumerate(self._ranges):
            if used.start - start >= num_rows:
                place = index
                break
            start = used.stop
        keys = KeyRange(start, start + num_rows)
        self._ranges.insert(place, keys)
        self._storages.insert(place, storage)
        if keys.stop > self.num_keys:
            self.is_open = np.concatenate([self.is_open, np.zeros(keys.stop - self.num_keys, dtype=np.bool_)])
        self.is_open[keys.start : keys.stop] = True
        return keys

    def close(self, keys: KeyRange) -> None:
        """Let nobody ask for these keys any more; `ValueError` where that is no range in use."""
        if keys not in self._ranges:
            raise ValueError(f"{keys} is not attached")
        self.is_open[keys.start : keys.stop] = False

    def free(self, keys: KeyRange) -> None:
        """Let the keys be handed out again."""
        place = self._ranges.index(keys)
        assert not self.is_open[keys.start], "a range is closed before it is freed"
        del self._ranges[place]
        del self._storages[place]

    def locate(self, key: int) -> tuple[S, KeyRange]:
        """Return the storage of a key that is in use, and all its keys."""
        place = bisect_right(self._ranges, key, key=lambda keys: keys.start) - 1
        assert place >= 0, "a key below all ranges"
        assert key in self._ranges[place], "a key between two ranges"
        return self._storages[place], self._ranges[place]

    def check(self, keys: Keys) -> None:
        """Raise `IndexError` naming the first of `keys` that may not be asked for."""
        # A negative key is a huge one to the comparison.
        if len(keys) and keys.view(np.uint64).max() < self.num_keys and self.is_open[keys].all():
            return
        inside = (keys >= 0) & (keys < self.num_keys)
        is_open = self.is_open[np.where(inside, keys, 0)] & inside if self.num_keys else inside
        if not is_open.all():
            raise IndexError(f"no attached storage has the row key {keys[~is_open][0]}")
