"""Brings rows: from storage into the tier where reads land, and from the host tier to the device.

Knows which row is wanted first; knows nothing of leases. Without a host tier reads land in the device's slots; with one
they land in the host tier, and go on to the device where a waiting lease was promised them.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from paging.asks import Asks
from paging.demand import Demand
from paging.errors import RowReadError
from paging.keys import KeyRange, Keys, KeySpace
from paging.lease import Prefetch
from paging.reads import Fetch, Origin, Reads
from paging.slab import Copy, DeviceSlab, HostSlab
from paging.slots import SlotMap, Slots
from paging.stats import Counters
from paging.storage.protocol import Storage

_PRELOAD_SHARE = 4
"""Preloading uses one in so many of the reads at a time, so that a demand read never queues behind many."""
_MOST_LOOKS = 8
"""Batches of a queue's rows looked at in one go: where most are there already, the rest can wait for the next."""


@dataclass(frozen=True, kw_only=True)
class HostTier:
    """The optional tier between storage and device."""

    slots: SlotMap
    slab: HostSlab


class Arrivals(NamedTuple):
    """What changed since the last look."""

    ready: set[int]
    """Rows now ready on the device."""
    failed: dict[int, RowReadError]
    """Rows that could not be read."""


class _Copying(NamedTuple):
    """Rows on their way to the device, where they count as ready; they are there once their copy is done."""

    copy: Copy
    host_slots: Slots
    started: float


