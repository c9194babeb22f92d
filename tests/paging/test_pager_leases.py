"""Leases: all or nothing, never blocking, never starving."""

import math
import threading

import numpy as np
import pytest

from paging import LeaseTooLargeError, RowReadError
from paging.lease import LeaseState, Outlook
from tests.paging.pager_fakes import Clock, StepStorage, keys, make_pager, payload, random_rows


def pager_with(num_slots, *, num_rows=32, resident=(), **options):
    pager = make_pager(num_slots, **options)
    storage = StepStorage(random_rows(num_rows))
    pager.attach(storage)
    if resident:
        pager.release(ready_lease(pager, storage, *resident))
    return pager, storage


def ready_lease(pager, storage, *values):
    lease = pager.lease(keys(*values))
    while not lease.is_ready:
        assert storage.under_way
        storage.end_all()
        pager.poll()
    return lease


def test_a_lease_of_resident_rows_is_ready_at_once():
    pager, _ = pager_with(4, resident=(1, 2))
    assert LeaseState.READY == pager.lease(keys(2, 1, 2)).state


def test_rows_on_the_device_can_be_told_from_others():
    pager, _ = pager_with(4, resident=(1, 2))
    pager.lease(keys(5))  # on its way
    assert [True, False, False, True] == pager.resident(keys(2, 3, 5, 1)).tolist()


def test_a_lease_of_resident_rows_never_touches_storage():
    pager, storage = pager_with(4, resident=(1, 2))
    submitted = storage.num_submitted
    pager.release(pager.lease(keys(2, 1)))
    assert submitted == storage.num_submitted


def test_a_lease_has_the_values_of_its_positions():
    pager, storage = pager_with(4)
    lease = ready_lease(pager, storage, 7, 3, 7)
    assert np.array_equal(storage.rows[[7, 3, 7]], payload(pager, lease))


def test_a_lease_of_nothing_is_ready():
    pager, _ = pager_with(1)
    assert LeaseState.READY == pager.lease(keys()).state


def test_a_lease_with_an_absent_row_waits_for_all_of_its_rows():
    pager, storage = pager_with(4)
    lease = pager.lease(keys(1, 2))
    storage.end()
    pager.poll()
    assert (LeaseState.WAITING, {2}) == (lease.state, lease.missing)


def test_an_absent_row_is_read_once_however_many_want_it():
    pager, storage = pager_with(4)
    leases = [pager.lease(keys(5, 5)), pager.lease(keys(5))]
    pager.prefetch(keys(5))
    assert [5] == storage.rows_under_way()
    storage.end_all()
    pager.poll()
    assert [True, True] == [lease.is_ready for lease in leases]


def test_no_more_reads_are_under_way_than_the_queue_depth():
    pager, storage = pager_with(16, queue_depth=3)
    pager.lease(keys(*range(10)))
    assert 3 == len(storage.under_way)
    storage.end()
    pager.poll()
    assert 3 == storage.most_under_way == len(storage.under_way)


def test_the_queue_depth_is_the_storages_own_unless_given():
    pager, storage = pager_with(32)
    pager.lease(keys(*range(20)))
    assert storage.queue_depth == len(storage.under_way)


def test_a_leased_row_is_never_evicted():
    pager, storage = pager_with(2)
    held = ready_lease(pager, storage, 1)
    for other in (2, 3, 4):
        pager.release(ready_lease(pager, storage, other))
    assert np.array_equal(storage.rows[[1]], payload(pager, held))


def test_a_released_row_stays_until_its_slot_is_needed():
    pager, storage = pager_with(2, resident=(1, 2))
    pager.release(ready_lease(pager, storage, 3))
    assert {2, 3} == set(pager.residency().device_keys.tolist())


def test_a_lease_of_more_rows_than_slots_is_refused_with_the_number_that_fits():
    pager, _ = pager_with(3)
    with pytest.raises(LeaseTooLargeError) as caught:
        pager.lease(keys(1, 2, 3, 4))
    assert 3 == caught.value.fits == pager.leasable_slots


