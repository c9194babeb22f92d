"""What the counters mean."""

from bisect import bisect_left

import numpy as np

from paging.asks import Fault
from paging.stats import LATENCY_BOUNDS, PagerStats, levels
from tests.paging.pager_fakes import Clock, StepStorage, keys, make_pager, random_rows


def pager_with(num_slots, **options):
    clock = Clock()
    pager = make_pager(num_slots, clock=clock, **options)
    storage = StepStorage(random_rows(64), clock)
    pager.attach(storage)
    return pager, storage


def settle(pager, storage):
    while storage.under_way:
        storage.end_all()
        pager.poll()


def use(pager, storage, *values):
    lease = pager.lease(keys(*values))
    settle(pager, storage)
    assert lease.is_ready
    pager.release(lease)


def requests(pager):
    stats = pager.stats()
    assert stats.row_requests == stats.device_hits + stats.host_hits + stats.major_faults
    return {"hits": stats.device_hits, "minor": stats.host_hits, "major": stats.major_faults}


def test_of_the_positions_that_want_an_absent_row_only_the_first_is_a_fault():
    pager, storage = pager_with(4)
    use(pager, storage, 1, 1, 1, 2)
    assert {"hits": 2, "minor": 0, "major": 2} == requests(pager)


def test_two_leases_that_wait_for_one_row_are_one_fault():
    pager, storage = pager_with(4)
    leases = [pager.lease(keys(1)), pager.lease(keys(1))]
    settle(pager, storage)
    assert [True, True] == [lease.is_ready for lease in leases]
    assert {"hits": 1, "minor": 0, "major": 1} == requests(pager)


def test_a_position_counts_when_it_is_granted():
    pager, storage = pager_with(4)
    pager.lease(keys(1))
    assert 0 == pager.stats().row_requests
    settle(pager, storage)
    assert 1 == pager.stats().row_requests


def test_a_withdrawn_lease_counts_for_nothing():
    pager, storage = pager_with(4)
    pager.release(pager.lease(keys(1)))
    settle(pager, storage)
    use(pager, storage, 1)
    assert {"hits": 1, "minor": 0, "major": 0} == requests(pager)


def test_a_failed_lease_counts_for_nothing():
    pager, storage = pager_with(4)
    storage.bad_rows.add(1)
    pager.lease(keys(1, 2))
    settle(pager, storage)
    assert {"hits": 0, "minor": 0, "major": 0} == requests(pager)
    assert 1 == pager.stats().read_errors


def test_read_errors_are_counted_by_what_was_wrong():
    pager, storage = pager_with(4)
    storage.bad_rows.add(1)
    pager.lease(keys(1, 2))
    settle(pager, storage)
    storage.close()
    pager.lease(keys(5))
    pager.poll()
    assert {"io": 1, "short": 0, "checksum": 0, "closed": 1} == pager.stats().read_errors_by_cause


def test_a_granted_lease_tells_where_each_row_was():
    pager, storage = pager_with(2, host_slots=4)
    for row in (1, 2, 3):  # row 1 leaves the device
        use(pager, storage, row)
    lease = pager.lease(keys(4, 1, 4, 1))
    assert lease.tiers is None
    settle(pager, storage)
    assert [Fault.MAJOR, Fault.MINOR, 0, 0] == lease.tiers.tolist()


def test_a_lease_of_rows_on_the_device_has_no_faults_to_tell():
    pager, storage = pager_with(4)
    use(pager, storage, 1)
    assert pager.lease(keys(1)).tiers is None


def test_of_two_leases_that_wait_for_one_row_the_first_tells_the_fault():
    pager, storage = pager_with(4)
    leases = [pager.lease(keys(1)), pager.lease(keys(2, 1))]
    settle(pager, storage)
    assert [[2], [2, 0]] == [lease.tiers.tolist() for lease in leases]


def test_a_pin_tells_no_faults():
    pager, storage = pager_with(4)
    pin = pager.pin(keys(1))
    settle(pager, storage)
    assert (True, None) == (pin.is_ready, pin.tiers)


def test_a_prefetched_row_is_a_fault_for_the_first_that_uses_it():
    pager, storage = pager_with(10)
    pager.prefetch(keys(1))
    settle(pager, storage)
    use(pager, storage, 1, 1)
    assert {"hits": 1, "minor": 0, "major": 1} == requests(pager)


def test_a_row_that_a_cancelled_prefetch_brought_is_a_hit():
    pager, storage = pager_with(10)
    prefetch = pager.prefetch(keys(1))
    settle(pager, storage)
    prefetch.cancel()
    use(pager, storage, 1)
    assert {"hits": 1, "minor": 0, "major": 0} == requests(pager)


def test_a_preloaded_row_is_a_hit():
    pager, storage = pager_with(10)
    pager.preload(keys(1))
    settle(pager, storage)
    use(pager, storage, 1)
    assert {"hits": 1, "minor": 0, "major": 0} == requests(pager)


def test_a_row_in_the_host_tier_is_a_minor_fault():
    pager, storage = pager_with(1, host_slots=4)
    use(pager, storage, 1)
    use(pager, storage, 2)  # row 1 leaves the device
    use(pager, storage, 1, 1)
    assert {"hits": 1, "minor": 1, "major": 2} == requests(pager)


