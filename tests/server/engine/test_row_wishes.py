"""Rows that somebody wishes to have on the device: warmed once, or pinned until further notice."""

import pytest

from server.engine.errors import QueueFullError, RequestError
from server.engine.row_wishes import RowWishes
from tests.paging.pager_fakes import StepStorage, keys, make_pager, random_rows


class Wishing:
    """Wishes on a small pager, whose reads end when they are told to."""

    def __init__(self, num_slots, *, min_leasable=2, num_rows=200):
        self.pager = make_pager(num_slots, min_leasable=min_leasable)
        self.storage = StepStorage(random_rows(num_rows))
        self.pager.attach(self.storage)
        self.wishes = RowWishes(self.pager)

    def bring(self):
        """Let everything arrive that was wished for."""
        while self.wishes.is_bringing:
            self.storage.end_all()
            self.pager.poll()
            self.wishes.advance()
        self.pager.check_integrity()

    def resident(self, *values):
        return self.pager.resident(keys(*values)).tolist()


@pytest.fixture
def wishing():
    return Wishing(16)


def test_warmed_rows_are_on_the_device_and_not_held(wishing):
    assert (3, 0) == wishing.wishes.warm(keys(5, 9, 7, 5))
    wishing.bring()
    assert ([True] * 3, 0) == (wishing.resident(5, 7, 9), wishing.pager.stats().device_leased_rows)


def test_rows_that_are_there_already_are_told(wishing):
    wishing.wishes.warm(keys(5))
    wishing.bring()
    assert (2, 1) == wishing.wishes.warm(keys(5, 6))


def test_more_rows_than_are_warmed_at_once_come_one_after_another(wishing):
    wishing.wishes.warm(keys(*range(16)))
    assert (4, 16) == (len(wishing.storage.under_way), wishing.wishes.num_to_warm)
    wishing.bring()
    assert ([True] * 16, 0) == (wishing.resident(*range(16)), wishing.wishes.num_to_warm)


def test_warmed_rows_take_the_place_of_others(wishing):
    wishing.wishes.warm(keys(*range(16)))
    wishing.bring()
    wishing.wishes.warm(keys(*range(50, 60)))
    wishing.bring()
    assert [True] * 10 == wishing.resident(*range(50, 60))


def test_more_rows_than_there_is_room_for_are_refused_with_the_number(wishing):
    wishing.wishes.pin(keys(1, 2, 3))
    with pytest.raises(RequestError, match="14 different rows are to be warmed, and the device has room for 13"):
        wishing.wishes.warm(keys(*range(14)))


def test_rows_wait_while_as_many_are_being_warmed(wishing):
    wishing.wishes.warm(keys(*range(10)))
    with pytest.raises(QueueFullError, match="10 rows are being warmed already"):
        wishing.wishes.warm(keys(*range(20, 30)))
    wishing.bring()
    assert (10, 0) == wishing.wishes.warm(keys(*range(20, 30)))


def test_pinned_rows_stay_while_others_come_and_go(wishing):
    wishing.wishes.pin(keys(3, 1))
    wishing.bring()
    for first in range(20, 180, 10):
        wishing.wishes.warm(keys(*range(first, first + 10)))
        wishing.bring()
    assert ([True, True], [1, 3]) == (wishing.resident(1, 3), wishing.wishes.pinned.tolist())


def test_pins_leave_what_requests_need_and_the_rest_is_told(wishing):
    wishing.wishes.pin(keys(*range(10)))
    with pytest.raises(RequestError, match=r"5 more rows cannot be pinned: .* pin at most 4 more rows") as caught:
        wishing.wishes.pin(keys(*range(100, 105)))
    assert ("token_ids", 10) == (caught.value.param, len(wishing.wishes.pinned))


def test_a_row_is_pinned_once_however_often_it_is_asked_for(wishing):
    for _ in range(3):
        wishing.wishes.pin(keys(1, 2, 2))
    assert [1, 2] == wishing.wishes.pinned.tolist()


def test_pins_on_their_way_are_counted(wishing):
    wishing.wishes.pin(keys(1, 2, 3))
    assert (3, True) == (wishing.wishes.num_waiting, wishing.wishes.is_bringing)
    wishing.bring()
    assert (0, False) == (wishing.wishes.num_waiting, wishing.wishes.is_bringing)


@pytest.mark.parametrize("arrived", [False, True])
def test_some_pins_end_and_the_others_stay(wishing, arrived):
    wishing.wishes.pin(keys(1, 2, 3))
    wishing.wishes.pin(keys(4, 5))
    if arrived:
        wishing.bring()
    wishing.wishes.unpin(keys(2, 4, 5, 99))
    wishing.bring()
    assert ([1, 3], 2) == (wishing.wishes.pinned.tolist(), wishing.pager.stats().device_leased_rows)


def test_all_pins_end(wishing):
    wishing.wishes.pin(keys(1, 2, 3))
    wishing.wishes.pin(keys(4))
    wishing.bring()
    wishing.wishes.unpin(None)
    assert ([], 16) == (wishing.wishes.pinned.tolist(), wishing.pager.leasable_slots)


def test_a_pin_whose_row_cannot_be_read_is_given_up_and_the_others_stay(wishing):
    wishing.storage.bad_rows.add(2)
    wishing.wishes.pin(keys(1, 2, 3))
    wishing.wishes.pin(keys(4))
    wishing.bring()
    assert [4] == wishing.wishes.pinned.tolist()
    assert "3 rows were given up: row 2 is bad" == wishing.wishes.failure


def test_a_row_that_cannot_be_read_does_not_end_the_warming_of_others(wishing):
    wishing.storage.bad_rows.add(2)
    wishing.wishes.warm(keys(*range(16)))
    wishing.bring()
    assert [True] * 12 == wishing.resident(*range(4, 16))
    assert "4 rows were given up: row 2 is bad" == wishing.wishes.failure


def test_one_slot_for_requests_is_enough_to_warm():
    wishing = Wishing(2, min_leasable=1)
    wishing.wishes.pin(keys(1))
    wishing.wishes.warm(keys(2))
    wishing.bring()
    assert [True, True] == wishing.resident(1, 2)
