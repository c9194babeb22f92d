"""The slots of one tier: which row is where, what may be evicted, what is free.

Knows keys, slots and holds; knows nothing of bytes, of reading or of leases. Every array is changed from one thread.

| slot     | `key_of_slot` | `slot_of_key` | in `evictable` | in `kept`                 | leaves by               |
|----------|---------------|---------------|----------------|---------------------------|-------------------------|
| free     | -1            |               |                |                           | `take`                  |
| landing  | key           | -1            |                |                           | `publish`, `abandon`    |
| held     | key           | slot          |                |                           | `unhold`                |
| kept     | key           | slot          |                | yes: asked for, unused    | `hold`, `settle`, `take`  |
| ready    | key           | slot          | yes            |                           | `hold`, `take`, `drop`  |
"""

import numpy as np
import numpy.typing as npt

from paging.keys import KeyRange, Keys
from paging.policy.protocol import Policy

Slots = npt.NDArray[np.intp]
"""Slot numbers, [n]."""
Mask = npt.NDArray[np.bool_]
"""One truth value for each slot or key."""

ONE = np.int32(1)
"""What `holds` is raised by. A plain 1 would take `np.add.at` off its fast path: 40 us in place of 1 for 64 slots."""


class SlotMap:
    """The rows in a tier's slots, and who holds them."""

    def __init__(self, policy: Policy) -> None:
        num_slots = policy.num_slots
        self.num_slots = num_slots
        self.policy = policy
        self.slot_of_key = np.zeros(0, dtype=np.int32)
        """The slot of a row that is ready, else -1; int32 [num_keys]."""
        self.key_of_slot = np.full(num_slots, -1, dtype=np.int64)
        """The row that is ready in a slot or landing in it, -1 where it is free; int64 [num_slots]."""
        self.holds = np.zeros(num_slots, dtype=np.int32)
        """Leased positions of a row, plus one for each lease that waits with room for it; int32 [num_slots]."""
        self.evictable = np.zeros(num_slots, dtype=np.bool_)
        """Rows that anything else may replace."""
        self.kept = np.zeros(num_slots, dtype=np.bool_)
        """Rows that somebody asked for and has not used yet: given up only where nothing is evictable."""
        self.fresh = np.zeros(num_slots, dtype=np.bool_)
        """Rows that no lease has used since they landed."""
        self.num_evictions = 0
        self._free = np.arange(num_slots, dtype=np.intp)[::-1].copy()  # the first `num_free` are free
        self.num_free = num_slots

    @property
    def num_kept(self) -> int:
        """Rows that are kept for somebody."""
        return int(np.count_nonzero(self.kept))

    @property
    def num_replaceable(self) -> int:
        """Slots that are free or evictable."""
        return self.num_free + int(np.count_nonzero(self.evictable))

    @property
    def num_available(self) -> int:
        """Slots that `take` could hand out: kept ones too."""
        return self.num_replaceable + self.num_kept

    @property
    def num_ready(self) -> int:
        """Rows that are ready in the tier."""
        return int(np.count_nonzero(self.slot_of_key >= 0))

    def grow(self, num_keys: int) -> None:
        """Make room for keys below `num_keys`."""
        more = num_keys - len(self.slot_of_key)
        if more > 0:
            self.slot_of_key = np.concatenate([self.slot_of_key, np.full(more, -1, dtype=np.int32)])

    def free_slots(self) -> Slots:
        """Return the slots that are free."""
        return self._free[: self.num_free]

    def take(self, keys: Keys) -> tuple[Slots, Keys]:
        """Claim a slot for each of `keys` to land in, none of them in the tier; return slots and evicted keys.

        Free slots go first, then what the policy gives up, then rows that were kept for somebody. The caller has seen
        to it that so many are available.
        """
        count = len(keys)
        num_free = min(count, self.num_free)
        self.num_free -= num_free
        parts = [self._free[self.num_free : self.num_free + num_free]]
        for mask in (self.evictable, self.kept):
            if missing := count - sum(map(len, parts)):
                victims = self.policy.evict(missing, ~mask).astype(np.intp, copy=False)
                mask[victims] = False
                parts.append(victims)
        slots = np.concatenate(parts)
        assert len(slots) == count, f"{count} slots wanted, {len(slots)} available"
        victims = slots[num_free:]
        evicted = self.key_of_slot[victims]
        self.slot_of_key[evicted] = -1
        self.fresh[victims] = False
        self.num_evictions += len(victims)
        self.key_of_slot[slots] = keys
        return slots, evicted

    def publish(self, slots: Slots, keys: Keys, holds: npt.NDArray[np.int32], kept: Mask) -> None:
        """Make rows that have landed ready, each with so many holds; those without are kept or evictable."""
        self.slot_of_key[keys] = slots
        self.holds[slots] = holds
        self.fresh[slots] = True
        self.settle(slots, kept)
        self.policy.insert(slots, keys)

    def abandon(self, slots: Slots) -> None:
        """Free slots in which nothing came to land."""
        self.key_of_slot[slots] = -1
        self._push(slots)

    def drop(self, slots: Slots) -> None:
        """Free slots whose rows are ready and not held."""
        self.evictable[slots] = False
        self.kept[slots] = False
        self.policy.remove(slots)
        self.slot_of_key[self.key_of_slot[slots]] = -1
        self.fresh[slots] = False
        self.key_of_slot[slots] = -1
        self._push(slots)

    def hold(self, slots: Slots) -> None:
        """Add a hold to each of these rows (no slot twice)."""
        self.holds[slots] += ONE
        self.evictable[slots] = False
        self.kept[slots] = False

    def unhold(self, slots: Slots) -> None:
        """Take a hold from each of these rows (no slot twice); those without any more are evictable."""
        self.holds[slots] -= ONE
        self.evictable[slots] = self.holds[slots] == 0

    def settle(self, slots: Slots, kept: Mask) -> None:
        """Say anew which of these rows, all ready, are kept for somebody; those that are held are neither."""
        idle = self.holds[slots] == 0
        self.evictable[slots] = idle & ~kept
        self.kept[slots] = idle & kept

    def ready_of(self, keys: list[int]) -> set[int]:
        """Return those of `keys` that are ready."""
        rows = np.array(keys, dtype=np.int64)
        return set(rows[self.slot_of_key[rows] >= 0].tolist())

    def ready_in(self, keys: KeyRange) -> Slots:
        """Return the slots of the rows of a key range that are ready."""
        slots = self.slot_of_key[keys.start : keys.stop]
        return slots[slots >= 0].astype(np.intp)

    def _push(self, slots: Slots) -> None:
        self._free[self.num_free : self.num_free + len(slots)] = slots
        self.num_free += len(slots)
