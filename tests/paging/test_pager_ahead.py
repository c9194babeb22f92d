"""Prefetch and preload: rows that come before they are needed, and never at the cost of those that are."""

import numpy as np
import pytest

from tests.paging.pager_fakes import Clock, StepStorage, keys, make_pager, random_rows


def pager_with(num_slots, **options):
    pager = make_pager(num_slots, **options)
    storage = StepStorage(random_rows(64))
    pager.attach(storage)
    return pager, storage


def settle(pager, storage):
    while storage.under_way:
        storage.end_all()
        pager.poll()


def hold(pager, storage, *values):
    lease = pager.lease(keys(*values))
    settle(pager, storage)
    assert lease.is_ready
    return lease


def resident(pager):
    return set(pager.residency().device_keys.tolist())


def test_a_prefetched_row_is_there_when_it_is_leased():
    pager, storage = pager_with(20)
    pager.prefetch(keys(1, 2))
    settle(pager, storage)
    assert pager.lease(keys(2, 1)).is_ready


def test_rows_are_read_in_the_order_they_are_asked_for():
    pager, storage = pager_with(40)
    pager.prefetch(keys(9, 2, 9, 5))
    assert [9, 2, 5] == storage.rows_under_way()


def test_prefetches_wait_their_turn():
    pager, storage = pager_with(40, queue_depth=2)
    pager.prefetch(keys(5, 4, 3))
    pager.prefetch(keys(2))
    storage.end()
    storage.end()
    pager.poll()
    assert [3, 2] == storage.rows_under_way()


def test_more_is_read_ahead_where_the_pager_will_not_be_polled_for_long():
    clock = Clock()
    pager = make_pager(40, queue_depth=2, prefetch_share=1.0, clock=clock)
    storage = StepStorage(random_rows(64), clock)
    pager.attach(storage)
    pager.prefetch(keys(*range(30)))
    for _ in range(4):  # reads at a pace of 100 a second, with more of them under way all the time
        clock.now += 0.01
        storage.end()
        pager.poll()
    assert 2 == len(storage.under_way)
    pager.read_ahead(0.105)
    assert [4, 5, 6, 7, 8] == storage.rows_under_way()
    pager.read_ahead(100.0)
    assert 16 == len(storage.under_way)


def test_at_an_unknown_pace_no_more_is_read_ahead_than_always():
    pager, storage = pager_with(40, queue_depth=2)
    pager.prefetch(keys(*range(30)))
    pager.read_ahead(100.0)
    assert 2 == len(storage.under_way)


def test_demand_finds_room_where_reads_ahead_have_ended():
    clock = Clock()
    pager = make_pager(40, queue_depth=2, prefetch_share=1.0, clock=clock)
    storage = StepStorage(random_rows(64), clock)
    pager.attach(storage)
    pager.prefetch(keys(*range(30)))
    clock.now += 0.01
    storage.end()
    pager.poll()
    pager.read_ahead(0.1)
    storage.end_all()
    pager.lease(keys(50))
    assert 50 in storage.rows_under_way()


def test_the_outlook_counts_reads_ahead_that_are_more_than_usual():
    clock = Clock()
    pager = make_pager(40, queue_depth=2, prefetch_share=1.0, clock=clock)
    storage = StepStorage(random_rows(64), clock)
    pager.attach(storage)
    pager.prefetch(keys(*range(30)))
    for _ in range(2):
        clock.now += 0.01
        storage.end()
        pager.poll()
    usual = pager.outlook(pager.lease(keys(50))).seconds
    pager.read_ahead(100.0)
    num_more = len(storage.under_way) - 2
    assert num_more > 10
    assert pager.outlook(pager.lease(keys(51))).seconds > usual * num_more / 4


def test_demand_goes_before_prefetch():
    pager, storage = pager_with(40, queue_depth=1)
    pager.prefetch(keys(1, 2))
    pager.lease(keys(3))
    storage.end()
    pager.poll()
    assert [3] == storage.rows_under_way()


def test_prefetched_rows_take_a_share_of_the_slots_until_they_are_used():
    pager, storage = pager_with(20, prefetch_share=0.1)
    pager.prefetch(keys(1, 2, 3, 4))
    settle(pager, storage)
    assert {1, 2} == resident(pager)
    pager.release(pager.lease(keys(1)))
    pager.poll()
    settle(pager, storage)
    assert {1, 2, 3} == resident(pager)


def test_the_share_is_at_least_one_slot():
    pager, storage = pager_with(2, prefetch_share=0.1)
    pager.prefetch(keys(1))
    settle(pager, storage)
    assert {1} == resident(pager)


def test_prefetch_never_evicts_a_leased_row():
    pager, storage = pager_with(2, prefetch_share=1.0)
    hold(pager, storage, 1, 2)
    pager.prefetch(keys(3))
    settle(pager, storage)
    assert {1, 2} == resident(pager)


