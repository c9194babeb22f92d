import numpy as np

from paging.policy import LRU


def _nothing_held(policy):
    return np.zeros(policy.num_slots, dtype=np.bool_)


def test_rows_leave_in_order_of_their_last_request():
    policy = LRU(4)
    policy.insert(np.arange(4), np.arange(4))
    policy.touch(np.array([2, 0, 3, 1, 0]))
    assert [2, 3, 1, 0] == policy.evict(4, _nothing_held(policy)).tolist()


def test_insertion_counts_as_recent_in_the_order_given():
    policy = LRU(4)
    policy.insert(np.array([3, 1]), np.array([0, 1]))
    policy.insert(np.array([2, 0]), np.array([2, 3]))
    assert [3, 1, 2, 0] == policy.evict(4, _nothing_held(policy)).tolist()


def test_a_held_row_is_passed_over_and_keeps_its_place():
    policy = LRU(3)
    policy.insert(np.arange(3), np.arange(3))
    held = np.array([2, 0, 0])
    assert [1] == policy.evict(1, held).tolist()
    assert [0, 2] == policy.evict(2, _nothing_held(policy)).tolist()
