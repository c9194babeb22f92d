"""Leases that wait: who is promised room, in which order, and when all rows are there.

A waiting lease is admitted once room for all of its rows can be set aside; from then on nothing can take that room, so
admitted leases never wait for one another and each ends when its reads do. Leases are admitted strictly in the order
they were asked for, and while one waits for room nobody overtakes it: so every lease is admitted once enough others
are released. Knows nothing of counting or of bytes.
"""

import math
from collections import deque

import numpy as np

from paging.asks import Asks
from paging.demand import Demand
from paging.errors import RowReadError
from paging.keys import Keys
from paging.lease import Lease, LeaseState, Outlook
from paging.loader import HostTier, Loader
from paging.reads import Reads
from paging.slots import ONE, SlotMap, Slots


class Waiter:
    """A lease that is not ready yet."""

    __slots__ = ("asked", "is_admitted", "is_pin", "keys", "lease")

    def __init__(self, lease: Lease, *, keys: Keys, asked: Keys, is_pin: bool) -> None:
        self.lease = lease
        self.keys = keys
        """Its rows, each once."""
        self.asked = asked
        """Those of them that were absent when the lease was asked for."""
        self.is_pin = is_pin
        """Whether it holds rows for the sake of holding them."""
        self.is_admitted = False


class Admission:
    """The waiting leases, in the order they were asked for."""

    def __init__(
        self, *, device: SlotMap, host: HostTier | None, reads: Reads, asks: Asks, demand: Demand, loader: Loader
    ) -> None:
        self.waiters: dict[Lease, Waiter] = {}
        self._outside: deque[Waiter] = deque()  # not admitted
        self._device, self._host, self._reads = device, host, reads
        self._asks, self._demand, self._loader = asks, demand, loader

    @property
    def is_full(self) -> bool:
        """Whether a lease waits for room."""
        return bool(self._outside)

    def add(self, waiter: Waiter) -> None:
        """Put a lease at the end of the queue."""
        waiter.lease.missing = set(waiter.asked.tolist())
        self.waiters[waiter.lease] = waiter
        self._outside.append(waiter)

    def admit(self) -> list[Waiter]:
        """Admit leases while there is room; return those that have all their rows."""
        complete: list[Waiter] = []
        while self._outside and self._admit(self._outside[0]):
            waiter = self._outside.popleft()
            if not waiter.lease.missing:
                complete.append(waiter)
        return complete

    def arrive(self, keys: set[int]) -> list[Waiter]:
        """Note that rows became ready; return the admitted leases that now have all of theirs."""
        complete: list[Waiter] = []
        if keys:
            for waiter in self.waiters.values():
                if waiter.is_admitted:
                    assert isinstance(waiter.lease.missing, set), "an admitted lease that waits lacks rows"
                    waiter.lease.missing -= keys
                    if not waiter.lease.missing:
                        complete.append(waiter)
        return complete

    def fail(self, errors: dict[int, RowReadError]) -> list[Waiter]:
        """End the admitted leases that need a row which could not be read; return them."""
        failed: list[Waiter] = []
        for waiter in list(self.waiters.values()):
            if waiter.is_admitted and (bad := waiter.lease.missing & errors.keys()):
                self.remove(waiter)
                waiter.lease.state = LeaseState.FAILED
                waiter.lease.error = errors[min(bad)]
                failed.append(waiter)
        return failed

    def remove(self, waiter: Waiter) -> None:
        """Take a lease out of the queue without its rows: withdrawn or failed."""
        del self.waiters[waiter.lease]
        self._asks.end(waiter.asked)
        if waiter.is_admitted:
            self._demand.end(waiter.keys)
            self._device.unhold(self._ready(waiter.keys))
        else:
            self._outside.remove(waiter)
        self._loader.settle(waiter.keys)

    def grant(self, waiter: Waiter) -> Slots:
        """Give an admitted lease its rows, all of which are ready; return the slots of its positions."""
        lease = waiter.lease
        del self.waiters[lease]
        self._demand.end(waiter.keys)
        lease.slots = slots = self._device.slot_of_key[lease.keys].astype(np.intp)
        np.add.at(self._device.holds, slots, ONE)
        self._device.holds[self._ready(waiter.keys)] -= 1  # what was promised; at least one position stays
        lease.missing = frozenset()
        lease.state = LeaseState.READY
        return slots

    def outlook(self, lease: Lease) -> Outlook:
        """Return what a lease still waits for."""
        waiter = self.waiters.get(lease)
        if waiter is None:
            return Outlook(0, 0, 0.0)
        num_reading = len(lease.missing & self._reads.under_way.keys())
        seconds = math.inf
        if waiter.is_admitted:
            # Most leases wait for rows that are being read, and the queue may be long.
            num_queued = 0 if num_reading == len(lease.missing) else self._demand.num_ahead(lease.missing)
            seconds = self._reads.expect(lease.missing, num_queued=num_queued)
        return Outlook(len(lease.missing), num_reading, seconds)

    def _admit(self, waiter: Waiter) -> bool:
        found = self._device.slot_of_key[waiter.keys]
        slots, absent = found[found >= 0].astype(np.intp), waiter.keys[found < 0].tolist()
        # Where reads land on the device, a row that is being read has its slot.
        promised, landing = self._demand.unplaced, self._reads.under_way if self._host is None else ()
        unplaced = [key for key in absent if key not in promised and key not in landing]
        needed = len(unplaced)
        if len(slots):
            needed += int(np.count_nonzero(self._device.holds[slots] == 0))
        if needed > self._loader.spare:
            return False
        if len(slots):
            self._device.hold(slots)
        self._demand.add(waiter.keys)
        in_host = set() if self._host is None else self._host.slots.ready_of(unplaced)
        self._demand.queue(unplaced, in_host=in_host)
        waiter.lease.missing = set(absent)
        waiter.is_admitted = True
        return True

    def _ready(self, keys: Keys) -> Slots:
        slots = self._device.slot_of_key[keys]
        return slots[slots >= 0].astype(np.intp)
