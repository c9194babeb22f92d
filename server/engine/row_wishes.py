"""Rows that somebody wishes to have on the device beside what requests need: used once, or pinned until further notice.

Knows a pager's leases and pins. Knows nothing of who wishes, nor of requests.
"""

from collections import deque

import numpy as np

from paging.errors import LeaseTooLargeError
from paging.keys import Keys
from paging.lease import Lease, LeaseState
from paging.pager import Pager
from server.engine.errors import QueueFullError, RequestError, report

_WARMED_AT_ONCE = 32
"""Rows that are warmed at a time: those that a request needs meanwhile are read after them."""
_WARMED_SHARE = 4
"""And at most one in so many of the rows that can be leased."""
_NONE: Keys = np.zeros(0, dtype=np.int64)


class RowWishes:
    """Wishes under way and pins that hold; `advance` is to be called between steps."""

    def __init__(self, pager: Pager) -> None:
        self.failure: str | None = None
        """Why the last one that failed did."""
        self._pager = pager
        self._to_warm: deque[Keys] = deque()
        self._warming: Lease | None = None
        self._pins: list[Lease] = []
        """What was pinned at a time, less what was unpinned since; no row in two of them."""
        self._arriving: list[Lease] = []
        """Pins that were still waiting at the last look."""

    @property
    def is_bringing(self) -> bool:
        """Whether rows are on their way."""
        return self._warming is not None or bool(self._to_warm) or bool(self._arriving)

    @property
    def pinned(self) -> Keys:
        """Rows that are pinned, ascending."""
        return np.sort(np.concatenate([_NONE, *(pin.keys for pin in self._pins)]))

    @property
    def num_pinned(self) -> int:
        """Rows that are pinned, those on their way included."""
        return sum(map(len, self._pins))

    @property
    def num_waiting(self) -> int:
        """Pinned rows that are on their way, or wait for room."""
        return sum(len(pin.missing) for pin in self._arriving if pin.is_waiting)

    @property
    def num_to_warm(self) -> int:
        """Rows to be warmed that are not there yet."""
        return sum(map(len, self._to_warm)) + (0 if self._warming is None else len(self._warming))

    def warm(self, keys: Keys) -> tuple[int, int]:
        """Use rows once, as a request would, in the order of `keys`; return how many, and how many are there already.

        Raises `RequestError` for more rows than there is room for, `QueueFullError` while as many are on their way.
        """
        rows = keys[np.sort(np.unique(keys, return_index=True)[1])]
        room = self._pager.leasable_slots
        if len(rows) > room:
            raise RequestError(
                f"{len(rows)} different rows are to be warmed, and the device has room for {room}; warm fewer at a time"
            )
        if self.num_to_warm + len(rows) > room:
            raise QueueFullError(f"{self.num_to_warm} rows are being warmed already; try again later")
        num_resident = int(np.count_nonzero(self._pager.resident(rows)))
        self._to_warm.append(rows)
        self.advance()
        return len(rows), num_resident

    def pin(self, keys: Keys) -> None:
        """Hold rows until `unpin`; `RequestError` where too few slots would be left to requests."""
        rows = np.setdiff1d(keys, self.pinned)
        if not len(rows):
            return
        try:
            self._add(rows)
        except LeaseTooLargeError as error:
            raise RequestError(f"{len(rows)} more rows cannot be pinned: {error}", param="token_ids") from error

    def unpin(self, keys: Keys | None) -> None:
        """Hold rows no longer, None for all; those that are not pinned are ignored."""
        pins, self._pins = self._pins, []
        for pin in pins:
            left = _NONE if keys is None else np.setdiff1d(pin.keys, keys)
            if len(left) == len(pin.keys):
                self._pins.append(pin)
                continue
            if len(left):  # first, so that they are not given up in between
                self._add(left)
            self._pager.release(pin)
        self._look_at_arrivals()

    def advance(self) -> None:
        """Go on with what has arrived, and begin what comes next; never waits."""
        if self._warming is not None and not self._warming.is_waiting:
            self._note(self._warming)
            self._pager.release(self._warming)
            self._warming = None
        if self._warming is None and self._to_warm:
            self._warm_next()
        if self._arriving:
            self._look_at_arrivals()

    def _add(self, rows: Keys) -> None:
        pin = self._pager.pin(rows)
        self._pins.append(pin)
        self._arriving.append(pin)

    def _look_at_arrivals(self) -> None:
        for pin in self._arriving:
            if pin.state is LeaseState.FAILED:
                self._note(pin)
                self._pins.remove(pin)
        self._arriving = [pin for pin in self._arriving if pin.is_waiting]

    def _warm_next(self) -> None:
        count = max(1, min(_WARMED_AT_ONCE, self._pager.leasable_slots // _WARMED_SHARE))
        rows = self._to_warm.popleft()
        if len(rows) > count:
            self._to_warm.appendleft(rows[count:])
        self._warming = self._pager.lease(rows[:count])

    def _note(self, lease: Lease) -> None:
        if lease.error is not None:
            self.failure = f"{len(lease.keys)} rows were given up: {report(lease.error)}"
