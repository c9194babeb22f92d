"""Statistics of one engine after another, as if they were one that never died."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from paging.stats import PagerStats, levels
from server.engine.messages import EngineStats

_LEVELS = levels(EngineStats) | levels(PagerStats)
"""What says how things stand; everything else counts what happened."""


class StatsTotals:
    """The latest snapshot, with the counters of dead engines in it."""

    def __init__(self) -> None:
        self._before: EngineStats | None = None
        self._live: EngineStats | None = None

    @property
    def latest(self) -> EngineStats | None:
        """Counters since the first engine's start; levels of the live engine, 0 without one. None before the first."""
        if self._before is None or self._live is None:
            return self._live or self._before
        before, live = msgspec.structs.asdict(self._before), msgspec.structs.asdict(self._live)
        return EngineStats(**_sums(before, live))

    def update(self, stats: EngineStats) -> None:
        """Take the live engine's snapshot."""
        self._live = stats

    def end_engine(self) -> None:
        """Keep what the live engine counted; it is gone."""
        if (latest := self.latest) is not None:
            self._before = EngineStats(**_without_levels(msgspec.structs.asdict(latest)))
        self._live = None


def _sums(before: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Return counters added up and levels as they are in `live`, name by name."""
    sums = dict(before)
    for name, value in live.items():
        if name in _LEVELS or name not in before:
            sums[name] = value
        elif isinstance(value, Mapping):
            sums[name] = _sums(before[name], value)
        elif isinstance(value, Sequence):
            sums[name] = [sum(counts) for counts in zip_longest(before[name], value, fillvalue=0)]
        else:
            sums[name] = before[name] + value
    return sums


def _without_levels(stats: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: 0 if name in _LEVELS else _without_levels(value) if isinstance(value, Mapping) else value
        for name, value in stats.items()
    }
