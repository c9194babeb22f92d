"""The rows of one or several ready leases, as values."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from paging.layers import LayerReader, PickedRows
from paging.lease import Lease, LeaseState
from paging.slab import DeviceSlab
from paging.slots import Slots

_NO_SLOTS: Slots = np.zeros(0, dtype=np.intp)
_READY = LeaseState.READY
"""By a name of its own: it is looked up for each lease and layer."""


def index_of(leases: Sequence[Lease], slab: DeviceSlab) -> Tensor:
    """Return the slots of leases, one after another, where the device can read them; `ValueError` unless all are ready.

    A lease keeps its own, so that it is made once.
    """
    _check_ready(leases)
    if len(leases) != 1:
        return slab.index(_slots_of(leases))
    lease = leases[0]
    if lease.index is None:
        assert lease.slots is not None, "a lease that is ready has slots"
        lease.index = slab.index(lease.slots)
    return lease.index


class LeasedRows:
    """The rows of some leases, in their order; made by `Pager.rows`, to be read while all of them are ready."""

    def __init__(self, leases: Sequence[Lease], *, slab: DeviceSlab, layers: LayerReader) -> None:
        self._leases = tuple(leases)
        _check_ready(self._leases)
        self._slab = slab
        self.layers = layers
        """What reads rows by their slots, the same for all leases."""

    def __len__(self) -> int:
        return len(self.slots())

    def slots(self) -> Slots:
        """Return the slot of each row; `ValueError` where a lease is over."""
        _check_ready(self._leases)
        return _slots_of(self._leases)

    def gather(self, layer: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return one layer's values as `PickedRows.gather` does; `ValueError` where a lease is over."""
        _check_ready(self._leases)
        return self._picked.gather(layer, dtype)

    def add_to(self, hidden_ND: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        """Add one layer's values to hidden states as `PickedRows.add_to` does; `ValueError` where a lease is over."""
        _check_ready(self._leases)
        return self._picked.add_to(hidden_ND, layer, alpha_N)

    @cached_property
    def _picked(self) -> PickedRows:
        """Made when values are asked for: whoever reads slots himself needs no index on the device."""
        return PickedRows(self.layers, index_of(self._leases, self._slab))


def _slots_of(leases: Sequence[Lease]) -> Slots:
    return np.concatenate([_NO_SLOTS, *(lease.slots for lease in leases if lease.slots is not None)])


def _check_ready(leases: Sequence[Lease]) -> None:
    for lease in leases:
        if lease.state is not _READY:
            raise ValueError(f"the lease is {lease.state}; rows can be read while it is ready")
