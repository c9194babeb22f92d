"""The seam between scheduling and the memory: which rows are at hand, which are on their way, and for how long.

| implementation | rows                                                                       |
|----------------|----------------------------------------------------------------------------|
| `PagedMemory`  | a pager's: leased for a step, prefetched while a request waits              |
| `WholeMemory`  | all at hand at any time (computed, resident, mapped), or none (dense models) |

Knows row keys and leases; knows nothing of sequences.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.overlaid_rows import OverlaidRows
from models.rows import PlacedRows, Rows, RowSource
from models.table_rows import placed_in
from paging import Table
from paging.keys import KeyRange
from paging.lease import Lease, LeaseState, Outlook, Prefetch
from paging.leased_rows import LeasedRows
from paging.pager import Pager
from paging.stats import PagerStats
from paging.storage import open_storage
from paging.storage.protocol import Storage

Keys = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]

_NOWHERE: Places = np.zeros(0, dtype=np.intp)


class RowMemory(Protocol):
    """What a scheduler asks of the memory; the methods mean what those of `Pager` with the same names mean."""

    @property
    def leasable_rows(self) -> int | None:
        """Different rows that can be leased at once; None: any number."""
        ...

    def absent(self, keys: Keys) -> Places:
        """Return where in `keys` those are whose rows are not at hand now."""
        ...

    def lease(self, keys: Keys) -> Lease:
        """Hold rows: ready at once, or waiting."""
        ...

    def lease_each(self, keys: Keys) -> list[Lease]:
        """Hold rows that are not at hand by a lease each."""
        ...

    def release(self, lease: Lease) -> None:
        """End a lease."""
        ...

    def outlook(self, lease: Lease) -> Outlook:
        """Return what a lease waits for, and for how long."""
        ...

    def prefetch(self, keys: Keys) -> Prefetch:
        """Start bringing rows that will be needed."""
        ...

    def poll(self) -> None:
        """Take over what has arrived."""
        ...

    def wait_for(self, leases: Sequence[Lease], timeout: float) -> None:
        """Wait until none of these leases waits any more, `timeout` seconds at most."""
        ...

    def wait_any(self, leases: Sequence[Lease], timeout: float) -> None:
        """Wait until one of these leases does not wait any more, `timeout` seconds at most."""
        ...

    def idle(self, timeout: float) -> None:
        """Keep bringing rows ahead, for `timeout` seconds at most."""
        ...

    def read_ahead(self, seconds: float) -> None:
        """Start bringing what can be brought ahead while nobody polls for so many seconds."""
        ...

    def rows(self, leases: Sequence[Lease], places: Places | None = None) -> Rows | None:
        """Return the rows of ready leases, one after another; None where the model has no memory.

        places: which of them, counted so, and in what order; None: all as they come.
        """
        ...

    def attach(self, table: Table) -> KeyRange:
        """Give the rows of a further table keys of their own; it may be closed afterwards."""
        ...

    def detach(self, keys: KeyRange) -> None:
        """Drop a further table's rows; `KeysInUseError` while they are leased or on their way."""
        ...


class PagedMemory:
    """Rows that a pager holds, decoded to the model's dtype."""

    def __init__(
        self, pager: Pager, *, dtype: torch.dtype, open_rows: Callable[[Table], Storage] = open_storage
    ) -> None:
        """open_rows: opens what further tables' rows are read through."""
        self._open_rows = open_rows
        self._attached: dict[KeyRange, Storage] = {}
        self.pager = pager
        self.dtype = dtype
        self.lease = pager.lease
        self.lease_each = pager.lease_each
        self.release = pager.release
        self.outlook = pager.outlook
        self.prefetch = pager.prefetch
        self.poll = pager.poll
        self.wait_for = pager.wait_for
        self.wait_any = pager.wait_any
        self.idle = pager.idle
        self.read_ahead = pager.read_ahead

    @property
    def leasable_rows(self) -> int:
        """Different rows that can be leased at once."""
        return self.pager.leasable_slots

    def absent(self, keys: Keys) -> Places:
        """Return where in `keys` those are whose rows are not on the device now."""
        there = self.pager.resident(keys)
        return _NOWHERE if np.count_nonzero(there) == len(there) else np.flatnonzero(~there)

    def rows(self, leases: Sequence[Lease], places: Places | None = None) -> Rows:
        """Return the rows of ready leases, one after another or those in `places`."""
        leased = self.pager.rows(leases)
        return _DecodedRows(leased, self.dtype) if places is None else _PickedLeasedRows(leased, places, self.dtype)

    def stats(self) -> PagerStats:
        """Return the pager's counters and sizes."""
        return self.pager.stats()

    def attach(self, table: Table) -> KeyRange:
        """Let the pager have a further table's rows, read when they are needed as all others are."""
        storage = self._open_rows(table)
        try:
            keys = self.pager.attach(storage)
        except BaseException:
            storage.close()
            raise
        self._attached[keys] = storage
        return keys

    def detach(self, keys: KeyRange) -> None:
        """Drop a further table's rows without waiting; `KeysInUseError` while they are leased or on their way."""
        self.pager.detach(keys, timeout=0)
        self._attached.pop(keys).close()

    def close(self) -> None:
        """Close what further tables' rows are read through; nothing can be leased afterwards."""
        for storage in self._attached.values():
            storage.close()


