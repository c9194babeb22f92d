"""What the pager counts is what `tolbooth size` predicts."""

import numpy as np
import pytest

from paging.policy import PolicyName, make_policy
from paging.simulation import replay
from tests.paging.pager_fakes import StepStorage, keys, make_pager, random_rows

NUM_SLOTS = 24


def trace(num_ids, vocab_size=400, seed=0):
    """Ids as uneven as words are."""
    ids = np.random.default_rng(seed).zipf(1.3, 3 * num_ids)
    return ids[ids < vocab_size][:num_ids].astype(np.int64)


@pytest.mark.parametrize("name", PolicyName)
def test_a_single_stream_has_the_hits_of_the_simulation(name):
    ids = trace(3000)
    pager = make_pager(NUM_SLOTS, policy=lambda num_slots: make_policy(name, num_slots))
    storage = StepStorage(random_rows(400))
    pager.attach(storage)
    for key in ids:
        lease = pager.lease(keys(key))
        storage.end_all()
        pager.poll()
        pager.release(lease)
    stats = pager.stats()
    assert int(replay(make_policy(name, NUM_SLOTS), ids).sum()) == stats.device_hits
    assert len(ids) == stats.row_requests