def test_prefetch_never_evicts_what_another_prefetch_brought():
    pager, storage = pager_with(2, prefetch_share=1.0)
    pager.prefetch(keys(1, 2))
    settle(pager, storage)
    pager.prefetch(keys(3))
    settle(pager, storage)
    assert {1, 2} == resident(pager)


def test_a_lease_takes_slots_from_prefetched_rows_where_it_must():
    pager, storage = pager_with(2, prefetch_share=1.0)
    pager.prefetch(keys(1, 2))
    settle(pager, storage)
    hold(pager, storage, 3, 4)


def test_a_lease_takes_other_slots_first():
    pager, storage = pager_with(10, prefetch_share=0.2)
    pager.prefetch(keys(1, 2))
    settle(pager, storage)
    hold(pager, storage, *range(10, 18))
    assert {1, 2} <= resident(pager)


def test_prefetch_takes_no_slot_while_a_lease_waits_for_room():
    pager, storage = pager_with(2, prefetch_share=1.0)
    holder = hold(pager, storage, 1)
    starved = pager.lease(keys(2, 3))
    pager.prefetch(keys(4))
    assert [] == storage.rows_under_way()
    pager.release(holder)
    settle(pager, storage)
    assert starved.is_ready


def test_a_lease_takes_over_what_a_prefetch_is_reading():
    pager, storage = pager_with(20)
    pager.prefetch(keys(1))
    lease = pager.lease(keys(1))
    storage.end()
    pager.poll()
    assert (True, 1) == (lease.is_ready, storage.num_submitted)


def test_a_cancelled_prefetch_reads_no_more():
    pager, storage = pager_with(40, queue_depth=1)
    prefetch = pager.prefetch(keys(1, 2, 3))
    prefetch.cancel()
    settle(pager, storage)
    assert 1 == storage.num_submitted


def test_what_a_cancelled_prefetch_brought_makes_room():
    pager, storage = pager_with(20, prefetch_share=0.1)
    prefetch = pager.prefetch(keys(1, 2))
    settle(pager, storage)
    prefetch.cancel()
    pager.prefetch(keys(3, 4))
    settle(pager, storage)
    assert {3, 4} <= resident(pager)


def test_cancelling_twice_is_cancelling_once():
    pager, storage = pager_with(20)
    prefetch, other = pager.prefetch(keys(1)), pager.prefetch(keys(1))
    settle(pager, storage)
    prefetch.cancel()
    prefetch.cancel()
    pager.check_integrity()
    assert (True, False) == (prefetch.is_cancelled, other.is_cancelled)


def test_a_prefetch_of_rows_that_are_there_does_nothing():
    pager, storage = pager_with(20)
    pager.release(hold(pager, storage, 1))
    submitted = storage.num_submitted
    assert (0, submitted) == (pager.prefetch(keys(1)).num_left, storage.num_submitted)


def test_a_prefetched_row_that_cannot_be_read_harms_nobody():
    pager, storage = pager_with(20)
    storage.bad_rows.add(1)
    pager.prefetch(keys(1, 2))
    settle(pager, storage)
    assert {2} == resident(pager)
    pager.check_integrity()


def test_a_prefetch_of_a_key_that_no_storage_has_is_an_error():
    pager, _ = pager_with(20)
    with pytest.raises(IndexError, match="64"):
        pager.prefetch(keys(64))


def test_one_long_prompt_does_not_wash_out_the_device():
    pager, storage = pager_with(20, prefetch_share=0.1)
    pager.release(hold(pager, storage, *range(20)))
    pager.prefetch(np.arange(20, 64))
    settle(pager, storage)
    assert 18 == len(resident(pager) & set(range(20)))


def test_preloading_fills_free_slots_and_evicts_nothing():
    pager, storage = pager_with(4)
    pager.release(hold(pager, storage, 1, 2))
    pager.preload(keys(10, 11, 12, 13))
    settle(pager, storage)
    assert {1, 2, 10, 11} == resident(pager)


def test_preloading_leaves_most_reads_to_others():
    pager, storage = pager_with(40, queue_depth=8)
    pager.preload(np.arange(40))
    assert [0, 1] == storage.rows_under_way()
    pager.lease(np.arange(50, 56))
    assert 8 == len(storage.under_way)


def test_preloading_goes_after_prefetch():
    pager, storage = pager_with(40, queue_depth=1)
    pager.prefetch(keys(1, 2))
    pager.preload(keys(3))
    storage.end()
    pager.poll()
    assert [2] == storage.rows_under_way()


def test_a_cancelled_preload_reads_no_more():
    pager, storage = pager_with(40, queue_depth=1)
    pager.preload(keys(1, 2, 3)).cancel()
    settle(pager, storage)
    assert 1 == storage.num_submitted


def test_seeding_loads_the_heaviest_rows():
    pager, storage = pager_with(3)
    pager.seed(np.arange(6), np.array([1, 9, 3, 0, 7, 5]))
    settle(pager, storage)
    assert {1, 4, 5} == resident(pager)
