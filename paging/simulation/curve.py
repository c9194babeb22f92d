"""Hit rates over the share of rows that fit on the device: what `tolbooth size` shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paging.simulation.aged_frequency import ScalarAgedFrequency
from paging.simulation.optimum import next_uses, optimal_num_hits
from paging.simulation.stack_distance import lru_num_hits, stack_distances

_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What a cache of one size does on a trace."""

    fraction: float
    """Share of the vocabulary's rows that fit."""
    rows: int
    """How many that is, at least 1."""
    hit_rate: float
    """Of the default policy, seeded where a seed was given."""
    lru: float
    """Of LRU, starting empty."""
    optimal: float
    """Of Belady's optimum, starting empty: no unseeded policy does better."""


def hit_rate_curve(
    ids_N: npt.NDArray[np.integer[Any]],
    *,
    vocab_size: int,
    fractions: Sequence[float],
    seed_counts_V: npt.NDArray[np.int64] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[CurvePoint]:
    """Simulate caches of these fractions of `vocab_size` rows on a trace.

    ids_N: at least one, all in the vocabulary. seed_counts_V: a frequency list, int64 [V]. on_progress gets requests
    simulated so far and in all. Takes some 140 bytes per id.
    """
    # LRU, once for all sizes, counts as one pass; each size takes two more.
    total = (1 + 2 * len(fractions)) * len(ids_N)
    done = 0

    def advance(position: int) -> None:
        if on_progress:
            on_progress(done + position, total)

    distances, next_N = stack_distances(ids_N), next_uses(ids_N)
    advance(len(ids_N))
    done += len(ids_N)
    points = []
    for fraction in fractions:
        rows = num_rows(fraction, vocab_size)
        hits = _default_num_hits(ids_N, rows, seed_counts_V, advance)
        done += len(ids_N)
        optimal_hits = optimal_num_hits(ids_N, next_N, rows, on_progress=advance)
        done += len(ids_N)
        points.append(
            CurvePoint(
                fraction=fraction,
                rows=rows,
                hit_rate=hits / len(ids_N),
                lru=lru_num_hits(distances, rows) / len(ids_N),
                optimal=optimal_hits / len(ids_N),
            )
        )
    return points


def num_rows(fraction: float, vocab_size: int) -> int:
    """Return how many rows a fraction in (0, 1] of the vocabulary is: rounded down, at least 1."""
    assert 0 < fraction <= 1
    # 0.29 * 100 is 28.999999999999996, and means 29.
    return max(1, int(round(fraction * vocab_size, 6)))


def _default_num_hits(
    ids_N: npt.NDArray[np.integer[Any]],
    rows: int,
    seed_counts_V: npt.NDArray[np.int64] | None,
    advance: Callable[[int], None],
) -> int:
    cache = ScalarAgedFrequency(rows, seed_counts_V=seed_counts_V)
    num_hits = 0
    for start in range(0, len(ids_N), _CHUNK):
        keys = ids_N[start : start + _CHUNK].tolist()
        num_hits += sum(map(cache.request, keys))
        advance(start + len(keys))
    return num_hits
