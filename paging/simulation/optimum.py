"""Belady's optimum: evict the row whose next use is farthest. No policy that starts empty can have more hits."""

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 16
_STALE_PER_SLOT = 4
_MIN_STALE = 4096


def next_uses(ids_N: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return for each request the position of the next one of the same key, int64 [N]; N + position for last uses."""
    order = np.argsort(ids_N, kind="stable")
    next_N = np.arange(len(ids_N), dtype=np.int64) + len(ids_N)
    same = ids_N[order[1:]] == ids_N[order[:-1]]
    next_N[order[:-1][same]] = order[1:][same]
    return next_N


def optimal_num_hits(
    ids_N: npt.NDArray[np.integer[Any]],
    next_N: npt.NDArray[np.int64],
    num_slots: int,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Return the hits of a cache that starts empty and knows the future; every requested row takes a slot.

    next_N: `next_uses(ids_N)`, all different. on_progress gets the number of requests done, now and then.
    """
    assert num_slots > 0
    resident: set[int] = set()
    # Negated next uses. Those of residents are in the future and all there; those in the past are stale and least
    # urgent, so what is popped is never one of them.
    heap: list[int] = []
    max_heap = num_slots + max(_STALE_PER_SLOT * num_slots, _MIN_STALE)
    num_hits = 0
    for start in range(0, len(ids_N), _CHUNK):
        keys, nexts = ids_N[start : start + _CHUNK].tolist(), next_N[start : start + _CHUNK].tolist()
        for position, (key, next_use) in enumerate(zip(keys, nexts, strict=True), start):
            if key in resident:
                num_hits += 1
                heapq.heappush(heap, -next_use)
                if len(heap) > max_heap:
                    heap = [use for use in heap if use < -position]
                    heapq.heapify(heap)
                continue
            if len(resident) == num_slots:
                farthest = -heapq.heapreplace(heap, -next_use)
                resident.remove(int(ids_N[farthest % len(ids_N)]))
            else:
                heapq.heappush(heap, -next_use)
            resident.add(key)
        if on_progress:
            on_progress(start + len(keys))
    return num_hits