class Loader:
    """Fills the tiers; `receive` takes what has arrived, `fill` starts what comes next."""

    def __init__(
        self,
        *,
        space: KeySpace[Storage],
        device: SlotMap,
        slab: DeviceSlab,
        host: HostTier | None,
        reads: Reads,
        asks: Asks,
        demand: Demand,
        counters: Counters,
        row_bytes: int,
        prefetch_share: float,
        clock: Callable[[], float],
    ) -> None:
        self.prefetches: deque[Prefetch] = deque()
        self.preloads: deque[Prefetch] = deque()
        self._space, self._device, self._slab, self._host = space, device, slab, host
        self._reads, self._asks, self._demand, self._counters = reads, asks, demand, counters
        self._row_bytes = row_bytes
        self._landing = device if host is None else host.slots
        self._share = max(1, int(prefetch_share * self._landing.num_slots))
        self._clock = clock
        self._copies: deque[_Copying] = deque()

    @property
    def spare(self) -> int:
        """Device slots that are available and set aside for nobody."""
        return self._device.num_available - len(self._demand.unplaced)

    def can_hold(self, slots: Slots) -> bool:
        """Whether all of these ready rows can be held although room is set aside for others; repeats allowed."""
        if not self._demand.unplaced:
            return True
        idle = slots[self._device.holds[slots] == 0]
        return len(set(idle.tolist())) <= self.spare

    @property
    def is_copying(self) -> bool:
        """Whether host slots are held by copies to the device."""
        return bool(self._copies)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is under way, and nothing waits to be brought ahead or read."""
        return not (
            self._reads.under_way or self._copies or self.prefetches or self.preloads or self._demand.has_unread
        )

    def receive(self) -> Arrivals:
        """Take over the reads and copies that have ended."""
        self._end_copies()
        landed: list[Fetch] = []
        failed: dict[int, RowReadError] = {}
        for fetch in self._reads.finish():
            error = fetch.read.error
            if error is None and self._space.is_open[fetch.key]:
                landed.append(fetch)
                continue
            self._landing.abandon(np.array([fetch.slot]))
            if error is not None:
                failed[fetch.key] = error
                self._asks.fail(np.array([fetch.key]))
        if not landed:
            return Arrivals(set(), failed)
        keys = np.array([fetch.key for fetch in landed], dtype=np.int64)
        slots = np.array([fetch.slot for fetch in landed], dtype=np.intp)
        wanted = self._demand.wanted[keys]
        pending = self._asks.pending(keys)
        if self._host is None:
            self._device.publish(slots, keys, wanted, pending)
            self._slab.publish(keys, slots)
            return Arrivals(set(keys.tolist()), failed)
        self._host.slots.publish(slots, keys, np.zeros_like(wanted), pending)
        promised = keys[(wanted > 0) & (self._device.slot_of_key[keys] < 0)].tolist()
        self._demand.queue(promised, in_host=set(promised))
        preloaded = [fetch.key for fetch in landed if fetch.origin is Origin.PRELOAD]
        return Arrivals(self._place([key for key in preloaded if not self._demand.wanted[key]][: self._idle]), failed)

    def fill(self, *, demand_only: bool) -> set[int]:
        """Copy and read what comes next; return the rows that so became ready on the device."""
        ready = set()
        if self._host is not None and (keys := self._demand.take_in_host()):
            ready = self._place(keys)
        if self._reads.room <= 0:  # whatever waits, waits for a read to end
            return ready
        if self._demand.has_unread and (count := min(self._reads.room, self._landing.num_available)):
            self._start(self._demand.take_unread(count, self._reads.under_way), Origin.DEMAND)
        if not demand_only:
            if self.prefetches:
                self._read_ahead(self._reads.room)
            if self.preloads:
                self._preload()
        return ready

    def read_ahead(self, num_reads: int) -> None:
        """Start reading what will be needed until so many reads are under way, though they be more than usual."""
        if self.prefetches:
            self._read_ahead(num_reads - len(self._reads.under_way))

    def forget(self, prefetch: Prefetch) -> None:
        """Read no more for a prefetch or preload."""
        for queue in (self.prefetches, self.preloads):
            if prefetch in queue:
                queue.remove(prefetch)

    def settle(self, keys: Keys) -> None:
        """Keep those of these rows (none twice) that somebody still asks for, and let go of the others."""
        pending = self._asks.pending(keys)
        slots = self._device.slot_of_key[keys]
        on_device = slots >= 0
        self._device.settle(slots[on_device].astype(np.intp), pending[on_device])
        if self._host is not None:
            # Of a row in both tiers the device's is kept.
            slots = self._host.slots.slot_of_key[keys]
            self._host.slots.settle(slots[slots >= 0].astype(np.intp), (pending & ~on_device)[slots >= 0])

    def clear(self, keys: KeyRange) -> None:
        """Drop the rows of a key range that goes away, and have the policies forget them."""
        while self._copies:
            self._copies[0].copy.wait()
            self._end_copies()
        slots = self._device.ready_in(keys)
        self._slab.publish(self._device.key_of_slot[slots], np.full(len(slots), -1))
        self._device.drop(slots)
        self._device.policy.forget(keys)
        if self._host is not None:
            self._host.slots.drop(self._host.slots.ready_in(keys))
            self._host.slots.policy.forget(keys)

    @property
    def _idle(self) -> int:
        """Free device slots that are set aside for nobody."""
        return max(0, min(self._device.num_free, self.spare))

    def _read_ahead(self, room: int) -> None:
        """Start at most `room` reads of what will be needed, within the prefetch share and in the order asked for."""
        used = self._landing.num_kept + self._reads.num_for(Origin.PREFETCH)
        free = self._landing.num_replaceable - len(self._demand.unplaced)
        count = min(room, self._share - used, free)
        started = self._read_queued(self.prefetches, count, Origin.PREFETCH)
        self._asks.prefetched[started] = True
        self._counters.prefetched_rows += len(started)

    def _preload(self) -> None:
        """Read what may be needed into slots that are free; where none are, there is nothing left to preload."""
        reading = self._reads.num_for(Origin.PRELOAD)
        free = self._landing.num_free
        if self._host is not None and self._idle > reading:
            free = self._landing.num_replaceable  # the host tier's rows make way on the way to a free device slot
        if not free and not reading:
            for preload in self.preloads:
                preload.advance(preload.num_left)  # whoever watches it shall see that it is over
            self.preloads.clear()
        depth = max(1, self._reads.depth // _PRELOAD_SHARE)
        count = min(self._reads.room, depth - reading, free - len(self._demand.unplaced))
        self._read_queued(self.preloads, count, Origin.PRELOAD)

    def _read_queued(self, queue: deque[Prefetch], count: int, origin: Origin) -> list[int]:
        """Start reading the next rows of a queue, at most `count`; return them."""
        started: list[int] = []
        for _ in range(_MOST_LOOKS):
            if count <= len(started) or not queue:
                break
            keys = self._absent(queue[0].advance(count - len(started)))
            if not queue[0].num_left:
                queue.popleft()
            self._start(keys, origin)
            started += keys
        return started

    def _absent(self, keys: Keys) -> list[int]:
        """Return those of `keys` that are in no tier, on their way to none, and may be asked for."""
        absent = self._space.is_open[keys] & (self._device.slot_of_key[keys] < 0)
        if self._host is not None:
            absent &= self._host.slots.slot_of_key[keys] < 0
        reading, unplaced = self._reads.under_way, self._demand.unplaced
        return [key for key in keys[absent].tolist() if key not in reading and key not in unplaced]

    def _start(self, keys: list[int], origin: Origin) -> None:
        if not keys:
            return
        slots, evicted = self._landing.take(np.array(keys, dtype=np.int64))
        self._asks.lose(evicted)
        if self._host is None:
            self._slab.publish(evicted, np.full(len(evicted), -1))
            self._demand.unplaced.difference_update(keys)
        self._reads.start(keys, slots, origin)

    def _place(self, keys: list[int]) -> set[int]:
        """Copy rows from the host tier to the device; return them: they are ready there at once."""
        if self._host is None or not keys:
            return set()
        rows = np.array(keys, dtype=np.int64)
        slots, evicted = self._device.take(rows)
        self._slab.publish(evicted, np.full(len(evicted), -1))
        host_slots = self._host.slots.slot_of_key[rows].astype(np.intp)
        self._host.slots.policy.touch(host_slots)
        self._host.slots.hold(host_slots)
        started = self._clock()
        copy = self._slab.copy_in(slots, self._host.slab, host_slots)
        self._slab.publish(rows, slots)
        self._device.publish(slots, rows, self._demand.wanted[rows], np.zeros(len(rows), dtype=np.bool_))
        self._demand.unplaced.difference_update(keys)
        self._counters.bytes_copied += len(rows) * self._row_bytes
        if copy is None:
            self._host.slots.unhold(host_slots)
            self._counters.note_copied(len(rows), self._clock() - started)
        else:
            self._copies.append(_Copying(copy, host_slots, started))
        return set(keys)

    def _end_copies(self) -> None:
        while self._copies and self._copies[0].copy.is_done():
            _, host_slots, started = self._copies.popleft()
            assert self._host is not None, "copies come from a host tier"
            self._host.slots.unhold(host_slots)
            self._counters.note_copied(len(host_slots), self._clock() - started)
