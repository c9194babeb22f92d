"""The laws that hold at every moment, recomputed from scratch and compared with what the pager believes.

Slow and thorough: for tests, and for an operator who asks.
"""

import numpy as np

from paging.lease import LeaseState
from paging.parts import Parts
from paging.slots import SlotMap


def check_integrity(parts: Parts) -> None:
    """Raise `AssertionError` naming the first law that does not hold."""
    landing_in_host = {fetch.slot for fetch in parts.reads.under_way.values()}
    if parts.host is None:
        _check_tier(parts.device, landing_in_host, "device")
    else:
        _check_tier(parts.device, set(), "device")
        _check_tier(parts.host.slots, landing_in_host, "host")
    for tier in [parts.device] if parts.host is None else [parts.device, parts.host.slots]:
        _law(bool(parts.space.is_open[tier.slot_of_key >= 0].all()), "only rows of attached storages are there")
    _check_holds(parts)
    _check_promises(parts)
    _check_asks(parts)
    _law(len(parts.reads.under_way) <= parts.reads.most, "no more reads are under way than allowed")


def _check_tier(tier: SlotMap, landing: set[int], name: str) -> None:
    held = np.flatnonzero(tier.key_of_slot >= 0)
    free = tier.free_slots()
    _law(len(free) + len(held) == tier.num_slots, f"{name}: free and held slots are all slots")
    _law(bool((tier.key_of_slot[free] == -1).all()), f"{name}: a free slot has no row")
    _law(len(np.unique(free)) == len(free), f"{name}: a slot is free once")
    keys = tier.key_of_slot[held]
    _law(len(np.unique(keys)) == len(keys), f"{name}: a row has at most one slot")
    ready = np.zeros(tier.num_slots, dtype=np.bool_)
    ready[held] = tier.slot_of_key[keys] == held
    _law(int(ready.sum()) == tier.num_ready, f"{name}: every row that is ready has the slot it is said to have")
    _law(set(held[~ready[held]].tolist()) == landing, f"{name}: rows land in slots that reads are under way for")
    idle = ready & (tier.holds == 0)
    _law(bool((tier.holds >= 0).all()), f"{name}: nobody gives back what he did not hold")
    _law(not tier.holds[~ready].any(), f"{name}: only rows that are ready are held")
    _law(not (tier.evictable & tier.kept).any(), f"{name}: a row that is kept is not evictable")
    _law(bool(((tier.evictable | tier.kept) == idle).all()), f"{name}: what nobody holds is kept or evictable")
    _law(not tier.fresh[~ready].any(), f"{name}: only rows that are ready are fresh")


def _check_holds(parts: Parts) -> None:
    device = parts.device
    holds = np.zeros(device.num_slots, dtype=np.int64)
    for lease in parts.granted:
        _law(lease.state is LeaseState.READY, "a lease that was granted is ready")
        assert lease.slots is not None, "and has slots"
        _law(bool((device.key_of_slot[lease.slots] == lease.keys).all()), "a leased row stays")
        np.add.at(holds, lease.slots, 1)
    for waiter in parts.admission.waiters.values():
        slots = device.slot_of_key[waiter.keys]
        if waiter.is_admitted:
            holds[slots[slots >= 0]] += 1
            _law(waiter.lease.missing == set(waiter.keys[slots < 0].tolist()), "a waiter lacks what is not ready")
            _law(bool(waiter.lease.missing), "a lease that lacks nothing does not wait")
    _law(bool((holds == device.holds).all()), "a row is held by leases and by waiters, and by nobody else")
    if parts.host is not None and not parts.loader.is_copying:
        _law(not parts.host.slots.holds.any(), "host: only copies hold rows")


def _check_promises(parts: Parts) -> None:
    device, demand = parts.device, parts.demand
    admitted = [waiter for waiter in parts.admission.waiters.values() if waiter.is_admitted]
    wanted = np.zeros_like(demand.wanted)
    for waiter in admitted:
        wanted[waiter.keys] += 1
    _law(bool((wanted == demand.wanted).all()), "rows are promised to admitted leases")
    unplaced = set(np.flatnonzero((wanted > 0) & (device.slot_of_key < 0)).tolist())
    if parts.host is None:
        unplaced -= parts.reads.under_way.keys()
    _law(unplaced == demand.unplaced, "a promised row without a slot is known to lack one")
    _law(parts.loader.spare >= 0, "every promise can be kept")
    pinned = parts.pins.keys
    for waiter in parts.admission.waiters.values():
        _law(len(np.union1d(pinned, waiter.keys)) <= device.num_slots, "a waiting lease can fit beside the pins")


def _check_asks(parts: Parts) -> None:
    asks = parts.asks
    _law(bool((asks.count >= 0).all()), "nobody stops asking for what he did not ask for")
    _law(not asks.fault[asks.count == 0].any(), "a row that nobody asks for is not marked")
    counters = parts.counters
    requests = sum(len(lease) for lease in parts.granted if lease not in parts.pins)
    _law(requests <= counters.device_hits + counters.host_hits + counters.major_faults, "what is granted is counted")
    for tier in [parts.device] if parts.host is None else [parts.device, parts.host.slots]:
        kept = tier.key_of_slot[tier.kept]
        _law(bool(asks.pending(kept).all()), "what is kept is kept for somebody")


def _law(holds: bool, what: str) -> None:  # noqa: FBT001  reads as a sentence at every call
    if not holds:
        raise AssertionError(f"the pager breaks a law: {what}")
