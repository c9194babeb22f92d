"""How well a cache of a given size would do on a trace, without any rows: `tolbooth size`.

A request is a hit where its row is on the device when it is asked for; first uses are misses. Row requests come one
at a time, as in a single stream. Knows traces and policies; imports without torch.
"""

from paging.simulation.aged_frequency import ScalarAgedFrequency
from paging.simulation.curve import CurvePoint, hit_rate_curve
from paging.simulation.optimum import next_uses, optimal_num_hits
from paging.simulation.replay import replay
from paging.simulation.stack_distance import lru_num_hits, stack_distances

__all__ = [
    "CurvePoint",
    "ScalarAgedFrequency",
    "hit_rate_curve",
    "lru_num_hits",
    "next_uses",
    "optimal_num_hits",
    "replay",
    "stack_distances",
]
