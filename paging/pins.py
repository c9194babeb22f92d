"""Rows that are held until further notice, and how many slots they leave to leases. Knows keys and numbers only."""

import numpy as np

from paging.errors import LeaseTooLargeError
from paging.keys import Keys
from paging.lease import Lease

_NONE: Keys = np.zeros(0, dtype=np.int64)


class Pins:
    """The pins there are; a pin is a lease that lasts."""

    def __init__(self, num_slots: int, *, min_leasable: int) -> None:
        self.keys = _NONE
        """Every pinned row once."""
        self._num_slots = num_slots
        self._min_leasable = min_leasable
        self._pins: dict[Lease, Keys] = {}

    def __contains__(self, lease: Lease) -> bool:
        return lease in self._pins

    @property
    def leasable_slots(self) -> int:
        """Slots that are not for pinned rows."""
        return self._num_slots - len(self.keys)

    def add(self, pin: Lease, keys: Keys) -> None:
        """Count a pin of these rows, none twice."""
        self._pins[pin] = keys
        self.keys = np.union1d(self.keys, keys)

    def remove(self, lease: Lease) -> None:
        """Count a lease no longer, if it is a pin."""
        if self._pins.pop(lease, None) is not None:
            self.keys = np.unique(np.concatenate([_NONE, *self._pins.values()]))

    def check_lease(self, keys: Keys) -> None:
        """Raise `LeaseTooLargeError` where these rows, none twice, can never be leased together."""
        if self._with(keys) > self._num_slots:
            raise LeaseTooLargeError(
                f"{len(keys)} rows at once, and {self.leasable_slots} of {self._num_slots} slots can be leased; "
                "ask for fewer or raise the device budget",
                fits=self.leasable_slots,
            )

    def check_pin(self, keys: Keys, waiting: list[Keys]) -> None:
        """Raise `LeaseTooLargeError` where a pin of these rows would leave too few slots to leases, waiting or not."""
        pinned = np.union1d(self.keys, keys)
        if self._left(pinned, waiting) < 0:
            fits = max(0, self._left(self.keys, waiting))
            raise LeaseTooLargeError(
                f"with {len(pinned)} of {self._num_slots} slots pinned, leases would not have enough; pin at most "
                f"{fits} more rows or raise the device budget",
                fits=fits,
            )

    def _left(self, pinned: Keys, waiting: list[Keys]) -> int:
        """Return the slots that nobody would ever need beside so many pins; below 0 where that is too many."""
        needed = [len(pinned) + self._min_leasable, *(len(np.union1d(pinned, keys)) for keys in waiting)]
        return self._num_slots - max(needed)

    def _with(self, keys: Keys) -> int:
        return len(np.union1d(self.keys, keys)) if len(self.keys) else len(keys)
