"""What has been asked for and not used yet, and where it was when it was first asked for.

A row request is one token position that a lease grants. It counts where its row was when it was first asked for, by
prefetch or lease; of the positions that want the same absent row only the first is a fault. So the fault belongs to
the row: the first to ask for an absent row marks it, the first lease to be granted with it takes the mark away, and
every other position is a hit. Knows keys only.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from paging.keys import KeyRange, Keys
from paging.slots import ONE, Mask


class Fault(IntEnum):
    """Where a row was that was not on the device when it was first asked for."""

    MINOR = 1  # in the host tier
    MAJOR = 2  # only in storage


_KINDS = np.array([Fault.MAJOR, Fault.MINOR], dtype=np.uint8)
"""By whether the row is in the host tier."""
_MINOR = np.uint8(Fault.MINOR)


class Used(NamedTuple):
    """What a granted lease was the first to use."""

    faults: npt.NDArray[np.uint8]
    """Of each of its rows the `Fault` that its first position is, or 0."""
    minor_faults: int
    """Positions whose row came from the host tier."""
    major_faults: int
    """Positions whose row came from storage."""
    prefetched: int
    """Rows that a prefetch had brought."""


class Asks:
    """Marks on row keys; every array is indexed by key."""

    def __init__(self) -> None:
        self.count = np.zeros(0, dtype=np.int32)
        """Waiting leases and prefetches that asked for the row while it was absent, and have not ended."""
        self.fault = np.zeros(0, dtype=np.uint8)
        """The `Fault` that the first position granted will be, 0 where it will be a hit."""
        self.prefetched = np.zeros(0, dtype=np.bool_)
        """Whether a prefetch brought, or is bringing, the row and no lease has used it yet."""

    def grow(self, num_keys: int) -> None:
        """Make room for keys below `num_keys`."""
        more = num_keys - len(self.count)
        if more > 0:
            self.count = np.concatenate([self.count, np.zeros(more, dtype=np.int32)])
            self.fault = np.concatenate([self.fault, np.zeros(more, dtype=np.uint8)])
            self.prefetched = np.concatenate([self.prefetched, np.zeros(more, dtype=np.bool_)])

    def ask(self, absent: Keys, *, in_host: Mask) -> None:
        """Note that somebody asks for these rows, which are not on the device; where one is there twice, two do."""
        np.add.at(self.count, absent, ONE)
        marks = self.fault[absent]
        self.fault[absent] = np.where(marks, marks, _KINDS[in_host.view(np.uint8)])

    def end(self, asked: Keys) -> None:
        """Note that one who asked for these rows does so no longer; what nobody asks for loses its mark."""
        self.count[asked] -= 1
        unwanted = asked[self.count[asked] == 0]
        self.fault[unwanted] = 0
        self.prefetched[unwanted] = False

    def use(self, keys: Keys) -> Used:
        """Note that a lease is granted with these rows (none twice), and return what it was the first to use."""
        faults, num_prefetched = self.fault[keys], int(np.count_nonzero(self.prefetched[keys]))
        num_faults = int(np.count_nonzero(faults))
        if num_faults:
            self.fault[keys] = 0
        if num_prefetched:
            self.prefetched[keys] = False
        num_minor = int(np.count_nonzero(faults == _MINOR)) if num_faults else 0
        return Used(faults, num_minor, num_faults - num_minor, num_prefetched)

    def lose(self, keys: Keys) -> None:
        """Note that the rows left the tier a prefetch had brought them to, or never came."""
        self.prefetched[keys] = False

    def fail(self, keys: Keys) -> None:
        """Note that the rows could not be read: whoever asks again is the first to ask."""
        self.fault[keys] = 0
        self.prefetched[keys] = False

    def pending(self, keys: Keys) -> Mask:
        """Return which of these rows somebody asked for and nobody has used since."""
        pending: Mask = (self.fault[keys] != 0) & (self.count[keys] > 0)
        return pending

    def clear(self, keys: KeyRange) -> None:
        """Forget everything about a key range that goes away."""
        for marks in (self.count, self.fault, self.prefetched):
            marks[keys.start : keys.stop] = 0
