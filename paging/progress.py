"""What happens as rows arrive: leases are granted or fail, further reads begin; and waiting for it.

Knows the order of these steps; each is another part's business.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from paging.admission import Waiter
from paging.keys import Keys
from paging.lease import Lease
from paging.parts import Parts

_COPY_POLL = 200e-6
"""Seconds between two looks at copies that are under way; the end of a read is noticed at once."""


class Progress:
    """Moves a pager's parts on, in the thread that calls."""

    def __init__(self, parts: Parts, clock: Callable[[], float]) -> None:
        self._parts = parts
        self._clock = clock

    def poll(self) -> None:
        """Take over what has been read, grant or fail the leases that waited for it, and start further reads."""
        admission = self._parts.admission
        if self._parts.loader.is_at_rest and not admission.waiters:
            return
        arrivals = self._parts.loader.receive()
        if arrivals.failed:
            for waiter in admission.fail(arrivals.failed):
                self._parts.pins.remove(waiter.lease)
        if arrivals.ready:
            self._grant(admission.arrive(arrivals.ready))
        self.advance()

    def advance(self) -> None:
        """Admit leases, start bringing rows, grant what is complete."""
        admission = self._parts.admission
        self._grant(admission.admit())
        if ready := self._parts.loader.fill(demand_only=admission.is_full):
            self._grant(admission.arrive(ready))

    def ask(self) -> None:
        """Advance for leases that have just come; where no read can start, what has ended makes room first."""
        if self._parts.reads.room > 0:
            self.advance()
        else:
            self.poll()

    def wait(self, leases: Sequence[Lease], timeout: float, *, enough: int) -> None:
        """Poll until so many of these leases wait no more, or nothing is under way; at most `timeout` seconds."""
        start = self._clock()
        while True:
            self.poll()
            waiting = [lease for lease in leases if lease.is_waiting]
            left = start + timeout - self._clock()
            if left <= 0 or len(leases) - len(waiting) >= enough:
                break
            if self._parts.loader.is_copying:
                left = min(left, _COPY_POLL)
            elif not self._parts.reads.under_way:
                break
            self._parts.reads.wait(left, most=min(len(lease.missing) for lease in waiting))
        self._parts.counters.stall_seconds += self._clock() - start

    def idle(self, timeout: float) -> None:
        """Poll, and once more when a read has ended, if one is under way, or after `timeout` seconds."""
        self.poll()
        if self._parts.reads.under_way:
            self._parts.reads.wait(timeout)
            self.poll()

    def _grant(self, waiters: list[Waiter]) -> None:
        parts = self._parts
        for waiter in waiters:
            lease = waiter.lease
            slots = parts.admission.grant(waiter)
            parts.granted.add(lease)
            if not waiter.is_pin:
                parts.device.policy.touch(slots)
                parts.device.fresh[slots] = False
                parts.recent.note(lease.keys)
                used = parts.asks.use(waiter.keys)
                parts.counters.note_granted(len(lease), used)
                if used.minor_faults or used.major_faults:
                    lease.tiers = _tiers(lease.keys, used.faults)
            parts.asks.end(waiter.asked)


def _tiers(keys: Keys, faults: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return where the row of each position was, given the faults of the different ones, ascending by key."""
    if len(keys) == 1:
        return faults
    tiers = np.zeros(len(keys), dtype=np.uint8)
    # Of the positions that want the same row the first is the fault.
    tiers[np.unique(keys, return_index=True)[1]] = faults
    return tiers
