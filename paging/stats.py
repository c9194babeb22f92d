"""What the pager did: counters while it runs, frozen snapshots for those who ask."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, get_type_hints

from paging.asks import Used
from paging.errors import ReadErrorKind

LATENCY_BOUNDS = tuple(1e-5 * 2**power for power in range(20))
"""Upper bounds of the latency histograms' buckets, in seconds: 10 us to 5.2 s; one more bucket has no bound.

A copy in host memory is at the low end, a read from a busy disk at the high one.
"""

_LEVEL = "a level"

Level = Annotated[int, _LEVEL]
"""A figure that says how things stand and may fall; every other figure of a snapshot counts what happened."""


def levels(kind: type) -> frozenset[str]:
    """Return the fields of a snapshot's type that are levels."""
    hints = get_type_hints(kind, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _LEVEL in getattr(hint, "__metadata__", ()))


@dataclass(frozen=True, kw_only=True)
class PagerStats:
    """One snapshot, consistent in itself; counters are since the start."""

    row_requests: int
    """Token positions that leases were granted for: `device_hits + host_hits + major_faults`."""
    device_hits: int
    """Positions whose row was on the device when first asked for, or which another position had asked for already."""
    host_hits: int
    """Minor faults: positions that were the first to ask for a row that was in the host tier only."""
    major_faults: int
    """Positions that were the first to ask for a row that was only in storage."""
    bytes_read: int
    """Payload bytes that came from storage."""
    bytes_copied: int
    """Payload bytes copied from the host tier to the device."""
    device_evictions: int
    """Rows that left the device tier for others."""
    host_evictions: int
    """Rows that left the host tier for others."""
    prefetched_rows: int
    """Rows that were read because a prefetch asked for them first."""
    prefetched_used_rows: int
    """How many of those a lease then found before they were evicted."""
    read_latency_counts: tuple[int, ...]
    """Reads by the time from submission to completion, one count for each of `LATENCY_BOUNDS` and one above."""
    read_latency_sum: float
    """Seconds of all those reads together."""
    copy_latency_counts: tuple[int, ...]
    """Rows copied from the host tier to the device, by the time that took, as `read_latency_counts`."""
    copy_latency_sum: float
    """Seconds of all those rows together."""
    stall_seconds: float
    """Time spent in `wait`."""
    read_errors_by_cause: Mapping[ReadErrorKind, int]
    """Rows that could not be read, after the storage had tried again; every kind is there."""
    device_slots: Level
    """Capacity of the device tier."""
    device_bytes: Level
    """Memory set aside for the device tier, what reading needs for itself included where reads land there."""
    device_rows: Level
    """Rows ready on the device."""
    device_leased_rows: Level
    """Rows that are leased, or claimed for a waiting lease."""
    host_slots: Level
    """Capacity of the host tier, staging included."""
    host_bytes: Level
    """Memory set aside for the host tier, what reading needs for itself included; 0 where there is none."""
    host_rows: Level
    """Rows ready in the host tier."""
    waiting_leases: Level
    """Leases that wait for rows or for room."""
    reads_under_way: Level
    """Rows being read."""

    @property
    def read_errors(self) -> int:
        """Rows that could not be read, for whatever reason."""
        return sum(self.read_errors_by_cause.values())

    @property
    def hit_rate(self) -> float:
        """Share of requests that needed no read from storage; 0 where there were none."""
        return 1 - self.major_faults / self.row_requests if self.row_requests else 0.0


class Counters:
    """The counters behind `PagerStats`; changed from one thread."""

    def __init__(self) -> None:
        self.device_hits = 0
        self.host_hits = 0
        self.major_faults = 0
        self.bytes_read = 0
        self.bytes_copied = 0
        self.prefetched_rows = 0
        self.prefetched_used_rows = 0
        self.read_latency_counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.read_latency_sum = 0.0
        self.copy_latency_counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.copy_latency_sum = 0.0
        self.stall_seconds = 0.0
        self.read_errors_by_cause = dict.fromkeys(ReadErrorKind, 0)

    def note_granted(self, num_positions: int, used: Used) -> None:
        """Count the positions of a lease."""
        self.device_hits += num_positions - used.minor_faults - used.major_faults
        self.host_hits += used.minor_faults
        self.major_faults += used.major_faults
        self.prefetched_used_rows += used.prefetched

    def note_read(self, seconds: float) -> None:
        """Count a read that ended after so many seconds."""
        self.read_latency_counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.read_latency_sum += seconds

    def note_copied(self, num_rows: int, seconds: float) -> None:
        """Count rows that were copied to the device together, in so many seconds."""
        self.copy_latency_counts[bisect_left(LATENCY_BOUNDS, seconds)] += num_rows
        self.copy_latency_sum += num_rows * seconds
