"""The hit rate against the size of the device tier, for the ids that the engine saw lately.

The engine hands out the ids and no more; the simulation runs in a thread of this process, beside the event loop.
"""

import asyncio

import numpy as np

from paging.simulation import hit_rate_curve
from server.engine.questions import ListRecentRows
from server.http.memory_messages import HitRateCurve, SizedHitRate
from server.process.client import EngineClient

_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_MOST_IDS = 32_768
"""Half a second of computing; streams share the interpreter with it."""


async def curve_of_recent_ids(
    engine: EngineClient,
    *,
    vocab_size: int,
    present_rows: int,
    timeout: float,  # noqa: ASYNC109 the engine's own
) -> HitRateCurve:
    """Ask the engine for the latest ids and simulate tiers of some sizes, the present one among them."""
    recent = await engine.ask(ListRecentRows(most=_MOST_IDS), timeout)
    return await asyncio.to_thread(_curve, recent.keys, vocab_size, present_rows)


def _curve(keys: bytes, vocab_size: int, present_rows: int) -> HitRateCurve:
    ids_N = np.frombuffer(keys, dtype=np.int64)
    ids_N = ids_N[ids_N < vocab_size]
    if not len(ids_N):
        return HitRateCurve(ids=0, distinct_ids=0, points=[])
    present = min(1.0, present_rows / vocab_size)
    fractions = sorted({*_FRACTIONS, present} - {0.0})
    points = hit_rate_curve(ids_N, vocab_size=vocab_size, fractions=fractions)
    return HitRateCurve(
        ids=len(ids_N),
        distinct_ids=len(np.unique(ids_N)),
        points=[
            SizedHitRate(
                fraction=point.fraction,
                rows=point.rows,
                hit_rate=point.hit_rate,
                lru=point.lru,
                optimal=point.optimal,
                is_present=point.fraction == present,
            )
            for point in points
        ],
    )
