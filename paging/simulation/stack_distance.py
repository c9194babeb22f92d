"""LRU's hit rate for every number of slots at once, from stack distances (Mattson et al., 1970).

The stack distance of a request is the number of different keys that were requested since the last request of its
own key. An LRU cache of C slots has a hit exactly where the distance is below C.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

NEVER_BEFORE = -1


def previous_uses(ids_N: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return for each request the position of the previous one of the same key, int64 [N]; -1 for first uses."""
    order = np.argsort(ids_N, kind="stable")
    previous_N = np.full(len(ids_N), NEVER_BEFORE, dtype=np.int64)
    same = ids_N[order[1:]] == ids_N[order[:-1]]
    previous_N[order[1:][same]] = order[:-1][same]
    return previous_N


def stack_distances(ids_N: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return the stack distances of all requests that are no first uses, in order, int64; O(N log N).

    Between a request i and the previous use p_i of its key lie i - p_i - 1 requests. Those whose own previous use
    is later than p_i repeat a key from in between; without them each key is counted once. They are the earlier
    requests j < i with p_j > p_i, for p_j > p_i implies j > p_i.
    """
    previous_N = previous_uses(ids_N)
    repeats = np.flatnonzero(previous_N != NEVER_BEFORE)
    previous = previous_N[repeats]
    # No position is the previous one of two requests: ranks of positions are a permutation.
    ranks = np.zeros(len(ids_N), dtype=np.int64)
    ranks[previous] = 1
    ranks = np.cumsum(ranks) - 1
    return repeats - previous - 1 - num_greater_before(ranks[previous])


def num_greater_before(permutation: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each element of a permutation of 0 to n - 1 how many greater ones come before it, int64 [n].

    From the highest bit to the lowest: elements that agree in all higher bits form a block, in the order of the
    input. An element with a 0 there is less than those of its block with a 1. Then each block splits in two.
    """
    n = len(permutation)
    values = permutation.copy()  # in the order of blocks
    counts = np.zeros(n, dtype=np.int64)  # by value
    ones_before = np.zeros(n + 1, dtype=np.int64)
    places = np.arange(n)
    for bit in reversed(range(max(1, n - 1).bit_length())):
        is_one = (values >> bit) & 1
        np.cumsum(is_one, out=ones_before[1:])
        # A permutation fills blocks densely: the one of values [s, s + 2^(bit + 1)) starts at place s.
        starts = (values >> (bit + 1)) << (bit + 1)
        ones = ones_before[:n] - ones_before[starts]
        counts[values] += np.where(is_one, 0, ones)
        new_places = np.where(is_one, starts + (1 << bit) + ones, places - ones)
        moved = np.empty_like(values)
        moved[new_places] = values
        values = moved
    return counts[permutation]


def lru_num_hits(distances: npt.NDArray[np.int64], num_slots: int) -> int:
    """Return the hits of an LRU cache that starts empty, given the trace's stack distances."""
    return int(np.count_nonzero(distances < num_slots))
