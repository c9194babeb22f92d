"""A paged memory whose time passes when the test says so: a real pager over a storage that answers by a fake clock."""

import math

import numpy as np
import torch

from server.engine.row_memory import PagedMemory
from tests.paging.pager_fakes import Clock, StepStorage, make_pager, payload, random_rows


class ClockedStorage(StepStorage):
    """Rows in memory; a read ends so many seconds after it began, by the row. Infinity: when the test says so."""

    def __init__(self, rows, clock, delay, *, queue_depth):
        super().__init__(rows, clock, queue_depth)
        self.delay = delay
        self.due = {}

    def submit(self, reads, completions):
        super().submit(reads, completions)
        for read in reads:
            self.due[read] = self.clock() + self.delay(read.row)

    def next_due(self):
        return min((self.due[read] for read, _ in self.under_way), default=math.inf)

    def end_due(self):
        for index, (read, _) in reversed([*enumerate(self.under_way)]):
            if self.due[read] <= self.clock():
                self.end(index)

    def let_go(self, delay=0.0):
        """Let every row come after so many seconds from now on, those that are on their way at once."""
        self.delay = lambda _: delay
        self.due = {read: self.clock() for read, _ in self.under_way}
        self.end_due()


class FakeBatch:
    """The rows of a step, for a fake model to look at."""

    def __init__(self, memory, leases, places):
        self.memory, self.leases, self.places = memory, leases, places

    def check(self, keys):
        """See that these are the rows of so many tokens, in their order."""
        assert all(lease.is_ready for lease in self.leases), "a row is not there"
        leased = np.concatenate([lease.keys for lease in self.leases])
        assert keys == (leased if self.places is None else leased[self.places]).tolist()
        for lease in self.leases:
            assert np.array_equal(payload(self.memory.pager, lease), self.memory.rows_of(lease.keys))


class FakeMemory(PagedMemory):
    """Rows of a real pager; whoever waits for them makes the clock go on."""

    def __init__(self, num_slots, *, num_rows=24, host_slots=0, queue_depth=8, delay=0.0):
        """delay: seconds that a read takes, a number or a function of the row."""
        self.clock = Clock()
        delays = delay if callable(delay) else lambda _: delay
        self.storage = ClockedStorage(random_rows(num_rows), self.clock, delays, queue_depth=queue_depth)
        pager = make_pager(num_slots, host_slots=host_slots, clock=self.clock, min_leasable=num_slots)
        pager.attach(self.storage)
        super().__init__(pager, dtype=torch.float32)
        self.poll = self._poll
        self.wait_for = self._wait_for
        self.wait_any = self._wait_any
        self.idle = self._idle

    def warm(self):
        """Bring as many rows as there are slots for."""
        lease = self.pager.lease(np.arange(min(self.leasable_rows, self.storage.num_rows)))
        while lease.is_waiting:
            self.storage.end_all()
            self.pager.poll()
        self.pager.release(lease)
        return self

    @property
    def storages(self):
        """All that rows are read through."""
        return [self.storage, *self._attached.values()]

    def rows_of(self, keys):
        """What the rows with these keys must be."""
        found = np.zeros((len(keys), self.storage.row_bytes), dtype=np.uint8)
        found[keys < self.storage.num_rows] = self.storage.rows[keys[keys < self.storage.num_rows]]
        for place, storage in self._attached.items():
            found[place.mask(keys)] = storage.rows[keys[place.mask(keys)] - place.start]
        return found

    def rows(self, leases, places=None):
        return FakeBatch(self, leases, places)

    def _poll(self):
        for storage in self.storages:
            storage.end_due()
        self.pager.poll()

    def _wait_for(self, leases, timeout):
        self._pass_while(lambda: any(lease.is_waiting for lease in leases), timeout)

    def _wait_any(self, leases, timeout):
        self._pass_while(lambda: bool(leases) and all(lease.is_waiting for lease in leases), timeout)

    def _idle(self, timeout):
        self._pass_while(lambda: True, timeout)

    def _pass_while(self, is_waiting, timeout):
        """Like the pager: as long as something is under way, to the end of the time at most."""
        end = self.clock() + timeout
        self._poll()
        while is_waiting() and self.clock() < end and any(storage.under_way for storage in self.storages):
            self.clock.now = min(end, max(self.clock(), min(storage.next_due() for storage in self.storages)))
            self._poll()