def test_repeats_do_not_count_towards_the_number_that_fits():
    pager, storage = pager_with(2)
    assert ready_lease(pager, storage, 1, 2, 1, 2, 1).is_ready


@pytest.mark.parametrize("key", [-1, 32, 2**40])
def test_a_key_that_no_storage_has_is_an_error(key):
    pager, _ = pager_with(3, resident=(0, 31))
    with pytest.raises(IndexError, match=str(key)):
        pager.lease(keys(0, key))


def test_a_row_that_cannot_be_read_fails_the_leases_that_need_it_and_no_other():
    pager, storage = pager_with(4)
    storage.bad_rows.add(2)
    first, second, third = pager.lease(keys(1, 2)), pager.lease(keys(2)), pager.lease(keys(1, 3))
    storage.end_all()
    pager.poll()
    assert [LeaseState.FAILED, LeaseState.FAILED, LeaseState.READY] == [first.state, second.state, third.state]
    assert isinstance(first.error, RowReadError)
    assert 2 == second.error.row
    pager.check_integrity()


def test_a_row_that_could_not_be_read_is_tried_again_by_the_next_lease():
    pager, storage = pager_with(4)
    storage.bad_rows.add(2)
    pager.lease(keys(2))
    storage.end_all()
    pager.poll()
    storage.bad_rows.clear()
    assert ready_lease(pager, storage, 2).is_ready


def test_the_rows_of_a_closed_storage_fail():
    pager, storage = pager_with(4)
    storage.close()
    lease = pager.lease(keys(2))
    pager.poll()
    assert LeaseState.FAILED == lease.state


def test_withdrawing_a_waiting_lease_lets_its_reads_go_on():
    pager, storage = pager_with(4)
    lease = pager.lease(keys(1))
    pager.release(lease)
    storage.end_all()
    pager.poll()
    assert LeaseState.RELEASED == lease.state
    assert [1] == pager.residency().device_keys.tolist()


def test_withdrawing_a_lease_drops_its_reads_that_have_not_started():
    pager, storage = pager_with(8, queue_depth=1)
    pager.release(pager.lease(keys(1, 2, 3)))
    storage.end_all()
    pager.poll()
    assert 1 == storage.num_submitted


def test_releasing_twice_is_releasing_once():
    pager, storage = pager_with(2)
    first, second = ready_lease(pager, storage, 1), ready_lease(pager, storage, 1)
    pager.release(first)
    pager.release(first)
    pager.check_integrity()
    assert np.array_equal(storage.rows[[1]], payload(pager, second))


def test_rows_cannot_be_gathered_after_release():
    pager, storage = pager_with(2)
    lease = ready_lease(pager, storage, 1)
    pager.release(lease)
    with pytest.raises(ValueError, match="released"):
        pager.gather(0, lease)


def test_rows_fetched_for_a_waiting_lease_stay_until_it_has_used_them():
    pager, storage = pager_with(3, queue_depth=1)
    waiting = pager.lease(keys(1, 2))
    storage.end_all()
    pager.poll()  # row 1 is there, row 2 is being read
    for other in (5, 6, 7):
        pager.release(pager.lease(keys(other)))
        pager.poll()
    storage.end_all()
    pager.poll()
    assert waiting.is_ready


def test_leases_that_cannot_fit_together_are_served_in_the_order_they_came():
    pager, storage = pager_with(3)
    first, second, third = pager.lease(keys(1, 2)), pager.lease(keys(3, 4)), pager.lease(keys(5))
    storage.end_all()
    pager.poll()
    assert [True, False, False] == [first.is_ready, second.is_ready, third.is_ready]
    pager.release(first)
    storage.end_all()
    pager.poll()
    assert [True, True] == [second.is_ready, third.is_ready]


def test_nobody_overtakes_a_lease_that_waits_for_room():
    pager, storage = pager_with(2, resident=(1,))
    holder = pager.lease(keys(1))
    starved = pager.lease(keys(2, 3))
    overtaker = pager.lease(keys(1))
    assert not overtaker.is_ready
    pager.release(holder)
    storage.end_all()
    pager.poll()
    assert starved.is_ready
    pager.release(starved)
    storage.end_all()
    pager.poll()
    assert overtaker.is_ready


