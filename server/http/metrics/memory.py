"""The families about rows: how often they were at hand, what it cost to bring them, and which memory they take.

All but the last three are 0 where nothing is paged.
"""

from collections.abc import Callable

from paging import ReadErrorKind
from paging.stats import LATENCY_BOUNDS
from server.engine.messages import DeviceUse, Tier
from server.http.metrics.family import AnyFamily, Family, HistogramFamily, Kind, Values
from server.http.metrics.sources import Sources

_TABLE_FACTS = ("encoding", "layers", "vocab_size", "storage", "policy")
_CACHES = (Tier.DEVICE, Tier.HOST)
_SOURCES = (Tier.STORAGE, Tier.HOST)


def _by_tier(device: str, host: str) -> Callable[[Sources], Values]:
    """Return what reads two of the pager's figures, one for each tier that has slots."""
    return lambda sources: {(Tier.DEVICE,): sources.pager(device), (Tier.HOST,): sources.pager(host)}


def _of_pager(name: str) -> Callable[[Sources], Values]:
    return lambda sources: {(): sources.pager(name)}


def _row_requests(sources: Sources) -> Values:
    stats = sources.stats
    return {(): stats.row_device_hits + stats.row_host_hits + stats.row_major_faults}


def _table_info(sources: Sources) -> Values:
    if sources.info is None or not sources.info.table:
        return {}
    return {tuple(str(sources.info.table[fact]) for fact in _TABLE_FACTS): 1}


def _table_bytes(sources: Sources) -> Values:
    return {(): 0 if sources.info is None else float(sources.info.table.get("table_bytes", 0))}


def _device_memory(sources: Sources) -> Values:
    if sources.info is None:
        return {}
    return {(use,): sources.info.device_memory.get(use, 0) for use in DeviceUse}


MEMORY_FAMILIES: tuple[AnyFamily, ...] = (
    Family(
        name="tol_row_requests_total",
        kind=Kind.COUNTER,
        unit="token positions",
        text="Token positions computed, each of which needs its token's row; counted when its step has run.",
        read=_row_requests,
    ),
    Family(
        name="tol_row_hits_total",
        kind=Kind.COUNTER,
        unit="token positions",
        text="Those of them whose row was in this tier when first asked for; hits in the host tier are minor faults.",
        labels={"tier": _CACHES},
        read=lambda sources: {
            (Tier.DEVICE,): sources.stats.row_device_hits,
            (Tier.HOST,): sources.stats.row_host_hits,
        },
    ),
    Family(
        name="tol_major_faults_total",
        kind=Kind.COUNTER,
        unit="token positions",
        text="Those of them whose row was in storage only; with the hits of both tiers they are all requests.",
        read=lambda sources: {(): sources.stats.row_major_faults},
    ),
    Family(
        name="tol_read_bytes_total",
        kind=Kind.COUNTER,
        unit="bytes",
        text="Bytes of rows that came out of this tier: read from storage, or copied from the host tier to the device.",
        labels={"tier": _SOURCES},
        read=lambda sources: {
            (Tier.STORAGE,): sources.pager("bytes_read"),
            (Tier.HOST,): sources.pager("bytes_copied"),
        },
    ),
    Family(
        name="tol_evictions_total",
        kind=Kind.COUNTER,
        unit="rows",
        text="Rows that left this tier for others.",
        labels={"tier": _CACHES},
        read=_by_tier("device_evictions", "host_evictions"),
    ),
    Family(
        name="tol_prefetched_rows_total",
        kind=Kind.COUNTER,
        unit="rows",
        text="Rows read because a waiting request will need them.",
        read=_of_pager("prefetched_rows"),
    ),
    Family(
        name="tol_prefetched_rows_used_total",
        kind=Kind.COUNTER,
        unit="rows",
        text="Those of them that were still there when they were needed.",
        read=_of_pager("prefetched_used_rows"),
    ),
    Family(
        name="tol_stall_seconds_total",
        kind=Kind.COUNTER,
        unit="seconds",
        text="Time during which requests ran and no step could, for want of rows.",
        read=lambda sources: {(): sources.stats.stall_seconds},
    ),
    Family(
        name="tol_deferred_steps_total",
        kind=Kind.COUNTER,
        unit="steps",
        text="Times that a sequence sat out a step for a row on its way while others ran.",
        read=lambda sources: {(): sources.stats.deferred_steps},
    ),
    HistogramFamily(
        name="tol_fetch_seconds",
        unit="seconds",
        text="Time per row out of this tier: a read from storage from its submission to its end, a copy from the host "
        "tier to the device from its start to its publication.",
        bounds=LATENCY_BOUNDS,
        labels={"tier": _SOURCES},
        read=lambda sources: {
            (Tier.STORAGE,): sources.pager_latency("read"),
            (Tier.HOST,): sources.pager_latency("copy"),
        },
    ),
    Family(
        name="tol_read_errors_total",
        kind=Kind.COUNTER,
        unit="rows",
        text="Rows that could not be read even at the second attempt.",
        labels={"cause": tuple(ReadErrorKind)},
        read=lambda sources: {(cause,): sources.read_errors().get(cause, 0) for cause in ReadErrorKind},
    ),
    Family(
        name="tol_resident_rows",
        kind=Kind.GAUGE,
        unit="rows",
        text="Rows ready in this tier; a row may be in both.",
        labels={"tier": _CACHES},
        read=_by_tier("device_rows", "host_rows"),
    ),
    Family(
        name="tol_capacity_rows",
        kind=Kind.GAUGE,
        unit="rows",
        text="Rows that this tier has room for; in the host tier those being read included.",
        labels={"tier": _CACHES},
        read=_by_tier("device_slots", "host_slots"),
    ),
    Family(
        name="tol_capacity_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        text="Memory set aside for this tier, what reading needs for itself included where reads land in it.",
        labels={"tier": _CACHES},
        read=_by_tier("device_bytes", "host_bytes"),
    ),
    Family(
        name="tol_leased_rows",
        kind=Kind.GAUGE,
        unit="rows",
        text="Rows on the device that requests hold now, that are pinned, or that are kept for waiting requests.",
        read=_of_pager("device_leased_rows"),
    ),
    Family(
        name="tol_waiting_leases",
        kind=Kind.GAUGE,
        unit="leases",
        text="Batches of rows that are waited for.",
        read=_of_pager("waiting_leases"),
    ),
    Family(
        name="tol_reads_in_progress",
        kind=Kind.GAUGE,
        unit="rows",
        text="Rows being read from storage.",
        read=_of_pager("reads_under_way"),
    ),
    Family(
        name="tol_table_info",
        kind=Kind.GAUGE,
        unit="",
        text="Always 1; the labels say what table is served, how it is read and which policy evicts; none without one.",
        labels=dict.fromkeys(_TABLE_FACTS, ()),
        read=_table_info,
    ),
    Family(
        name="tol_table_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        text="The size of the table's rows; 0 before the engine is ready, and where there is no table.",
        read=_table_bytes,
    ),
    Family(
        name="device_memory_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        text="Memory set aside on the device, host memory where there is no GPU; there once the engine was ready.",
        labels={"use": tuple(DeviceUse)},
        read=_device_memory,
    ),
)
