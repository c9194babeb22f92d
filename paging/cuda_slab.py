"""The device tier on a GPU: slots in its memory, a copy of the map, and copies that overlap with steps.

Knows streams and events; knows nothing of what is evicted or why. Rows come from the pinned host tier on a side stream.

| order                              | kept by                                                                         |
|------------------------------------|---------------------------------------------------------------------------------|
| a row is copied before it is read  | `publish` makes the compute stream wait for the copies so far                   |
| a row is read before it is evicted | copies wait for the steps queued when the last lease was released               |
| the map says what the slots hold   | it is written on the compute stream alone: -1 before a copy, the slot after it  |
| a host slot is reused after a copy | its event says that the copy is done                                            |

Shape legend: S slots, N rows of a batch, R bytes of a row's payload, K keys.
"""

import numpy as np
import torch
from torch import Tensor

from paging.errors import BudgetError
from paging.keys import Keys
from paging.slab import HostSlab
from paging.slots import Slots


class PinnedSlab(HostSlab):
    """Slots in host memory that the GPU copies from by itself.

    Mapped, then registered: the stock allocator of pinned memory rounds up to a power of two.
    """

    def __init__(self, num_slots: int, row_bytes: int) -> None:
        super().__init__(num_slots, row_bytes)
        self._address = self.rows_SB.ctypes.data
        error = torch.cuda.cudart().cudaHostRegister(self._address, max(1, self.rows_SB.nbytes), 0)  # type: ignore[no-untyped-call]
        if int(error) != 0:
            raise BudgetError(
                f"{self.rows_SB.nbytes} bytes of host memory cannot be pinned (CUDA error {int(error)}); lower the "
                "host budget"
            )

    def populate(self) -> None:
        """Do nothing: what is pinned is there."""

    def close(self) -> None:
        """Pin the memory no longer; nothing may be copied from it any more."""
        torch.cuda.cudart().cudaHostUnregister(self._address)  # type: ignore[no-untyped-call]


class CudaCopy:
    """Rows on their way to the GPU."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def is_done(self) -> bool:
        """Whether their host slots may be written again."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Block until they may."""
        self._event.synchronize()


class CudaSlab:
    """The slots of a GPU. The compute stream is the one that is current where a method is called."""

    landing: HostSlab | None = None

    def __init__(self, num_slots: int, row_bytes: int, device: torch.device) -> None:
        self.num_slots = num_slots
        self.payload_SR = torch.empty(num_slots, row_bytes, dtype=torch.uint8, device=device)
        """The rows in their table's encoding, uint8; never moved."""
        self.slot_of_key_K = torch.empty(0, dtype=torch.int32, device=device)
        """The slot of a row that is ready, else -1, int32. Moved only where `grow` must, when a storage is attached."""
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._released = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._resolves = False

    @property
    def num_bytes(self) -> int:
        """The GPU's memory that the slots and the map take."""
        return self.payload_SR.nbytes + self.slot_of_key_K.nbytes

    def populate(self) -> None:
        """Do nothing: a GPU's memory is there once it is allocated."""

    def copy_in(self, slots_N: Slots, source: HostSlab, source_slots_N: Slots) -> CudaCopy:
        """Queue copies from the host tier, behind the steps that may still be reading the slots."""
        if self._resolves:
            self._released.record(torch.cuda.current_stream(self._device))
        self._side.wait_event(self._released)
        with torch.cuda.stream(self._side):
            for slot, source_slot in zip(slots_N.tolist(), source_slots_N.tolist(), strict=True):
                self.payload_SR[slot].copy_(source.payload_SR[source_slot], non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._side)
        self._copied = event
        return CudaCopy(event)

    def grow(self, num_keys: int) -> None:
        """Make room for keys below `num_keys` in the map; a graph captured before must be captured again."""
        more = num_keys - len(self.slot_of_key_K)
        if more > 0:
            self.slot_of_key_K = torch.cat([self.slot_of_key_K, self.slot_of_key_K.new_full((more,), -1)])

    def publish(self, keys_N: Keys, slots_N: Slots) -> None:
        """Write slots into the map, where the steps queued from now on read them."""
        if len(keys_N):
            torch.cuda.current_stream(self._device).wait_event(self._copied)
            keys = torch.from_numpy(keys_N).to(self._device, non_blocking=True)
            slots = torch.from_numpy(slots_N.astype(np.int32)).to(self._device, non_blocking=True)
            self.slot_of_key_K.index_copy_(0, keys, slots)

    def resolve(self, keys_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots of keys that are on the GPU themselves, and which of them have none.

        No host round trip. From the first call on no slot is filled anew before every step queued by then is over,
        since any of them may read any row.
        """
        self._resolves = True
        slots_N = self.slot_of_key_K[keys_N]
        return slots_N, slots_N < 0

    def index(self, slots_N: Slots) -> Tensor:
        """Return slots as an index tensor on the GPU."""
        return torch.from_numpy(slots_N).to(self._device, non_blocking=True)

    def released(self) -> None:
        """Note that the steps queued so far were the last to read the slots just released."""
        self._released.record(torch.cuda.current_stream(self._device))
