"""The parts of a pager, and how they are put together."""

from collections.abc import Callable
from dataclasses import dataclass

from paging.admission import Admission
from paging.asks import Asks
from paging.demand import Demand
from paging.keys import KeySpace
from paging.lease import Lease
from paging.loader import HostTier, Loader
from paging.pins import Pins
from paging.policy import Policy
from paging.reads import Reads
from paging.recent import RecentKeys
from paging.slab import DeviceSlab
from paging.slots import SlotMap
from paging.stats import Counters
from paging.storage.protocol import Storage


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The state of a pager; each part is changed by the pager's thread alone."""

    space: KeySpace[Storage]
    device: SlotMap
    slab: DeviceSlab
    host: HostTier | None
    asks: Asks
    demand: Demand
    reads: Reads
    loader: Loader
    admission: Admission
    pins: Pins
    recent: RecentKeys
    counters: Counters
    granted: set[Lease]
    """Leases and pins that are ready."""

    def grow(self, num_keys: int) -> None:
        """Make room for keys below `num_keys`."""
        for part in (self.device, self.slab, self.asks, self.demand):
            part.grow(num_keys)
        if self.host is not None:
            self.host.slots.grow(num_keys)


def assemble(
    *,
    slab: DeviceSlab,
    policy: Policy,
    host: HostTier | None,
    row_bytes: int,
    prefetch_share: float,
    min_leasable: int,
    clock: Callable[[], float],
) -> Parts:
    """Put a pager's parts together, with empty slots; the arguments are those of `Pager`."""
    landing = slab.landing if host is None else host.slab
    if landing is None:
        raise ValueError("a device that no read can land on needs a host tier")
    space: KeySpace[Storage] = KeySpace()
    if policy.num_slots != slab.num_slots:
        raise ValueError(f"a policy for {policy.num_slots} slots and a device tier of {slab.num_slots}")
    device = SlotMap(policy)
    asks, demand, counters = Asks(), Demand(), Counters()
    reads = Reads(space, slab=landing, row_bytes=row_bytes, counters=counters, clock=clock)
    loader = Loader(
        space=space,
        device=device,
        slab=slab,
        host=host,
        reads=reads,
        asks=asks,
        demand=demand,
        counters=counters,
        row_bytes=row_bytes,
        prefetch_share=prefetch_share,
        clock=clock,
    )
    return Parts(
        space=space,
        device=device,
        slab=slab,
        host=host,
        asks=asks,
        demand=demand,
        reads=reads,
        loader=loader,
        admission=Admission(device=device, host=host, reads=reads, asks=asks, demand=demand, loader=loader),
        pins=Pins(slab.num_slots, min_leasable=min_leasable),
        recent=RecentKeys(),
        counters=counters,
        granted=set(),
    )