class _DecodedRows(Rows):
    def __init__(self, rows: LeasedRows, dtype: torch.dtype) -> None:
        self._rows = rows
        self._dtype = dtype

    def gather(self, layer: int) -> Tensor:
        return self._rows.gather(layer, self._dtype)

    def add_to(self, hidden_Nd: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        return self._rows.add_to(hidden_Nd, layer, alpha_N)

    @property
    def placed(self) -> PlacedRows:
        return placed_in(self._rows.layers, self._rows.slots, self._dtype)


class _PickedLeasedRows(Rows):
    """Some of the rows of leases, in any order."""

    def __init__(self, rows: LeasedRows, places_N: Places, dtype: torch.dtype) -> None:
        self._rows, self._places_N, self._dtype = rows, places_N, dtype

    def gather(self, layer: int) -> Tensor:
        return self._batch.gather(layer)

    def add_to(self, hidden_Nd: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        return self._batch.add_to(hidden_Nd, layer, alpha_N)

    @property
    def placed(self) -> PlacedRows:
        return placed_in(self._rows.layers, lambda: self._rows.slots()[self._places_N], self._dtype)

    @cached_property
    def _batch(self) -> Rows:
        """Made when values are asked for: whoever reads slots himself needs no index on the device."""
        placed = self.placed
        return placed.rows_in(torch.from_numpy(placed.slots()).to(self._rows.layers.device, non_blocking=True))


class WholeMemory:
    """Rows that need no paging; leases are always ready and hold nothing."""

    leasable_rows = None

    def __init__(
        self,
        source: RowSource | None,
        *,
        num_keys: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Take rows from `source`, which has one for each key below `num_keys`, in this dtype on this device."""
        self.source = source
        self._num_keys, self._dtype, self._device = num_keys, dtype, device
        self._overlaid: OverlaidRows | None = None

    def absent(self, keys: Keys) -> Places:  # noqa: ARG002 every row is at hand
        """Return that none is absent."""
        return _NOWHERE

    def lease(self, keys: Keys) -> Lease:
        """Return a lease that is ready."""
        return Lease(keys, keys)

    def lease_each(self, keys: Keys) -> list[Lease]:
        """Return leases that are ready."""
        return [self.lease(keys[place : place + 1]) for place in range(len(keys))]

    def release(self, lease: Lease) -> None:
        """End a lease."""
        lease.state = LeaseState.RELEASED

    def outlook(self, lease: Lease) -> Outlook:  # noqa: ARG002 no lease waits
        """Return that nothing is waited for."""
        return Outlook(0, 0, 0.0)

    def prefetch(self, keys: Keys) -> Prefetch:
        """Bring nothing."""
        return Prefetch(keys[:0], cancel=lambda _: None)

    def poll(self) -> None:
        """Nothing is ever on its way."""

    def wait_for(self, leases: Sequence[Lease], timeout: float) -> None:
        """No lease waits."""

    def wait_any(self, leases: Sequence[Lease], timeout: float) -> None:
        """No lease waits."""

    def idle(self, timeout: float) -> None:
        """Nothing is brought ahead."""

    def read_ahead(self, seconds: float) -> None:
        """Nothing is brought ahead."""

    def rows(self, leases: Sequence[Lease], places: Places | None = None) -> Rows | None:
        """Fetch the rows of a step."""
        if self.source is None:
            return None
        keys = leases[0].keys if len(leases) == 1 else np.concatenate([lease.keys for lease in leases])
        return self.source.fetch(torch.from_numpy(keys if places is None else keys[places]))

    def attach(self, table: Table) -> KeyRange:
        """Read a further table into memory, whole; raises `RowReadError`."""
        assert self.source is not None, "a dense model takes no table"
        if self._overlaid is None:  # only now: without packs nothing stands between the model and its rows
            self._overlaid = OverlaidRows(self.source, self._num_keys, dtype=self._dtype, device=self._device)
            self.source = self._overlaid
        return self._overlaid.attach(table)

    def detach(self, keys: KeyRange) -> None:
        """Drop a further table's rows."""
        assert self._overlaid is not None, "something was attached"
        self._overlaid.detach(keys)
