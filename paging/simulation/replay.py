"""A trace through any policy, one request at a time: slow, and what fast simulations are tested against."""

from typing import Any

import numpy as np
import numpy.typing as npt

from paging.frequencies import hottest_keys
from paging.policy import Policy


def replay(
    policy: Policy, ids_N: npt.NDArray[np.integer[Any]], *, seed_counts_V: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.bool_]:
    """Return which requests were hits, [N].

    policy: with all slots free. seed_counts_V: a frequency list, int64 [V]; its hottest rows fill the slots first.
    """
    slot_of: dict[int, int] = {}
    key_of: dict[int, int] = {}
    nothing_held = np.zeros(policy.num_slots, dtype=np.bool_)
    if seed_counts_V is not None:
        keys = np.flatnonzero(seed_counts_V)
        policy.seed(keys, seed_counts_V[keys])
        hottest = hottest_keys(seed_counts_V, policy.num_slots)[::-1]
        policy.insert(np.arange(len(hottest)), hottest)
        slot_of = {key: slot for slot, key in enumerate(hottest.tolist())}
        key_of = {slot: key for key, slot in slot_of.items()}
    hits_N = np.zeros(len(ids_N), dtype=np.bool_)
    for position, key in enumerate(ids_N.tolist()):
        if key in slot_of:
            hits_N[position] = True
        else:
            if len(slot_of) < policy.num_slots:
                slot = len(slot_of)
            else:
                slot = int(policy.evict(1, nothing_held)[0])
                del slot_of[key_of[slot]]
            slot_of[key], key_of[slot] = slot, key
            policy.insert(np.array([slot]), np.array([key]))
        policy.touch(np.array([slot_of[key]]))
    return hits_N
