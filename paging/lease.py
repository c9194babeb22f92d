"""A batch's hold on its rows, and a promise to bring rows early.

Knows what became of a lease or a prefetch; `paging/pager.py` makes and ends both.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from paging.keys import Keys
from paging.slots import Slots

if TYPE_CHECKING:
    from torch import Tensor

    from paging.errors import RowReadError

_NO_ROWS: frozenset[int] = frozenset()


class LeaseState(StrEnum):
    """What became of a lease."""

    READY = "ready"  # every row is on the device and stays there
    WAITING = "waiting"  # some rows are on their way, or wait for room
    FAILED = "failed"  # a row could not be read
    RELEASED = "released"  # over: given back, or withdrawn while it waited


class Lease:
    """The rows of one batch, all or none of them; ends with `Pager.release`."""

    __slots__ = ("error", "index", "keys", "missing", "slots", "state", "tiers")

    def __init__(self, keys: Keys, slots: Slots | None) -> None:
        self.keys = keys
        """The row key of each position, int64 [n]; not to be changed."""
        self.slots = slots
        """The device slot of each position once the lease is ready, [n]."""
        self.state = LeaseState.WAITING if slots is None else LeaseState.READY
        self.missing: set[int] | frozenset[int] = _NO_ROWS
        """Rows that a waiting lease still lacks; once it has room for all, they leave as they arrive."""
        self.error: RowReadError | None = None
        """Why a lease failed."""
        self.tiers: npt.NDArray[np.uint8] | None = None
        """Where the row of each position was when it was first asked for: 0, or the `Fault` that the position is
        counted as, uint8 [n]. None while the lease waits, for a pin, and where every position is a hit."""
        self.index: Tensor | None = None
        """`slots` where the device can read them; made when first needed."""

    @property
    def is_ready(self) -> bool:
        """Whether its rows may be read."""
        return self.state is LeaseState.READY

    @property
    def is_waiting(self) -> bool:
        """Whether it may still become ready."""
        return self.state is LeaseState.WAITING

    def __len__(self) -> int:
        return len(self.keys)


class Outlook(NamedTuple):
    """What a waiting lease waits for."""

    missing: int
    """Rows that it lacks."""
    under_way: int
    """How many of those are being read."""
    seconds: float
    """The wait to expect; infinite where room for its rows must first be released by other leases."""


class Prefetch:
    """Rows that will be needed, brought early as room and reads are left over; cancel it when they are not any more.

    Cancelling costs nothing where every row has been leased since, and a prefetch may be kept until then.
    """

    __slots__ = ("__weakref__", "_cancel", "_next", "keys")

    def __init__(self, keys: Keys, cancel: Callable[["Prefetch"], None]) -> None:
        self.keys = keys
        """Rows that were absent when they were asked for, each once."""
        self._next = 0
        self._cancel: Callable[[Prefetch], None] | None = cancel

    @property
    def num_left(self) -> int:
        """Rows that it has not come to yet; those that it has are being read or have arrived."""
        return len(self.keys) - self._next

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancel is None

    @property
    def is_bringing(self) -> bool:
        """Whether it will ask for further rows."""
        return self._cancel is not None and self.num_left > 0

    def cancel(self) -> None:
        """Ask for no further rows, and give up those that arrived and were not used; twice is once."""
        if self._cancel is not None:
            cancel, self._cancel = self._cancel, None
            cancel(self)

    def advance(self, count: int) -> Keys:
        """Return the next rows, at most `count`, and go past them."""
        keys = self.keys[self._next : self._next + count]
        self._next += len(keys)
        return keys

    def leave_out(self, which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Forget some of its rows: their storage goes away."""
        self._next -= int(np.count_nonzero(which[: self._next]))
        self.keys = self.keys[~which]
