"""The next rows to go, found by one look at all slots and used up before the next look.

Knows scores and which slots may go; knows nothing of where scores come from. Shared by the policies that order rows
by a score which rises when a row is requested.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_LOOK_SHARE = 64


def look_count(num_slots: int) -> int:
    """Return how many candidates one look at all slots finds: a 64th, so that a victim costs 64 slots' scores."""
    return max(1, num_slots // _LOOK_SHARE)


def lowest(scores: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the positions of the `count` lowest scores (all where there are fewer), lowest first, ties by position."""
    if count >= len(scores):
        return np.argsort(scores, kind="stable")
    bound = np.partition(scores, count - 1)[count - 1]
    positions = np.flatnonzero(scores <= bound)
    return positions[np.argsort(scores[positions], kind="stable")[:count]]