def test_a_lease_whose_rows_are_there_overtakes_one_whose_rows_are_being_read():
    pager, _ = pager_with(4, resident=(1,))
    pager.lease(keys(2))
    assert pager.lease(keys(1)).is_ready


def test_leases_of_rows_that_are_there_are_granted_while_many_wait_for_reads():
    pager, storage = pager_with(30, resident=(1, 2, 3), queue_depth=4)
    waiting = [pager.lease(keys(row)) for row in range(4, 28)]
    for _ in range(3):
        lease = pager.lease(keys(1, 2, 3, 1))
        assert lease.is_ready
        pager.release(lease)
    pager.check_integrity()
    while storage.under_way:
        storage.end_all()
        pager.poll()
    assert all(lease.is_ready for lease in waiting)


def test_a_lease_of_rows_that_others_hold_needs_no_room():
    pager, _ = pager_with(4, resident=(1, 2), queue_depth=1)
    held = pager.lease(keys(1, 2))
    for row in (3, 4):  # one is being read, the other promised the last slot
        pager.lease(keys(row))
    assert (True, True) == (held.is_ready, pager.lease(keys(2, 1, 2)).is_ready)
    pager.check_integrity()


def test_rows_whose_slots_are_promised_cannot_be_held():
    pager, storage = pager_with(4, resident=(1, 2), queue_depth=1)
    waiting = [pager.lease(keys(row)) for row in (3, 4, 5)]  # the last will take the slot of row 1 or 2
    lease = pager.lease(keys(1, 2))
    assert not lease.is_ready
    pager.check_integrity()
    while storage.under_way:
        storage.end_all()
        pager.poll()
    assert [True] * 3 == [lease.is_ready for lease in waiting]


def test_a_lease_in_wait_gives_way_when_it_is_withdrawn():
    pager, storage = pager_with(1)
    holder = ready_lease(pager, storage, 1)
    first, second = pager.lease(keys(2)), pager.lease(keys(3))
    pager.release(first)
    pager.release(holder)
    storage.end_all()
    pager.poll()
    assert second.is_ready


def test_the_outlook_tells_what_is_under_way_and_how_long_it_may_take():
    clock = Clock()
    pager = make_pager(8, clock=clock, queue_depth=2)
    storage = StepStorage(random_rows(32), clock)
    pager.attach(storage)
    pager.lease(keys(0, 1))
    clock.now += 0.020
    storage.end_all()
    pager.poll()
    lease = pager.lease(keys(2, 3))
    clock.now += 0.005
    assert Outlook(missing=2, under_way=2, seconds=pytest.approx(0.015)) == pager.outlook(lease)


def test_the_outlook_counts_the_reads_that_come_first():
    clock = Clock()
    pager = make_pager(16, clock=clock, queue_depth=2)
    storage = StepStorage(random_rows(32), clock)
    pager.attach(storage)
    pager.lease(keys(0, 1))
    clock.now += 0.010
    storage.end_all()
    pager.poll()
    pager.lease(keys(2, 3, 4, 5))  # two under way, two queued
    behind = pager.lease(keys(6, 7))
    assert Outlook(missing=2, under_way=0, seconds=pytest.approx(0.010 * (1 + 4 / 2))) == pager.outlook(behind)
    pager.lease(keys(8, 9, 10))
    assert Outlook(missing=2, under_way=0, seconds=pytest.approx(0.010 * (1 + 4 / 2))) == pager.outlook(behind)


def test_the_outlook_of_a_lease_that_waits_for_room_is_unknown():
    pager, storage = pager_with(1)
    ready_lease(pager, storage, 1)
    assert math.inf == pager.outlook(pager.lease(keys(2))).seconds


def test_waiting_for_room_that_only_the_caller_can_make_returns_at_once():
    pager, storage = pager_with(1)
    ready_lease(pager, storage, 1)
    assert pager.wait(pager.lease(keys(2)), timeout=math.inf) is False


