"""Rows that waiting leases have been promised: room for all of them is set aside, and they are read first.

Knows keys; knows nothing of leases or of bytes.
"""

from collections import OrderedDict
from collections.abc import Container, Iterable

import numpy as np

from paging.keys import KeyRange, Keys


class Demand:
    """How many leases were promised each row, and which promised rows have no slot yet.

    Room is set aside by number: the rows in `unplaced` never exceed the slots that the device tier can make available.
    """

    def __init__(self) -> None:
        self.wanted = np.zeros(0, dtype=np.int32)
        """Waiting leases that were promised a row, int32 [num_keys]."""
        self.unplaced: set[int] = set()
        """Promised rows that have no slot on the device, not even to land in."""
        # A plain dictionary walks over what was taken from its front each time that more is.
        self._unread: OrderedDict[int, None] = OrderedDict()
        self._in_host: OrderedDict[int, None] = OrderedDict()

    def grow(self, num_keys: int) -> None:
        """Make room for keys below `num_keys`."""
        more = num_keys - len(self.wanted)
        if more > 0:
            self.wanted = np.concatenate([self.wanted, np.zeros(more, dtype=np.int32)])

    def add(self, keys: Keys) -> None:
        """Promise a lease its rows, none twice."""
        self.wanted[keys] += 1

    def end(self, keys: Keys) -> None:
        """Take back what was promised a lease: it has its rows, failed or was withdrawn."""
        self.wanted[keys] -= 1
        if self.unplaced:
            self.unplaced.difference_update(keys[self.wanted[keys] == 0].tolist())

    def queue(self, keys: Iterable[int], *, in_host: Container[int]) -> None:
        """Note promised rows without a slot, which must be read or, those `in_host`, copied from the host tier."""
        for key in keys:
            self.unplaced.add(key)
            (self._in_host if key in in_host else self._unread)[key] = None

    def take_unread(self, count: int, skip: Container[int]) -> list[int]:
        """Return the next rows to read, at most `count`, in the order they were asked for; none that is in `skip`."""
        taken: list[int] = []
        while self._unread and len(taken) < count:
            key, _ = self._unread.popitem(last=False)
            # Promises may have ended since the row was queued, and a prefetch may be reading it.
            if key in self.unplaced and key not in skip:
                taken.append(key)
        return taken

    def take_in_host(self) -> list[int]:
        """Return the rows to copy from the host tier."""
        taken = [key for key in self._in_host if key in self.unplaced]
        self._in_host.clear()
        return taken

    @property
    def has_unread(self) -> bool:
        """Whether rows may wait to be read."""
        return bool(self._unread)

    def num_ahead(self, keys: set[int] | frozenset[int]) -> int:
        """Return how many reads must start before the last of `keys` has: its place in the queue, 0 where in none."""
        last, left = 0, len(keys)
        for place, key in enumerate(self._unread, 1):
            if key in keys:
                last, left = place, left - 1
                if not left:
                    break
        return last

    def clear(self, keys: KeyRange) -> None:
        """Forget a key range that goes away; nothing of it is promised to anyone."""
        for queue in (self._unread, self._in_host):
            for key in [key for key in queue if key in keys]:
                del queue[key]
