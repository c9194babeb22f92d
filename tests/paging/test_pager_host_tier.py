"""The host tier: between storage and device, and where reads land."""

import numpy as np

from tests.paging.pager_fakes import StepStorage, keys, make_pager, payload, random_rows


def pager_with(num_slots, host_slots, **options):
    pager = make_pager(num_slots, host_slots=host_slots, **options)
    storage = StepStorage(random_rows(64))
    pager.attach(storage)
    return pager, storage


def settle(pager, storage):
    while storage.under_way:
        storage.end_all()
        pager.poll()


def use(pager, storage, *values):
    lease = pager.lease(keys(*values))
    settle(pager, storage)
    assert np.array_equal(storage.rows[list(values)], payload(pager, lease))
    pager.release(lease)


def test_a_row_that_left_the_device_comes_back_without_a_read():
    pager, storage = pager_with(1, 4)
    use(pager, storage, 1)
    use(pager, storage, 2)
    submitted = storage.num_submitted
    assert pager.lease(keys(1)).is_ready
    assert submitted == storage.num_submitted


def test_one_host_slot_is_enough():
    pager, storage = pager_with(4, 1)
    use(pager, storage, 1, 2, 3, 4)
    use(pager, storage, 5, 6)
    pager.check_integrity()


def test_prefetched_rows_stay_in_the_host_tier():
    pager, storage = pager_with(4, 20, prefetch_share=0.1)
    pager.prefetch(keys(1, 2, 3))
    settle(pager, storage)
    there = pager.residency()
    assert ([], [1, 2]) == (there.device_keys.tolist(), sorted(there.host_keys.tolist()))


def test_leases_that_want_a_row_being_prefetched_get_it():
    pager, storage = pager_with(4, 20)
    pager.prefetch(keys(1))
    lease = pager.lease(keys(1))
    settle(pager, storage)
    assert (True, 1) == (lease.is_ready, storage.num_submitted)


def test_preloading_fills_the_device_and_then_the_host_tier():
    pager, storage = pager_with(4, 6)
    pager.preload(np.arange(20))
    settle(pager, storage)
    there = pager.residency()
    assert {0, 1, 2, 3} == set(there.device_keys.tolist())
    assert 6 == len(there.host_keys)


def test_preloading_fills_a_device_larger_than_the_host_tier():
    pager, storage = pager_with(8, 2, queue_depth=8)
    pager.preload(np.arange(20))
    settle(pager, storage)
    assert set(range(8)) == set(pager.residency().device_keys.tolist())
