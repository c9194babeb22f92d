"""Which rows were asked for last. Knows keys only."""

import numpy as np

from paging.keys import KeyRange, Keys

NUM_RECENT = 65_536
"""Positions that are remembered."""


class RecentKeys:
    """A ring of the latest row requests."""

    def __init__(self, num_recent: int = NUM_RECENT) -> None:
        self._ring = np.full(num_recent, -1, dtype=np.int64)
        self._next = 0

    def note(self, keys: Keys) -> None:
        """Remember requests, in their order."""
        end = self._next + len(keys)
        if end <= len(self._ring):
            self._ring[self._next : end] = keys
            self._next = end
        else:
            latest = keys[-len(self._ring) :]
            self._ring[np.arange(end - len(latest), end) % len(self._ring)] = latest
            self._next = end % len(self._ring)

    def latest(self) -> Keys:
        """Return the keys asked for last, the latest at the end."""
        ring = np.roll(self._ring, -self._next)
        return ring[ring >= 0]

    def clear(self, keys: KeyRange) -> None:
        """Forget a key range that goes away."""
        self._ring[keys.mask(self._ring)] = -1
