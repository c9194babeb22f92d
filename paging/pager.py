"""The pager: rows of tables far larger than memory, held in tiers of slots and leased to batches.

Knows row keys, tiers and budgets; knows nothing of tokens, models or requests. One thread calls every method
(`populate` apart); I/O threads only fill buffers, and what they read is taken over in `poll`. Nothing blocks except
`wait` and its like, `populate`, `detach` and `close`.

| module                | part                                                               |
|-----------------------|--------------------------------------------------------------------|
| `paging/keys.py`      | which storage a key belongs to                                     |
| `paging/slots.py`     | a tier's slots: which row is where, which may go                   |
| `paging/admission.py` | leases that wait                                                   |
| `paging/demand.py`    | rows that waiting leases were promised                             |
| `paging/asks.py`      | rows asked for and not used yet, and how their use will be counted |
| `paging/ahead.py`     | prefetches and preloads                                            |
| `paging/pins.py`      | rows held until further notice                                     |
| `paging/loader.py`    | what is read and copied next                                       |
| `paging/progress.py`  | what happens as rows arrive                                        |
| `paging/reads.py`     | reads under way                                                    |
| `paging/report.py`    | what a pager says about itself                                     |
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from paging.admission import Waiter
from paging.ahead import Ahead
from paging.errors import KeysInUseError
from paging.geometry import TableGeometry
from paging.hot_set import HotSet
from paging.integrity import check_integrity
from paging.keys import KeyRange, Keys
from paging.layers import LayerReader
from paging.lease import Lease, LeaseState, Outlook, Prefetch
from paging.leased_rows import LeasedRows, index_of
from paging.loader import HostTier
from paging.parts import assemble
from paging.policy import Policy
from paging.progress import Progress
from paging.report import Residency, hot_set, residency, snapshot
from paging.slab import DeviceSlab
from paging.slots import ONE, Mask
from paging.stats import PagerStats
from paging.storage.protocol import Storage


class Pager:
    """Leases rows from slots on the device, and keeps the slots filled."""

    def __init__(
        self,
        *,
        geometry: TableGeometry,
        slab: DeviceSlab,
        policy: Policy,
        bases: Mapping[int, Tensor] | None = None,
        host: HostTier | None = None,
        queue_depth: int | None = None,
        prefetch_share: float = 0.1,
        min_leasable: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Set up tiers of empty slots; rows come with `attach`.

        geometry: of every row that is to be held. policy: of the device tier, for as many slots as the slab has.
        bases: of the layers with a rank, the same for every row; they stay on the device.
        queue_depth: reads under way at most; None: as many as the storages make use of. prefetch_share: of the slots
        where reads land, for rows not needed yet. min_leasable: slots that pins must leave to leases.
        """
        self.geometry = geometry
        """The layout of every row."""
        self._parts = assemble(
            slab=slab,
            policy=policy,
            host=host,
            row_bytes=geometry.row_bytes,
            prefetch_share=prefetch_share,
            min_leasable=min_leasable,
            clock=clock,
        )
        self._ahead = Ahead(self._parts)
        self._progress = Progress(self._parts, clock)
        self._layers = LayerReader(geometry, slab.payload_SR, bases)
        self._queue_depth = queue_depth
        self._clock = clock
        self._slab, self._device, self._admission = slab, self._parts.device, self._parts.admission
        self._recent, self._counters, self._granted = self._parts.recent, self._parts.counters, self._parts.granted

    def populate(self) -> None:
        """Take the slots' memory from the system now, so that first reads need not; `BudgetError` where it lacks it.

        Blocks, perhaps for seconds; the one method that any thread may call, once, while others go on.
        """
        self._slab.populate()
        if self._parts.host is not None:
            self._parts.host.slab.populate()

    def attach(self, storage: Storage) -> KeyRange:
        """Give a storage's rows keys: the first stretch that is free, so that the base table's start at 0."""
        if storage.row_bytes != self.geometry.row_bytes:
            raise ValueError(f"rows of {storage.row_bytes} bytes among rows of {self.geometry.row_bytes}")
        keys = self._parts.space.attach(storage, storage.num_rows)
        self._parts.grow(self._parts.space.num_keys)
        self._parts.reads.depth = self._queue_depth or max(self._parts.reads.depth, storage.queue_depth)
        return keys

    def detach(self, keys: KeyRange, *, timeout: float = 30.0) -> None:
        """Drop a storage's rows and await its reads; then it may be closed, and its keys may become another's.

        Raises `KeysInUseError` while its rows are leased, pinned or waited for, and changes nothing then; also where
        its reads do not end in time, when the call can be made again.
        """
        parts = self._parts
        waiting = any(keys.mask(waiter.keys).any() for waiter in parts.admission.waiters.values())
        if waiting or parts.device.holds[parts.device.ready_in(keys)].any():
            raise KeysInUseError(f"rows with the keys {keys.start} to {keys.stop - 1} are leased; release them first")
        parts.space.close(keys)
        parts.loader.clear(keys)
        self._ahead.leave_out(keys)
        for marks in (parts.asks, parts.demand, parts.recent):
            marks.clear(keys)
        deadline = self._clock() + timeout
        self.poll()
        while num_left := sum(key in keys for key in parts.reads.under_way):
            if (left := deadline - self._clock()) <= 0:
                raise KeysInUseError(f"{num_left} reads have not ended after {timeout:g} s; detach the storage again")
            parts.reads.wait(left)
            self.poll()
        parts.space.free(keys)

    @property
    def num_slots(self) -> int:
        """Slots of the device tier."""
        return self._device.num_slots

    @property
    def leasable_slots(self) -> int:
        """Different rows that one lease can have: slots that are not for pinned rows."""
        return self._parts.pins.leasable_slots

    def resident(self, keys: Keys) -> Mask:
        """Return which of these rows are on the device now; only a lease makes them stay."""
        slot_of_key = self._device.slot_of_key
        if len(keys) and keys.view(np.uint64).max() < len(slot_of_key) and (there := slot_of_key[keys] >= 0).all():
            return there  # of a key that may not be asked for nothing is there
        self._parts.space.check(keys)
        return slot_of_key[keys] >= 0

    def lease(self, keys: Keys) -> Lease:
        """Hold the rows of `keys` (int64 [n], repeats allowed), all or none: ready at once, or waiting. Never blocks.

        `keys` must not change while the lease lasts. Raises `LeaseTooLargeError` for more different rows than can ever
        fit, `IndexError` for a key that no storage has.
        """
        device, keys = self._device, np.asarray(keys, dtype=np.int64)
        # Nobody overtakes a lease that waits for room. A negative key is a huge one to the comparison.
        if len(keys) and not self._admission.is_full and keys.view(np.uint64).max() < len(device.slot_of_key):
            slots = device.slot_of_key[keys].astype(np.intp)
            if slots.min() >= 0 and not device.fresh[slots].any() and self._parts.loader.can_hold(slots):
                device.policy.touch(slots)
                np.add.at(device.holds, slots, ONE)
                device.evictable[slots] = False
                self._recent.note(keys)
                self._counters.device_hits += len(keys)
                lease = Lease(keys, slots)
                self._granted.add(lease)
                return lease
        return self._queue(keys)

    def lease_each(self, keys: Keys) -> list[Lease]:
        """Hold rows that are not on the device by a lease each, as `lease` does; their reads start together."""
        self._parts.space.check(keys)
        self._parts.pins.check_lease(keys[:1])
        self._ahead.ask(keys)
        leases = []
        for place in range(len(keys)):
            key = keys[place : place + 1]
            leases.append(lease := Lease(key, None))
            self._admission.add(Waiter(lease, keys=key, asked=key, is_pin=False))
        self._progress.ask()
        return leases

    def release(self, lease: Lease) -> None:
        """End a lease, also one that waits: its reads go on, but its rows may be evicted. Twice is once."""
        if lease.state is LeaseState.READY:
            assert lease.slots is not None, "a lease that is ready has slots"
            device, slots = self._device, lease.slots
            np.subtract.at(device.holds, slots, ONE)
            device.evictable[slots] = device.holds[slots] == 0
            self._granted.discard(lease)
            if lease in self._parts.pins:
                self._parts.pins.remove(lease)
                self._parts.loader.settle(np.unique(lease.keys))
            self._slab.released()
        elif lease.state is LeaseState.WAITING:
            self._parts.pins.remove(lease)
            self._admission.remove(self._admission.waiters[lease])
        lease.state = LeaseState.RELEASED
        if self._admission.is_full:
            self._progress.advance()

    def wait(self, lease: Lease, timeout: float) -> bool:
        """Poll until a lease does not wait any more, at most `timeout` seconds; return whether it is ready.

        Returns early where it waits for room that only other leases can make when they are released.
        """
        self.wait_for([lease], timeout)
        return lease.is_ready

    def wait_for(self, leases: Sequence[Lease], timeout: float) -> None:
        """Poll until none of these leases waits any more, or as `wait` says."""
        if any(lease.is_waiting for lease in leases):
            self._progress.wait(leases, timeout, enough=len(leases))

    def wait_any(self, leases: Sequence[Lease], timeout: float) -> None:
        """Poll until one of these leases does not wait any more, or as `wait` says."""
        if leases and all(lease.is_waiting for lease in leases):
            self._progress.wait(leases, timeout, enough=1)

    def poll(self) -> None:
        """Take over what has been read, grant or fail the leases that waited for it, and start further reads."""
        self._progress.poll()

    def idle(self, timeout: float) -> None:
        """Keep bringing rows ahead, for a caller that has nothing to do for the next `timeout` seconds."""
        self._progress.idle(timeout)

    def read_ahead(self, seconds: float) -> None:
        """Start reading for prefetches what may arrive in the next seconds, in which the caller has no time to poll."""
        if self._parts.loader.prefetches and not self._admission.is_full:
            self._parts.loader.read_ahead(self._parts.reads.possible(seconds))

    def outlook(self, lease: Lease) -> Outlook:
        """Return what a lease still waits for, and for how long that may take."""
        return self._admission.outlook(lease)

    def gather(self, layer: int, lease: Lease) -> Tensor:
        """Return one layer's values of a ready lease's rows, [n, d] as they are encoded; zeros if it was left out."""
        return self._layers.gather(index_of([lease], self._slab), layer)

    def rows(self, leases: Sequence[Lease]) -> LeasedRows:
        """Return the rows of several ready leases, the positions of one after those of the other."""
        return LeasedRows(leases, slab=self._slab, layers=self._layers)

    def prefetch(self, keys: Keys) -> Prefetch:
        """Start bringing rows that will be needed, after those that are and in the order asked for. Never blocks."""
        prefetch = self._ahead.prefetch(np.asarray(keys, dtype=np.int64))
        self._progress.advance()
        return prefetch

    def preload(self, keys: Keys) -> Prefetch:
        """Fill free slots with rows (none twice) that may be needed, in this order, when nothing else is to be read."""
        preload = self._ahead.preload(np.asarray(keys, dtype=np.int64))
        self._progress.advance()
        return preload

    def seed(self, keys: Keys, weights: npt.NDArray[Any]) -> Prefetch:
        """Expect rows (none twice) to be asked for in proportion to `weights` (>= 0), and preload the heaviest."""
        preload = self._ahead.seed(np.asarray(keys, dtype=np.int64), weights)
        self._progress.advance()
        return preload

    def pin(self, keys: Keys) -> Lease:
        """Hold rows until `release`: a lease that lasts and counts as no request. Ready at once, or waiting.

        Raises `LeaseTooLargeError` where too few slots would be left to leases.
        """
        keys = np.asarray(keys, dtype=np.int64)
        self._parts.pins.check_pin(keys, [waiter.keys for waiter in self._admission.waiters.values()])
        return self._queue(keys, is_pin=True)

    def stats(self) -> PagerStats:
        """Return the counters and sizes of this moment."""
        return snapshot(self._parts)

    def residency(self) -> Residency:
        """Return which rows are where, and their heat."""
        return residency(self._parts)

    def hot_set(self, keys: KeyRange) -> HotSet:
        """Return the rows of one storage that the tiers hold now, for `seed` at the next start."""
        return hot_set(self._parts, keys)

    def recent_keys(self) -> Keys:
        """Return the keys that leases were granted for last, position by position, the latest at the end."""
        return self._recent.latest()

    def check_integrity(self) -> None:
        """Raise `AssertionError` naming a law that does not hold, at whatever moment."""
        check_integrity(self._parts)

    def close(self, timeout: float = 30.0) -> None:
        """Await the reads under way, so that storages can be closed; the pager is not to be used any more."""
        deadline = self._clock() + timeout
        self._parts.loader.receive()
        while self._parts.reads.under_way and (left := deadline - self._clock()) > 0:
            self._parts.reads.wait(left)
            self._parts.loader.receive()
        if self._parts.host is not None and not self._parts.reads.under_way:
            self._parts.host.slab.close()

    def _queue(self, keys: Keys, *, is_pin: bool = False) -> Lease:
        """Let a lease wait, and start what can be started."""
        self._parts.space.check(keys)
        distinct = keys if len(keys) == 1 else np.unique(keys)
        self._parts.pins.check_lease(distinct)
        self._ahead.ask(asked := distinct[self._device.slot_of_key[distinct] < 0])
        lease = Lease(keys, None)
        if is_pin:
            self._parts.pins.add(lease, distinct)
        self._admission.add(Waiter(lease, keys=distinct, asked=asked, is_pin=is_pin))
        self._progress.ask()
        return lease
