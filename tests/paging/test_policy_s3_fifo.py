from collections import OrderedDict, deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paging.policy import S3FIFO
from paging.simulation import replay


def _textbook(keys, num_slots):  # noqa: C901 one screen, as published
    """S3-FIFO as published, on plain queues; return which requests hit."""
    num_small = max(1, num_slots // 10)
    num_main = num_slots - num_small
    small, main, ghosts, requests = deque(), deque(), OrderedDict(), {}

    def evict_main():
        while True:
            key = main.popleft()
            if not requests[key]:
                del requests[key]
                return
            requests[key] -= 1
            main.append(key)

    def evict_small():
        while small:
            key = small.popleft()
            if requests[key] <= 1:
                del requests[key]
                ghosts[key] = None
                if len(ghosts) > num_main:
                    ghosts.popitem(last=False)
                return
            requests[key] = 0
            main.append(key)
        evict_main()

    hits = []
    for key in keys:
        hits.append(key in requests)
        if key in requests:
            requests[key] = min(3, requests[key] + 1)
            continue
        if len(small) + len(main) == num_slots:
            if len(small) >= num_small:
                evict_small()
            else:
                evict_main()
        if key in ghosts:
            del ghosts[key]
            main.append(key)
        else:
            small.append(key)
        requests[key] = 0
    return hits


@given(keys=st.lists(st.integers(0, 60), max_size=400), num_slots=st.integers(1, 40))
def test_hits_are_those_of_the_published_algorithm(keys, num_slots):
    hits = replay(S3FIFO(num_slots), np.array(keys, dtype=np.int64))
    assert _textbook(keys, num_slots) == hits.tolist()


def test_a_scan_leaves_the_main_queue_alone():
    hot = np.tile(np.arange(50), 10)
    hits = replay(S3FIFO(100), np.concatenate([hot, np.arange(1000, 3000), np.arange(50)]))
    assert hits[-50:].all()


def test_a_row_in_the_main_queue_is_hotter_than_one_in_the_small_queue():
    policy = S3FIFO(20)
    nothing_held = np.zeros(20, dtype=np.bool_)
    policy.insert(np.arange(20), np.arange(20))
    policy.touch(np.repeat(np.arange(10), 3))
    policy.evict(1, nothing_held)
    heat = policy.heat(policy.resident())
    assert heat[:10].min() > heat[10:].max()
