"""The engine's latest snapshots, for rates over the last seconds. Knows times and snapshots, and not what they say."""

from collections import deque
from typing import NamedTuple

from server.engine.messages import EngineStats

WINDOW = 5.0
"""Seconds that rates are of."""
_INTERVAL = 0.25
"""Seconds between two snapshots that are kept, at least: anybody may ask for more of them."""


class Before(NamedTuple):
    """How things stood a while ago."""

    seconds: float
    """How long that is ago: `WINDOW`, less after a start."""
    stats: EngineStats


class RecentStats:
    """Snapshots of the last `WINDOW` seconds, and the one that was the latest then."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, EngineStats]] = deque()

    def note(self, stats: EngineStats, now: float) -> None:
        """Keep a snapshot of this moment; none comes while nothing happens, so the latest is always kept."""
        if len(self._kept) > 1 and self._kept[-1][0] - self._kept[-2][0] < _INTERVAL:
            self._kept.pop()
        self._kept.append((now, stats))
        self._forget(now - WINDOW)

    def before(self, now: float) -> Before | None:
        """Return the snapshot that was the latest `WINDOW` seconds ago, else the oldest; None before the first."""
        if not self._kept:
            return None
        self._forget(now - WINDOW)
        at, stats = self._kept[0]
        return Before(min(WINDOW, now - at), stats)

    def _forget(self, begin: float) -> None:
        """Drop what was not the latest any more at `begin`."""
        while len(self._kept) > 1 and self._kept[1][0] <= begin:
            self._kept.popleft()
