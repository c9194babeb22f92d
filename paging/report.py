"""What a pager says about itself: its counters, and which rows are where."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paging.hot_set import HotSet
from paging.keys import KeyRange, Keys
from paging.parts import Parts
from paging.slots import SlotMap
from paging.stats import PagerStats


@dataclass(frozen=True, kw_only=True)
class Residency:
    """The rows in each tier, and their heat: how much each tier's policy wants to keep them."""

    device_keys: Keys
    """Rows ready on the device, the hottest first."""
    device_heat: npt.NDArray[np.float64]
    """Of each of them; comparable within a tier."""
    host_keys: Keys
    """Rows ready in the host tier, the hottest first; many are on the device too."""
    host_heat: npt.NDArray[np.float64]
    """Of each of them."""


def residency(parts: Parts) -> Residency:
    """Return which rows are where."""
    device_keys, device_heat = _hottest_first(parts.device)
    host_keys, host_heat = np.zeros(0, dtype=np.int64), np.zeros(0)
    if parts.host is not None:
        host_keys, host_heat = _hottest_first(parts.host.slots)
    return Residency(device_keys=device_keys, device_heat=device_heat, host_keys=host_keys, host_heat=host_heat)


def hot_set(parts: Parts, keys: KeyRange) -> HotSet:
    """Return the rows of a key range in the tiers: the device's, the hottest first, then those that the host adds."""
    there = residency(parts)
    host_only = there.host_keys[~np.isin(there.host_keys, there.device_keys)]
    # The tiers' heats do not compare. What the device gave up is worth less than all that it holds.
    found = np.concatenate([there.device_keys, host_only])
    heat = np.concatenate([there.device_heat, np.zeros(len(host_only))])
    inside = keys.mask(found)
    return HotSet(rows=found[inside] - keys.start, heat=heat[inside])


def snapshot(parts: Parts) -> PagerStats:
    """Return the counters and sizes of this moment."""
    counters, host = parts.counters, None if parts.host is None else parts.host.slots
    reading = sum(storage.staging_bytes for storage in parts.space.storages)
    return PagerStats(
        row_requests=counters.device_hits + counters.host_hits + counters.major_faults,
        device_hits=counters.device_hits,
        host_hits=counters.host_hits,
        major_faults=counters.major_faults,
        bytes_read=counters.bytes_read,
        bytes_copied=counters.bytes_copied,
        device_evictions=parts.device.num_evictions,
        host_evictions=0 if host is None else host.num_evictions,
        prefetched_rows=counters.prefetched_rows,
        prefetched_used_rows=counters.prefetched_used_rows,
        read_latency_counts=tuple(counters.read_latency_counts),
        read_latency_sum=counters.read_latency_sum,
        copy_latency_counts=tuple(counters.copy_latency_counts),
        copy_latency_sum=counters.copy_latency_sum,
        stall_seconds=counters.stall_seconds,
        read_errors_by_cause=dict(counters.read_errors_by_cause),
        device_slots=parts.device.num_slots,
        device_bytes=parts.slab.num_bytes + (reading if parts.host is None else 0),
        device_rows=parts.device.num_ready,
        device_leased_rows=int(np.count_nonzero(parts.device.holds)),
        host_slots=0 if host is None else host.num_slots,
        host_bytes=0 if parts.host is None else parts.host.slab.num_bytes + reading,
        host_rows=0 if host is None else host.num_ready,
        waiting_leases=len(parts.admission.waiters),
        reads_under_way=len(parts.reads.under_way),
    )


def _hottest_first(tier: SlotMap) -> tuple[Keys, npt.NDArray[np.float64]]:
    slots = tier.slot_of_key[tier.slot_of_key >= 0].astype(np.intp)
    heat = tier.policy.heat(slots)
    order = np.argsort(-heat, kind="stable")
    return tier.key_of_slot[slots[order]], heat[order]
