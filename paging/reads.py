"""Reads under way: which rows are being read into which slots, and how long reads take.

Knows storages and buffers; knows nothing of leases. I/O threads fill the buffers and nothing else: what a read brings
is taken over when the pager asks for it.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from paging.errors import ReadErrorKind, RowReadError
from paging.keys import KeyRange, KeySpace
from paging.slab import HostSlab
from paging.slots import Slots
from paging.stats import Counters
from paging.storage.protocol import Completions, Read, Storage

_LONGEST_WAIT = 3600.0
"""Seconds; locks do not take any number. Whoever waits looks again and waits on."""
_MOST_DEPTHS = 8
"""Reads under way are never more than so many times as keep the storages busy."""
_REFILL_SHARE = 4
"""One in so many of the reads under way may end before further ones are started."""


class Origin(Enum):
    """Why a row is read; in the order in which rows are read."""

    DEMAND = "demand"  # a lease waits for it
    PREFETCH = "prefetch"  # it will be needed
    PRELOAD = "preload"  # it may be needed


class Fetch(NamedTuple):
    """One row being read."""

    key: int
    slot: int
    origin: Origin
    read: Read
    submitted: float
    load: int
    """Reads under way once it was submitted, itself included."""


class Latency:
    """Running estimates of how long a read takes, by how many are under way; in seconds.

    A disk that is read at full depth answers later than one that is asked for a single row, and what a burst took says
    little about the single read after it. So each power of two has an estimate of its own.
    """

    FIRST_GUESS = 1e-3
    """Before anything has been read."""
    WEIGHT = 1 / 8
    """Of the newest read."""

    def __init__(self) -> None:
        self._of_load: dict[int, float] = {}

    def note(self, load: int, seconds: float) -> None:
        """Take a read into account."""
        power = load.bit_length()
        known = self._of_load.get(power, seconds)
        self._of_load[power] = known + (seconds - known) * self.WEIGHT

    def expect(self, load: int) -> float:
        """Return what a read takes while so many are under way; the nearest load that is known stands in for others."""
        if not self._of_load:
            return self.FIRST_GUESS
        power = load.bit_length()
        return self._of_load[min(self._of_load, key=lambda known: abs(known - power))]


class Pace:
    """A running estimate of how many reads end in a second while the storages are kept busy."""

    MEMORY = 64
    """Reads after which what was seen before counts half."""

    def __init__(self) -> None:
        self._num_ended = 0.0
        self._seconds = 0.0

    def note(self, num_ended: int, seconds: float, *, is_busy: bool) -> None:
        """Take into account how many ended in so many seconds; `is_busy`: more were under way all the time."""
        if not is_busy and num_ended * self._seconds <= self._num_ended * seconds:
            return  # they may have ended long before
        share = 0.5 ** (num_ended / self.MEMORY)
        self._num_ended = self._num_ended * share + num_ended
        self._seconds = self._seconds * share + seconds

    def expect(self, seconds: float) -> int:
        """Return how many end in so many seconds; 0 where nothing is known yet."""
        return int(seconds * self._num_ended / self._seconds) if self._seconds else 0


class Reads:
    """The reads of all storages together, at most `depth` at a time; more only of those that `possible` allows."""

    def __init__(
        self,
        space: KeySpace[Storage],
        *,
        slab: HostSlab,
        row_bytes: int,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self.depth = 1
        self.under_way: dict[int, Fetch] = {}
        """Every row that is being read, by key."""
        self._space = space
        self._slab = slab
        self._row_bytes = row_bytes
        self._counters = counters
        self._clock = clock
        self._completions = Completions()
        self._latency = Latency()
        self._pace = Pace()
        self._busy_since = 0.0  # reads have been under way since then, or since the last look at what has ended
        self._num_for = dict.fromkeys(Origin, 0)

    @property
    def room(self) -> int:
        """Further reads that may be started."""
        return self.depth - len(self.under_way)

    @property
    def most(self) -> int:
        """Reads under way that there can ever be."""
        return _MOST_DEPTHS * self.depth

    def possible(self, seconds: float) -> int:
        """Return how many reads under way may be expected to end in so many seconds, with a margin of as many again."""
        return min(self._pace.expect(seconds) // 2, self.most)

    def num_for(self, origin: Origin) -> int:
        """Return how many reads are under way for one reason."""
        return self._num_for[origin]

    def start(self, keys: Sequence[int], slots: Slots, origin: Origin) -> None:
        """Read rows, none of which is being read, into slots; returns before they are there."""
        batches: dict[KeyRange, tuple[Storage, list[Read]]] = {}
        now, load = self._clock(), len(self.under_way) + len(keys)
        if not self.under_way:
            self._busy_since = now
        start, stop, reads = 0, 0, []
        for key, slot in zip(keys, slots.tolist(), strict=True):
            if not start <= key < stop:  # most batches stay in one range
                storage, key_range = self._space.locate(key)
                start, stop = key_range.start, key_range.stop
                reads = batches.setdefault(key_range, (storage, []))[1]
            read = Read(key - start, self._slab.buffer(slot), tag=key)
            self.under_way[key] = Fetch(key, slot, origin, read, now, load)
            reads.append(read)
        self._num_for[origin] += len(keys)
        for storage, reads in batches.values():
            try:
                storage.submit(reads, self._completions)
            except ValueError as error:  # closed under us: whoever waits for the rows must hear of it
                for read in reads:
                    message, kind = f"row {read.row}: {error}", ReadErrorKind.CLOSED
                    read.error = RowReadError(message, row=read.row, cause=str(error), kind=kind)
                    read.finished = now
                    self._completions.put(read)

    def finish(self) -> list[Fetch]:
        """Return the reads that have ended since the last call, well or with `read.error` set."""
        ended = [self.under_way.pop(read.tag) for read in self._completions.drain()]
        now = self._clock()
        self._pace.note(len(ended), now - self._busy_since, is_busy=bool(self.under_way))
        self._busy_since = now
        for fetch in ended:
            self._num_for[fetch.origin] -= 1
            seconds = self._duration(fetch)
            self._counters.note_read(seconds)
            if fetch.read.error is None:
                self._counters.bytes_read += self._row_bytes
                self._latency.note(fetch.load, seconds)
            else:
                self._counters.read_errors_by_cause[fetch.read.error.kind] += 1
        return ended

    def _duration(self, fetch: Fetch) -> float:
        """Return how long a read took; of one that nobody saw end what was expected, as far as that can be."""
        most = max(0.0, fetch.read.finished - fetch.submitted)
        if fetch.read.unfinished is None:
            return most
        return min(max(self._latency.expect(fetch.load), fetch.read.unfinished - fetch.submitted), most)

    def wait(self, timeout: float, *, most: int = 1) -> None:
        """Sleep until reads have ended, at most `timeout` seconds: `most` of them, but enough to keep storages busy."""
        refill = len(self.under_way) // _REFILL_SHARE
        self._completions.wait(min(timeout, _LONGEST_WAIT), num_reads=max(1, min(most, refill)))

    def expect(self, keys: Iterable[int], *, num_queued: int) -> float:
        """Return the seconds until those of `keys` that are being read are there, and `num_queued` more reads after.

        With `depth` reads under way at once, one ends every `latency / depth` seconds.
        """
        if num_queued:
            num_queued += max(0, len(self.under_way) - self.depth)  # they start when that many have ended
            return self._latency.expect(self.depth) * (1 + num_queued / self.depth)
        now, longest = self._clock(), 0.0
        for key in keys:
            if (fetch := self.under_way.get(key)) is not None:
                latency = self._latency.expect(fetch.load)
                # A read that is late already may end at any moment, but hardly this very one.
                longest = max(longest, latency - (now - fetch.submitted), latency * Latency.WEIGHT)
        return longest
