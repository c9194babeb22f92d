"""Several storages: attached and detached while serving."""

import numpy as np
import pytest

from paging import KeysInUseError
from paging.keys import KeyRange
from paging.policy import AgedFrequency
from tests.paging.pager_fakes import StepStorage, keys, make_pager, payload, random_rows


def attach(pager, num_rows, seed):
    storage = StepStorage(random_rows(num_rows, seed=seed))
    return storage, pager.attach(storage)


def settle(pager, *storages):
    while any(storage.under_way for storage in storages):
        for storage in storages:
            storage.end_all()
        pager.poll()


def test_the_first_storages_keys_are_its_row_numbers():
    assert KeyRange(0, 8) == attach(make_pager(2), 8, 0)[1]


def test_every_storage_has_keys_of_its_own():
    pager = make_pager(4)
    base, _ = attach(pager, 8, 0)
    overlay, overlay_keys = attach(pager, 4, 1)
    lease = pager.lease(keys(1, overlay_keys.start + 1))
    settle(pager, base, overlay)
    assert np.array_equal(np.stack([base.rows[1], overlay.rows[1]]), payload(pager, lease))


def test_freed_keys_are_given_to_the_next_storage_that_fits():
    pager = make_pager(2)
    attach(pager, 8, 0)
    _, first = attach(pager, 4, 1)
    _, second = attach(pager, 4, 2)
    pager.detach(first)
    assert (KeyRange(8, 12), KeyRange(12, 16)) == (first, second)
    assert KeyRange(16, 21) == attach(pager, 5, 3)[1]
    assert KeyRange(8, 11) == attach(pager, 3, 4)[1]


def test_a_storage_that_takes_over_keys_has_its_own_rows():
    pager = make_pager(4)
    attach(pager, 8, 0)
    old, old_keys = attach(pager, 4, 1)
    lease = pager.lease(keys(old_keys.start))
    settle(pager, old)
    pager.release(lease)
    pager.detach(old_keys)
    new, new_keys = attach(pager, 4, 2)
    lease = pager.lease(keys(new_keys.start))
    settle(pager, new)
    assert old_keys == new_keys
    assert np.array_equal(new.rows[[0]], payload(pager, lease))


def test_detached_keys_cannot_be_leased():
    pager = make_pager(4)
    _, key_range = attach(pager, 8, 0)
    pager.detach(key_range)
    with pytest.raises(IndexError, match="3"):
        pager.lease(keys(3))


def test_detaching_frees_the_slots():
    pager = make_pager(4, host_slots=4)
    attach(pager, 8, 0)
    overlay, overlay_keys = attach(pager, 4, 1)
    lease = pager.lease(np.arange(overlay_keys.start, overlay_keys.stop))
    settle(pager, overlay)
    pager.release(lease)
    pager.detach(overlay_keys)
    assert (0, 0) == (pager.stats().device_rows, pager.stats().host_rows)
    pager.check_integrity()


@pytest.mark.parametrize("hold", ["lease", "pin"])
@pytest.mark.parametrize("granted", [True, False])
def test_a_storage_in_use_cannot_be_detached(hold, granted):
    pager = make_pager(4)
    storage, key_range = attach(pager, 8, 0)
    lease = getattr(pager, hold)(keys(1))
    if granted:
        settle(pager, storage)
    with pytest.raises(KeysInUseError, match="0 to 7"):
        pager.detach(key_range)
    settle(pager, storage)
    assert lease.is_ready


def test_detaching_awaits_reads_under_way():
    pager = make_pager(4)
    storage, key_range = attach(pager, 8, 0)
    pager.release(pager.lease(keys(1)))
    with pytest.raises(KeysInUseError, match="1 reads"):
        pager.detach(key_range, timeout=0)
    with pytest.raises(IndexError):
        pager.lease(keys(1))
    storage.end_all()
    pager.detach(key_range, timeout=0)
    new, new_keys = attach(pager, 8, 1)
    lease = pager.lease(keys(1))
    settle(pager, new)
    assert KeyRange(0, 8) == new_keys
    assert np.array_equal(new.rows[[1]], payload(pager, lease))


def test_keys_whose_reads_are_under_way_are_given_to_nobody():
    pager = make_pager(4)
    _, key_range = attach(pager, 8, 0)
    pager.release(pager.lease(keys(1)))
    with pytest.raises(KeysInUseError):
        pager.detach(key_range, timeout=0)
    assert KeyRange(8, 16) == attach(pager, 8, 1)[1]


def test_a_prefetch_forgets_the_rows_of_a_storage_that_goes_away():
    pager = make_pager(20, queue_depth=1)
    base, _ = attach(pager, 8, 0)
    overlay, overlay_keys = attach(pager, 4, 1)
    prefetch = pager.prefetch(keys(1, 8, 2, 9))
    pager.prefetch(keys(10))
    base.end_all()
    pager.detach(overlay_keys)
    settle(pager, base, overlay)
    assert (2, 0) == (base.num_submitted, overlay.num_submitted)
    attach(pager, 4, 2)
    prefetch.cancel()
    pager.check_integrity()


def test_detaching_awaits_copies_to_the_device():
    pager = make_pager(2, host_slots=2, kind="late")
    storage, key_range = attach(pager, 8, 0)
    lease = pager.lease(keys(1))
    settle(pager, storage)
    pager.release(lease)
    pager.detach(key_range)
    pager.poll()
    pager.check_integrity()


def test_the_policies_forget_a_storage_that_goes_away():
    pager = make_pager(2, host_slots=2, policy=AgedFrequency)
    attach(pager, 8, 0)
    old, old_keys = attach(pager, 4, 1)
    pager.seed(np.arange(old_keys.start, old_keys.stop), np.ones(4)).cancel()
    settle(pager, old)
    lease = pager.lease(keys(old_keys.start))
    settle(pager, old)
    pager.release(lease)
    counts = [slots.policy._count_of_absent for slots in (pager._device, pager._parts.host.slots)]
    assert all(of_keys[old_keys.start :].any() for of_keys in counts)
    pager.detach(old_keys)
    assert not any(of_keys.any() for of_keys in counts)


def test_recent_keys_forget_a_storage_that_goes_away():
    pager = make_pager(4)
    base, _ = attach(pager, 8, 0)
    overlay, overlay_keys = attach(pager, 4, 1)
    lease = pager.lease(keys(1, 8, 2))
    settle(pager, base, overlay)
    pager.release(lease)
    pager.detach(overlay_keys)
    assert [1, 2] == pager.recent_keys().tolist()


def test_rows_of_another_size_cannot_be_attached():
    pager = make_pager(4)
    with pytest.raises(ValueError, match="16 bytes"):
        pager.attach(StepStorage(np.zeros((4, 16), dtype=np.uint8)))


def test_a_range_that_is_not_attached_cannot_be_detached():
    pager = make_pager(4)
    with pytest.raises(ValueError, match="not attached"):
        pager.detach(KeyRange(0, 4))


def test_closing_awaits_reads_under_way():
    pager = make_pager(4)
    storage, _ = attach(pager, 8, 0)
    pager.release(pager.lease(keys(1)))
    storage.end_all()
    pager.close(timeout=0)
    assert 0 == pager.stats().reads_under_way
