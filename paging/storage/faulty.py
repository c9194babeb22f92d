"""A storage that fails on purpose, for tests: delays, I/O errors, short reads and bad rows in front of a real one.

What it injects is what is left after a storage's own retry: the owner of the reads sees it. Not for serving.
"""

import heapq
import itertools
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from paging.errors import ReadErrorKind, RowReadError
from paging.rowfiles import missing
from paging.storage.files import CLOSE_SECONDS
from paging.storage.protocol import Completions, Read, Source, Storage


class Fault(StrEnum):
    """What is wrong with a row that is read."""

    IO_ERROR = "io-error"
    SHORT_READ = "short-read"
    CORRUPTION = "corruption"

    @property
    def cause(self) -> str:
        """The cause that a storage's own error would name."""
        if self is Fault.IO_ERROR:
            return "it cannot be read (Input/output error)"
        return missing(1) if self is Fault.SHORT_READ else "its checksum does not match its bytes"

    @property
    def kind(self) -> ReadErrorKind:
        """The kind of a storage's own error."""
        return _KINDS[self]


_KINDS = {
    Fault.IO_ERROR: ReadErrorKind.IO,
    Fault.SHORT_READ: ReadErrorKind.SHORT,
    Fault.CORRUPTION: ReadErrorKind.CHECKSUM,
}


@dataclass(frozen=True, kw_only=True)
class RowFault:
    """What always happens to one row."""

    fault: Fault | None = None
    """None where the row comes in well."""
    latency: float = 0.0
    """Seconds from submission that the read takes at least."""


@dataclass(frozen=True, kw_only=True)
class FaultPlan:
    """What is injected; nothing, as it stands."""

    seed: int = 0
    """Of the choice of reads that fail or are late."""
    latency: tuple[float, float] = (0.0, 0.0)
    """Least and most seconds from submission that a read takes at least, evenly spread."""
    rates: Mapping[Fault, float] = field(default_factory=dict)
    """Share of reads that fail, by fault; together at most 1."""
    rows: Mapping[int, RowFault] = field(default_factory=dict)
    """Rows of which the outcome is fixed."""

    def __post_init__(self) -> None:
        if not 0 <= self.latency[0] <= self.latency[1]:
            raise ValueError(f"latency is {self.latency}; it must be two numbers of seconds, the smaller first")
        if min(self.rates.values(), default=0) < 0 or sum(self.rates.values()) > 1:
            raise ValueError(f"rates are {dict(self.rates)}; they must not be negative and add up to at most 1")


class _Held(NamedTuple):
    """A read that is finished, or will fail, at a time."""

    due: float
    """In seconds of `time.monotonic`."""
    number: int
    """Breaks ties, first come first served."""
    read: Read
    completions: Completions
    fault: Fault | None


class FaultyStorage:
    """A storage with faults in front of it. One thread holds everything that is late."""

    def __init__(self, storage: Storage, plan: FaultPlan) -> None:
        self.name = storage.name
        self.description = f"{storage.description}, with faults"
        self.num_rows = storage.num_rows
        self.row_bytes = storage.row_bytes
        self.queue_depth = storage.queue_depth
        self.staging_bytes = storage.staging_bytes
        self._storage = storage
        self._plan = plan
        self._random = random.Random(plan.seed)  # noqa: S311  faults to be repeated, not secrets
        self._numbers = itertools.count()
        self._held: list[_Held] = []
        self._change = threading.Condition()
        self._closed = False
        self._at_once = False
        self._thread = threading.Thread(target=self._let_go, name="tolbooth-faults", daemon=True)
        self._thread.start()

    def submit(self, reads: Sequence[Read], completions: Completions) -> None:
        """Start reads, as `Storage.submit` says; some of them fail or are late."""
        now = time.monotonic()
        with self._change:
            if self._closed:
                raise ValueError("the storage is closed")
            outcomes = [(read, self._outcome(read.row)) for read in reads]
        due = {read: now + outcome.latency for read, outcome in outcomes if outcome.fault is None}
        self._storage.submit(list(due), _Detour(self, due, completions))
        for read, outcome in outcomes:
            if outcome.fault is not None:
                read.started = time.perf_counter()
                self._hold(now + outcome.latency, read, completions, outcome.fault)

    def stop(self) -> None:
        """Inject nothing from now on, and let go of what is held."""
        with self._change:
            self._plan = FaultPlan()
            self._at_once = True
            self._change.notify()

    def close(self) -> None:
        """End the storage, and let go of what is held."""
        with self._change:
            self._closed = True
        self._storage.close()
        with self._change:
            self._at_once = True
            self._change.notify()
        self._thread.join(CLOSE_SECONDS)

    def _outcome(self, row: int) -> RowFault:
        plan = self._plan
        if row in plan.rows:
            return plan.rows[row]
        latency = self._random.uniform(*plan.latency)
        chance = self._random.random()
        for fault, rate in plan.rates.items():
            chance -= rate
            if chance < 0:
                return RowFault(fault=fault, latency=latency)
        return RowFault(latency=latency)

    def _hold(self, due: float, read: Read, completions: Completions, fault: Fault | None) -> None:
        with self._change:
            heapq.heappush(self._held, _Held(due, next(self._numbers), read, completions, fault))
            self._change.notify()

    def _let_go(self) -> None:
        while True:
            with self._change:
                while not self._is_due():
                    if self._closed and self._at_once:
                        return
                    self._change.wait(self._held[0].due - time.monotonic() if self._held else None)
                held = heapq.heappop(self._held)
            if held.fault is not None:
                _spoil(held.read, held.fault)
            held.read.finished = time.perf_counter()
            held.completions.put(held.read)

    def _is_due(self) -> bool:
        return bool(self._held) and (self._at_once or self._held[0].due <= time.monotonic())


class _Detour(Completions):
    """Takes reads from the storage and has those held that are not due yet."""

    def __init__(self, storage: FaultyStorage, due: Mapping[Read, float], completions: Completions) -> None:
        super().__init__()
        self.signal = completions.signal
        self._storage = storage
        self._due = due
        self._completions = completions

    def watch(self, source: Source) -> None:
        self._completions.watch(source)

    def put(self, read: Read) -> None:
        if self._due[read] <= time.monotonic():
            self._completions.put(read)
        else:
            self._storage._hold(self._due[read], read, self._completions, None)  # noqa: SLF001  its other half


def _spoil(read: Read, fault: Fault) -> None:
    """Give a read the error, and bytes that whoever takes them for the row will notice."""
    read.buffer[:] = b"\xa5" * len(read.buffer)
    message = f"row {read.row}: {fault.cause}; injected"
    read.error = RowReadError(message, row=read.row, cause=fault.cause, kind=fault.kind)