def test_waiting_times_out():
    pager, _ = pager_with(1)
    assert pager.wait(pager.lease(keys(2)), timeout=0) is False


def test_waiting_for_one_of_several_leases_ends_with_the_first():
    pager, storage = pager_with(4)
    leases = [pager.lease(keys(1)), pager.lease(keys(2))]
    storage.end(1)
    pager.wait_any(leases, timeout=30.0)
    assert [False, True] == [lease.is_ready for lease in leases]


def test_waiting_for_all_of_several_leases_ends_with_the_last():
    pager, storage = pager_with(4, queue_depth=1)
    leases = [pager.lease(keys(row)) for row in (1, 2, 3)]
    disk = threading.Thread(target=lambda: [storage.answer() for _ in leases])
    disk.start()
    pager.wait_for(leases, timeout=30.0)
    disk.join()
    assert [True] * 3 == [lease.is_ready for lease in leases]


@pytest.mark.parametrize("wait", ["wait_for", "wait_any"])
def test_waiting_for_several_leases_times_out(wait):
    pager, _ = pager_with(4)
    leases = [pager.lease(keys(1)), pager.lease(keys(2))]
    getattr(pager, wait)(leases, timeout=0.0)
    assert [LeaseState.WAITING] * 2 == [lease.state for lease in leases]


@pytest.mark.parametrize("wait", ["wait_for", "wait_any"])
def test_waiting_for_several_leases_ends_where_nothing_can_arrive(wait):
    pager, _ = pager_with(1, resident=(1,))
    held = pager.lease(keys(1))
    getattr(pager, wait)([pager.lease(keys(2)), pager.lease(keys(3))], timeout=math.inf)
    assert held.is_ready


@pytest.mark.parametrize("wait", ["wait_for", "wait_any"])
def test_waiting_for_no_lease_ends_at_once(wait):
    pager, _ = pager_with(1)
    pager.lease(keys(2))
    getattr(pager, wait)([], timeout=math.inf)


def test_waiting_for_several_leases_ends_also_where_one_fails():
    pager, storage = pager_with(4)
    storage.bad_rows.add(1)
    leases = [pager.lease(keys(1)), pager.lease(keys(2))]
    storage.end_all()
    pager.wait_for(leases, timeout=30.0)
    assert [LeaseState.FAILED, LeaseState.READY] == [lease.state for lease in leases]


def test_pinned_rows_stay():
    pager, storage = pager_with(2)
    pin = pager.pin(keys(1))
    storage.end_all()
    pager.poll()
    assert pin.is_ready
    for other in (2, 3, 4):
        pager.release(ready_lease(pager, storage, other))
    submitted = storage.num_submitted
    pager.release(ready_lease(pager, storage, 1))
    assert submitted == storage.num_submitted


def test_pins_leave_their_slots_to_no_lease_and_say_so():
    pager, _ = pager_with(4)
    pager.pin(keys(1, 2))
    assert 2 == pager.leasable_slots
    with pytest.raises(LeaseTooLargeError, match="2 of 4 slots"):
        pager.lease(keys(3, 4, 5))
    assert 4 == len(pager.lease(keys(1, 2, 3, 4)))


def test_pins_leave_what_leases_need_at_least():
    pager, _ = pager_with(4, min_leasable=3)
    pager.pin(keys(1))
    with pytest.raises(LeaseTooLargeError) as caught:
        pager.pin(keys(2))
    assert 0 == caught.value.fits


def test_pins_leave_what_a_waiting_lease_needs():
    pager, _ = pager_with(4)
    pager.lease(keys(1, 2, 3))
    with pytest.raises(LeaseTooLargeError):
        pager.pin(keys(4, 5))


def test_an_unpinned_row_goes_like_any_other():
    pager, storage = pager_with(1, min_leasable=0)
    pin = pager.pin(keys(1))
    storage.end_all()
    pager.poll()
    pager.release(pin)
    assert 1 == pager.leasable_slots
    assert ready_lease(pager, storage, 2).is_ready
