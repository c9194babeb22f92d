"""The whole pager against a dict of rows: values always equal, laws always hold, nothing hangs."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from paging import KeysInUseError, LeaseTooLargeError
from paging.lease import LeaseState
from tests.paging.pager_fakes import Clock, StepStorage, make_pager, payload, random_rows

NUM_ROWS = 12
KEYS = st.lists(st.integers(0, NUM_ROWS - 1), min_size=0, max_size=6)


class TickingClock(Clock):
    """Time that passes with every look at it, and the same in every run."""

    def __call__(self):
        self.now += 1e-4
        return self.now


class PagerMachine(RuleBasedStateMachine):
    kinds = ("cpu", "late")
    leases = Bundle("leases")
    prefetches = Bundle("prefetches")

    @initialize(
        num_slots=st.integers(1, 6),
        host_slots=st.integers(0, 3),
        queue_depth=st.integers(1, 4),
        share=st.sampled_from([0.1, 0.5, 1.0]),
        late=st.booleans(),
    )
    def start(self, num_slots, host_slots, queue_depth, share, late):
        self.kind = self.kinds[late]
        if self.kind != "cpu":
            host_slots += 1
        self.clock = TickingClock()
        self.pager = make_pager(
            num_slots,
            host_slots=host_slots,
            queue_depth=queue_depth,
            prefetch_share=share,
            kind=self.kind,
            clock=self.clock,
        )
        self.queue_depth = self.most_under_way = queue_depth
        self.seed = 0
        self.row_of_key = {}
        self.storages = {}
        self.live = []
        self.pins = []
        self.ahead = []
        self.num_requests = np.zeros(3, dtype=np.int64)  # by tier
        self.attach(NUM_ROWS)

    def attach(self, num_rows):
        rows = random_rows(num_rows, seed=self.seed)
        self.seed += 1
        storage = StepStorage(rows, self.clock)
        key_range = self.pager.attach(storage)
        assert key_range.start not in self.storages
        self.storages[key_range.start] = (key_range, storage)
        self.row_of_key.update({key_range.start + row: rows[row] for row in range(num_rows)})

    def to_keys(self, numbers):
        """Spread small numbers over the keys that are attached."""
        known = sorted(self.row_of_key)
        return np.array([known[number * 7 % len(known)] for number in numbers], dtype=np.int64)

    @rule(num_rows=st.integers(1, 8))
    def attach_overlay(self, num_rows):
        if len(self.storages) < 3:
            self.attach(num_rows)

    @rule(which=st.integers(0, 5))
    def detach_overlay(self, which):
        overlays = [start for start in self.storages if start]
        if not overlays:
            return
        key_range, storage = self.storages[overlays[which % len(overlays)]]
        holding = [lease for lease in self.live if lease.state is not LeaseState.FAILED]
        in_use = any(key_range.mask(lease.keys).any() for lease in holding)
        storage.end_all()
        try:
            self.pager.detach(key_range, timeout=0)
        except KeysInUseError:
            assert in_use
            return
        assert not in_use
        storage.close()
        del self.storages[key_range.start]
        for key in range(key_range.start, key_range.stop):
            del self.row_of_key[key]

    def hold(self, make, keys, *lists):
        try:
            lease = make(keys)
        except LeaseTooLargeError:
            return multiple()
        for held in (self.live, *lists):
            held.append(lease)
        return lease

    @rule(target=leases, numbers=KEYS)
    def lease(self, numbers):
        return self.hold(self.pager.lease, self.to_keys(numbers))

    @rule(target=leases, numbers=st.lists(st.integers(0, 5), min_size=1, max_size=3))
    def lease_what_is_there(self, numbers):
        there = self.pager.residency().device_keys
        if not len(there):
            return multiple()
        return self.hold(self.pager.lease, there[np.array(numbers) % len(there)])

    @rule(target=leases, numbers=KEYS.filter(lambda numbers: len(numbers) < 3))
    def pin(self, numbers):
        return self.hold(self.pager.pin, self.to_keys(numbers), self.pins)

    @rule(lease=consumes(leases))
    def release(self, lease):
        self.check_values(lease)
        self.count(lease)
        self.pager.release(lease)
        self.live.remove(lease)
        if lease in self.pins:
            self.pins.remove(lease)

    @rule(target=prefetches, numbers=st.lists(st.integers(0, NUM_ROWS - 1), max_size=12))
    def prefetch(self, numbers):
        self.ahead.append(self.pager.prefetch(self.to_keys(numbers)))
        return self.ahead[-1]

    @rule(target=prefetches, numbers=st.lists(st.integers(0, NUM_ROWS - 1), max_size=12))
    def preload(self, numbers):
        return self.pager.preload(np.unique(self.to_keys(numbers)))

    @rule(seconds=st.sampled_from([1e-3, 1.0]))
    def read_ahead(self, seconds):
        self.pager.read_ahead(seconds)
        self.most_under_way = 8 * self.queue_depth

    @rule(prefetch=consumes(prefetches))
    def cancel(self, prefetch):
        prefetch.cancel()

    @rule(index=st.integers(0, 3))
    def end_read(self, index):
        for _, storage in self.storages.values():
            if storage.under_way:
                storage.end(index % len(storage.under_way))
                break

    @rule()
    def copy(self):
        if self.kind == "late" and self.pager._slab.copies:
            self.pager._slab.copy_next()

    @rule()
    def poll(self):
        self.pager.poll()

    @rule(row=st.integers(0, NUM_ROWS - 1), is_bad=st.booleans())
    def spoil(self, row, is_bad):
        bad_rows = self.storages[0][1].bad_rows
        bad_rows.add(row) if is_bad else bad_rows.discard(row)

    def count(self, lease):
        self.num_requests += self.requests_of(lease)

    def requests_of(self, lease):
        """Count the positions of a lease by tier, and see that of those with the same key only the first is a fault."""
        if lease.tiers is not None:
            assert lease.is_ready
            assert lease not in self.pins
            faults = lease.keys[lease.tiers > 0].tolist()
            assert len(set(faults)) == len(faults)
            first = np.unique(lease.keys, return_index=True)[1]
            assert set(np.flatnonzero(lease.tiers)) <= set(first)
        if not lease.is_ready or lease in self.pins:
            return np.zeros(3, dtype=np.int64)
        tiers = np.zeros(len(lease), dtype=np.uint8) if lease.tiers is None else lease.tiers
        return np.bincount(tiers, minlength=3)

    @invariant()
    def laws_hold(self):
        self.pager.check_integrity()
        assert sum(len(storage.under_way) for _, storage in self.storages.values()) <= self.most_under_way

    @invariant()
    def leased_values_are_the_rows(self):
        if self.kind == "cpu":  # elsewhere looking makes copies happen: they are looked at when they end
            for lease in self.live:
                self.check_values(lease)
            ready = [lease for lease in self.live if lease.is_ready]
            together = payload(self.pager, ready)
            assert np.array_equal(
                together, np.concatenate([together[:0], *(payload(self.pager, one) for one in ready)])
            )

    def check_values(self, lease):
        if lease.is_ready and len(lease):
            expected = np.stack([self.row_of_key[key] for key in lease.keys.tolist()])
            assert np.array_equal(payload(self.pager, lease), expected)
        if lease.state is LeaseState.FAILED:
            assert lease.error.row in lease.keys

    @invariant()
    def every_request_is_counted_once(self):
        stats = self.pager.stats()
        assert stats.row_requests == stats.device_hits + stats.host_hits + stats.major_faults
        granted = sum((self.requests_of(lease) for lease in self.live), start=self.num_requests)
        assert [stats.device_hits, stats.host_hits, stats.major_faults] == granted.tolist()

    def teardown(self):
        if not hasattr(self, "pager"):
            return
        # Nothing hangs: with reads that end and leases that are given back, every lease is granted or fails.
        for _ in range(2 + 12 * len(self.live)):
            for _, storage in self.storages.values():
                storage.end_all()
            self.copy()
            self.pager.poll()
            self.laws_hold()
            self.leased_values_are_the_rows()
            if done := [lease for lease in self.live if lease.state is not LeaseState.WAITING]:
                self.release(done[0])
        for prefetch in self.ahead:
            prefetch.cancel()
        assert [] == self.live
        assert 0 == self.pager.stats().device_leased_rows
        assert not self.pager._parts.asks.count.any()


SETTINGS = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestPagerMachine = PagerMachine.TestCase
TestPagerMachine.settings = SETTINGS
