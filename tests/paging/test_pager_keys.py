import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging.keys import KeyRange, KeySpace


def test_a_key_is_found_in_its_storage():
    space = KeySpace()
    space.attach("base", 10)
    space.attach("pack", 5)
    found = [space.locate(key) for key in (0, 9, 10, 14)]
    assert [("base", KeyRange(0, 10))] * 2 + [("pack", KeyRange(10, 15))] * 2 == found


def test_a_storage_without_rows_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        KeySpace().attach("empty", 0)


@given(steps=st.lists(st.integers(-4, 6).filter(bool), max_size=30))
def test_ranges_never_overlap_and_are_as_low_as_can_be(steps):
    space, attached = KeySpace(), {}
    for number, step in enumerate(steps):
        if step > 0:
            new = space.attach(number, step)
            used = {key for keys in attached.values() for key in range(keys.start, keys.stop)}
            assert used.isdisjoint(range(new.start, new.stop))
            for start in range(new.start):
                assert not used.isdisjoint(range(start, start + step))
            attached[number] = new
        elif attached:
            old = attached.pop(sorted(attached)[-step % len(attached)])
            space.close(old)
            space.free(old)
        assert sorted(attached.values(), key=lambda keys: keys.start) == list(space.ranges)
        for owner, keys in attached.items():
            assert [(owner, keys)] * len(keys) == [space.locate(key) for key in range(keys.start, keys.stop)]
        everything = np.arange(space.num_keys)
        is_open = np.zeros(space.num_keys, dtype=bool)
        for keys in attached.values():
            is_open |= keys.mask(everything)
        assert np.array_equal(is_open, space.is_open)


def test_only_keys_that_are_open_pass_the_check():
    space = KeySpace()
    keys = space.attach("base", 3)
    space.check(np.array([0, 2, 1]))
    space.close(keys)
    with pytest.raises(IndexError, match="row key 2"):
        space.check(np.array([2]))


def test_before_anything_is_attached_no_key_passes_the_check():
    with pytest.raises(IndexError, match="row key 0"):
        KeySpace().check(np.array([0]))


def test_a_range_knows_its_keys():
    keys = KeyRange(3, 6)
    assert (3, True, False) == (len(keys), 5 in keys, 6 in keys)
