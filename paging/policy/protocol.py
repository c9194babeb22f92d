"""What the pager asks of an eviction policy. Knows slots and row keys; knows nothing of bytes, tiers or threads."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from paging.keys import KeyRange

Integers = npt.NDArray[np.integer[Any]]
Slots = npt.NDArray[np.int64]
Held = npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]


class Policy(Protocol):
    """Which rows to give up when slots are needed.

    A policy remembers which slots hold rows. It starts with all slots free; `insert` fills them, `evict` and `remove`
    empty them. Its clock is the row requests themselves, so the same calls give the same victims on any machine.
    Made for one thread. Slots and keys are one-dimensional integer arrays; a violated precondition is a fault of the
    caller and asserts or corrupts, as said below.
    """

    @property
    def num_slots(self) -> int:
        """Slots that the policy looks after: 0 to `num_slots` - 1."""
        ...

    def seed(self, keys: Integers, counts: npt.NDArray[Any]) -> None:
        """Take over a frequency list: `counts` (>= 0, of any scale) says how often each of `keys` (distinct) was used.

        Moves no rows. Call it before the rows of the list are inserted; policies that keep no frequencies ignore it,
        and what a seed does for them is the rows that the caller inserts.
        """
        ...

    def forget(self, keys: KeyRange) -> None:
        """Remember nothing of these keys, none of which has a row now: they may come to mean other rows."""
        ...

    def insert(self, slots: Integers, keys: Integers) -> None:
        """Note that the rows `keys` now fill `slots`, which were free; both distinct. Asserts that they were.

        Insertion is no request, it only fetches what `touch` will ask for. Of several rows the last counts as newest:
        insert a hot set coldest first. Row keys are dense: the history takes 8 bytes for every key up to the greatest.
        """
        ...

    def touch(self, slots: Integers) -> None:
        """Note one row request for each of `slots`, which hold rows; a slot may be there several times."""
        ...

    def evict(self, count: int, held: Held) -> Slots:
        """Choose `count` rows to give up, empty their slots and return these, int64, in order of eviction.

        held: [num_slots], not zero where a slot must stay (leased, pinned, being filled); what it says of free slots
        does not matter. Returns fewer slots where fewer may go.
        """
        ...

    def remove(self, slots: Integers) -> None:
        """Note that `slots`, which held rows, are now free for another reason. Asserts that they held rows."""
        ...

    def resident(self) -> Slots:
        """Return the slots that hold rows, int64, ascending."""
        ...

    def heat(self, slots: Integers) -> npt.NDArray[np.float64]:
        """Return a number >= 0 for each of `slots`, which hold rows: how much the policy wants to keep the row.

        Comparable within one policy. With the keys, it is a frequency list for `seed`.
        """
        ...