def test_pins_are_no_requests():
    pager, storage = pager_with(4)
    pager.pin(keys(1))
    settle(pager, storage)
    use(pager, storage, 1)
    assert {"hits": 1, "minor": 0, "major": 0} == requests(pager)


def test_prefetched_rows_count_as_used_once_and_only_while_they_are_there():
    pager, storage = pager_with(30)
    prefetch = pager.prefetch(keys(1, 2, 3))
    settle(pager, storage)
    use(pager, storage, 1)
    use(pager, storage, 1)
    prefetch.cancel()
    use(pager, storage, 2)
    stats = pager.stats()
    assert (3, 1) == (stats.prefetched_rows, stats.prefetched_used_rows)


def test_bytes_evictions_and_latencies_are_counted():
    pager, storage = pager_with(1, host_slots=1)
    for row in (1, 2):
        lease = pager.lease(keys(row))
        storage.clock.now += 0.001
        settle(pager, storage)
        pager.release(lease)
    stats = pager.stats()
    assert (2 * 32, 2 * 32) == (stats.bytes_read, stats.bytes_copied)
    assert (1, 1) == (stats.device_evictions, stats.host_evictions)
    assert (2, 7) == (sum(stats.read_latency_counts), stats.read_latency_counts.index(2))
    assert 0.002 == round(stats.read_latency_sum, 9)


def test_the_rest_of_a_snapshot_is_what_is_there_now():
    pager, storage = pager_with(4, queue_depth=2)
    use(pager, storage, 1)
    held = pager.lease(keys(1))
    pager.lease(keys(2, 3, 4))
    stats = pager.stats()
    assert held.is_ready
    assert (4, 1, 1, 1, 2) == (
        stats.device_slots,
        stats.device_rows,
        stats.device_leased_rows,
        stats.waiting_leases,
        stats.reads_under_way,
    )


def test_a_tiers_bytes_include_what_reading_needs_where_reads_land():
    clock = Clock()
    sizes = []
    for host_slots in (0, 3):
        pager = make_pager(4, host_slots=host_slots, clock=clock)
        storage = StepStorage(random_rows(64), clock)
        storage.staging_bytes = 100
        pager.attach(storage)
        sizes.append((pager.stats().device_bytes, pager.stats().host_bytes))
    assert [(4 * 512 + 100, 0), (4 * 512, 3 * 512 + 100)] == sizes


def test_recent_keys_are_the_positions_in_their_order():
    pager, storage = pager_with(4)
    use(pager, storage, 3, 1, 3)
    use(pager, storage, 2)
    assert [3, 1, 3, 2] == pager.recent_keys().tolist()


def test_only_the_latest_positions_are_remembered():
    pager, storage = pager_with(4)
    use(pager, storage, 1)
    lease = pager.lease(np.tile(keys(2, 3, 4), 30_000))
    settle(pager, storage)
    assert lease.is_ready
    recent = pager.recent_keys()
    assert (65_536, [2, 3, 4]) == (len(recent), recent[-3:].tolist())


def test_residency_lists_rows_and_their_heat_by_tier():
    pager, storage = pager_with(1, host_slots=4)
    use(pager, storage, 1)
    use(pager, storage, 2)
    there = pager.residency()
    assert ([2], [1, 2]) == (there.device_keys.tolist(), sorted(there.host_keys.tolist()))
    assert there.host_heat[0] >= there.host_heat[1]


class SlowCopies:
    """A slab whose copies take a quarter of a second each."""

    def __init__(self, slab, clock):
        self._copy_in, self._clock = slab.copy_in, clock
        slab.copy_in = self

    def __call__(self, *arguments):
        self._clock.now += 0.25
        return self._copy_in(*arguments)


def test_a_copy_is_timed_for_each_of_its_rows():
    pager, storage = pager_with(4, host_slots=8)
    SlowCopies(pager._slab, storage.clock)
    use(pager, storage, 1, 2, 3)
    stats = pager.stats()
    assert (3, 0.75) == (sum(stats.copy_latency_counts), stats.copy_latency_sum)
    assert 3 == stats.copy_latency_counts[bisect_left(LATENCY_BOUNDS, 0.25)]


def test_a_copy_that_goes_on_by_itself_is_timed_until_its_end_is_seen():
    pager, storage = pager_with(4, host_slots=8, kind="late")
    lease = pager.lease(keys(1, 2))
    settle(pager, storage)
    assert (True, 0) == (lease.is_ready, sum(pager.stats().copy_latency_counts))
    pager.gather(1, lease)
    storage.clock.now += 0.5
    pager.poll()
    assert (2, 1.0) == (sum(pager.stats().copy_latency_counts), pager.stats().copy_latency_sum)


def test_without_a_host_tier_nothing_is_copied():
    pager, storage = pager_with(4)
    use(pager, storage, 1, 2)
    assert (0, 0.0) == (sum(pager.stats().copy_latency_counts), pager.stats().copy_latency_sum)


def test_what_says_how_things_stand_is_told_from_what_is_counted():
    assert {"device_slots", "host_rows", "reads_under_way"} <= levels(PagerStats)
    assert not {"device_hits", "read_latency_counts", "stall_seconds"} & levels(PagerStats)
