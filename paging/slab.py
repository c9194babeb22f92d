"""The bytes of a tier's slots, in host memory.

Knows bytes and slot numbers; knows nothing of keys. A slot is as long as a row's stride on disk and as well aligned,
so that a direct read can land in it. `paging/cuda_slab.py` is the same on a GPU.

Shape legend: S slots, N rows of a batch, R bytes of a row's payload, B bytes of a slot.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from paging.errors import BudgetError
from paging.geometry import aligned_stride
from paging.keys import Keys
from paging.pages import populate, reserve
from paging.slots import Slots


class HostSlab:
    """Slots in host memory, page-aligned; pages that no row has touched take no memory yet."""

    def __init__(self, num_slots: int, row_bytes: int) -> None:
        self.num_slots = num_slots
        self.slot_bytes = aligned_stride(row_bytes)
        try:
            # Huge pages: the first read into a slot faults once, not once for each of its pages.
            self._memory = reserve(num_slots * self.slot_bytes, huge=True)
        except (OSError, ValueError, OverflowError) as error:
            raise BudgetError(
                f"{num_slots} slots of {self.slot_bytes} bytes cannot be had from memory ({error}); lower the budget"
            ) from error
        self.rows_SB = np.frombuffer(self._memory, dtype=np.uint8)[: num_slots * self.slot_bytes].reshape(
            num_slots, self.slot_bytes
        )
        self.payload_SR = torch.from_numpy(self.rows_SB)[:, :row_bytes]
        """The rows in their table's encoding, uint8."""

    @property
    def num_bytes(self) -> int:
        """The memory that the slots take, padding included."""
        return self.rows_SB.nbytes

    def buffer(self, slot: int) -> memoryview:
        """Return a slot's bytes, for a read to land in."""
        return memoryview(self.rows_SB[slot])

    def populate(self) -> None:
        """Have the system hand over all of the memory now, not at the first read into each slot; blocks.

        What is in the slots stays, so another thread may do it meanwhile. Where memory comes slowly, as in a virtual
        machine, first reads take several times as long without. Raises `BudgetError`.
        """
        try:
            populate(self.rows_SB.ctypes.data, self.rows_SB.nbytes)
        except OSError as error:
            raise BudgetError(
                f"{self.num_bytes} bytes of host memory cannot be had ({error.strerror}); lower the budget"
            ) from error

    def close(self) -> None:
        """Do nothing: the memory goes with the last that refers to it."""


class Copy(Protocol):
    """Rows on their way from the host tier to the device."""

    def is_done(self) -> bool:
        """Whether their host slots may be written again."""
        ...

    def wait(self) -> None:
        """Block until they may."""
        ...


class DeviceSlab(Protocol):
    """The slots of the device tier.

    The host's view runs ahead of the device's: a row counts as ready once its copy is queued, and `index` makes the
    step that reads it wait for that. A slot may be filled anew once its lease is released, and `released` makes the
    copies that follow wait for the steps that may still be reading it.
    """

    num_slots: int
    payload_SR: Tensor
    """The rows in their table's encoding, uint8."""
    landing: HostSlab | None
    """The slots themselves, where reads can land in them; else rows come by `copy_in` alone."""

    @property
    def num_bytes(self) -> int:
        """The device's memory that the slots, and its copy of the map, take."""
        ...

    def populate(self) -> None:
        """Take what memory has not been taken yet; raises `BudgetError`."""
        ...

    def copy_in(self, slots_N: Slots, source: HostSlab, source_slots_N: Slots) -> Copy | None:
        """Start copying rows from the host tier; None where they have been copied already."""
        ...

    def grow(self, num_keys: int) -> None:
        """Make room for keys below `num_keys` in the device's copy of the map."""
        ...

    def publish(self, keys_N: Keys, slots_N: Slots) -> None:
        """Write `slots_N` for these keys into the device's copy of the map; -1 for a row that is leaving."""
        ...

    def index(self, slots_N: Slots) -> Tensor:
        """Return slots as an index tensor for the step that is about to run; their rows are there when it reads."""
        ...

    def released(self) -> None:
        """Note that the steps queued so far were the last to read the slots just released."""
        ...


class CpuSlab:
    """The device tier where there is no GPU: host memory that reads land in; it has no other view of the map."""

    def __init__(self, num_slots: int, row_bytes: int) -> None:
        self.num_slots = num_slots
        self._slots = HostSlab(num_slots, row_bytes)
        self.landing: HostSlab | None = self._slots
        self.num_bytes = self._slots.num_bytes
        self.payload_SR = self._slots.payload_SR

    def populate(self) -> None:
        """Have the system hand over the slots' memory."""
        self._slots.populate()

    def copy_in(self, slots_N: Slots, source: HostSlab, source_slots_N: Slots) -> Copy | None:
        """Copy rows from the host tier."""
        self._slots.rows_SB[slots_N] = source.rows_SB[source_slots_N]
        return None

    def grow(self, num_keys: int) -> None:
        """There is no second map."""

    def publish(self, keys_N: Keys, slots_N: Slots) -> None:
        """There is no second map."""

    def index(self, slots_N: Slots) -> Tensor:
        """Return the slots; their rows are there already."""
        return torch.from_numpy(slots_N)

    def released(self) -> None:
        """Do nothing: steps are over when they return."""
