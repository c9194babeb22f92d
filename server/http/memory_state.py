"""The memory's state in the words of `GET /v1/memory`, from what the engine is and what it counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from server.engine.messages import DeviceUse, EngineInfo, EngineStats
from server.engine.questions import RowWishesState
from server.http.memory_messages import (
    MemoryRates,
    MemoryState,
    MemoryTotals,
    PinState,
    RequestState,
    TableFacts,
    TierState,
)
from server.process.recent_stats import Before

_NO_STORAGE = "none"


def is_paged(info: EngineInfo) -> bool:
    """Whether the model's rows are kept in slots by the pager."""
    return info.table.get("storage", _NO_STORAGE) != _NO_STORAGE


def memory_state(
    model: str, info: EngineInfo, stats: EngineStats, before: Before | None, wishes: RowWishesState | None
) -> MemoryState:
    """Return everything in one answer; wishes: None where nothing is paged."""
    table, paged = _table_facts(info), is_paged(info)
    kept_off = None if table is None else max(0, table.bytes - info.device_memory.get(DeviceUse.TOL_CACHE, 0))
    return MemoryState(
        model=model,
        device=info.device,
        memory="paged" if paged else info.granted.get("memory", "not paged"),
        policy=str(info.table["policy"]) if paged else None,
        storage=str(info.table["storage"]) if paged else None,
        table=table,
        kept_off_device_bytes=kept_off,
        device_bytes={str(use): num_bytes for use, num_bytes in info.device_memory.items()},
        tiers=_tiers(stats.memory, table) if paged and table is not None else [],
        pins=None if wishes is None else pin_state(wishes),
        rates=_rates(stats, before),
        totals=_totals(stats),
        requests=RequestState(
            running=stats.requests_running,
            waiting=stats.requests_waiting,
            deferred=stats.requests_deferred,
            most_running=info.max_num_seqs,
        ),
    )


def pin_state(wishes: RowWishesState) -> PinState:
    """Return what the engine says of pins and warming as clients read it."""
    return PinState(
        rows=wishes.num_pinned,
        waiting=wishes.num_pins_waiting,
        warming=wishes.num_warming,
        leasable_rows=wishes.leasable_rows,
        failure=wishes.failure,
    )


def _table_facts(info: EngineInfo) -> TableFacts | None:
    if not info.table:
        return None
    return TableFacts(
        encoding=str(info.table["encoding"]),
        layers=int(info.table["layers"]),
        vocab_size=int(info.table["vocab_size"]),
        row_bytes=int(info.table["row_bytes"]),
        bytes=int(info.table["table_bytes"]),
    )


def _tiers(memory: Mapping[str, Any], table: TableFacts) -> list[TierState]:
    device, host = (
        TierState(
            tier=tier,
            rows=whole(memory, f"{tier}_rows"),
            capacity_rows=whole(memory, f"{tier}_slots"),
            bytes=whole(memory, f"{tier}_bytes"),
            leased_rows=whole(memory, f"{tier}_leased_rows"),
        )
        for tier in ("device", "host")
    )
    storage = TierState(
        tier="storage", rows=table.vocab_size, capacity_rows=table.vocab_size, bytes=table.bytes, leased_rows=0
    )
    return [device, host, storage]


def _totals(stats: EngineStats) -> MemoryTotals:
    memory = stats.memory
    errors = memory.get("read_errors_by_cause", {})
    return MemoryTotals(
        row_requests=stats.row_device_hits + stats.row_host_hits + stats.row_major_faults,
        device_hits=stats.row_device_hits,
        host_hits=stats.row_host_hits,
        major_faults=stats.row_major_faults,
        read_bytes=whole(memory, "bytes_read"),
        device_evictions=whole(memory, "device_evictions"),
        host_evictions=whole(memory, "host_evictions"),
        prefetched_rows=whole(memory, "prefetched_rows"),
        prefetched_rows_used=whole(memory, "prefetched_used_rows"),
        read_errors=sum(errors.values()) if isinstance(errors, Mapping) else 0,
        stall_seconds=stats.stall_seconds,
        prompt_tokens=stats.prompt_tokens,
        generation_tokens=stats.generation_tokens,
    )


def _rates(stats: EngineStats, before: Before | None) -> MemoryRates:
    totals = _totals(stats)
    earlier = totals if before is None else _totals(before.stats)
    seconds = 0.0 if before is None else before.seconds

    def gained(*names: str) -> float:
        return float(sum(getattr(totals, name) - getattr(earlier, name) for name in names))

    def rate(*names: str) -> float:
        return gained(*names) / seconds if seconds else 0.0

    requests = gained("row_requests")
    return MemoryRates(
        seconds=seconds,
        hit_rate=gained("device_hits", "host_hits") / requests if requests else None,
        device_hit_rate=gained("device_hits") / requests if requests else None,
        row_requests=rate("row_requests"),
        major_faults=rate("major_faults"),
        read_bytes=rate("read_bytes"),
        evictions=rate("device_evictions", "host_evictions"),
        prompt_tokens=rate("prompt_tokens"),
        generation_tokens=rate("generation_tokens"),
        stall_share=min(1.0, rate("stall_seconds")),
    )


def whole(memory: Mapping[str, float | Sequence[int] | Mapping[str, int]], name: str) -> int:
    """Return one of the pager's figures, 0 where nothing is paged; as a number it has crossed the socket as a float."""
    value = memory.get(name, 0)
    return int(value) if isinstance(value, int | float) else 0
