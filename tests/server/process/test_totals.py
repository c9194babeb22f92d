"""Statistics across engines."""

import msgspec

from paging.stats import PagerStats
from server.engine.messages import EngineStats
from server.process.totals import StatsTotals

ENGINE_COUNTERS = {
    "prompt_tokens",
    "cached_prompt_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "generation_tokens",
    "preemptions",
    "steps",
    "deferred_steps",
    "stall_seconds",
    "batch_sizes",
    "batch_sizes_sum",
    "row_device_hits",
    "row_host_hits",
    "row_major_faults",
}
PAGER_COUNTERS = {
    "row_requests",
    "device_hits",
    "host_hits",
    "major_faults",
    "bytes_read",
    "bytes_copied",
    "device_evictions",
    "host_evictions",
    "prefetched_rows",
    "prefetched_used_rows",
    "read_latency_counts",
    "read_latency_sum",
    "copy_latency_counts",
    "copy_latency_sum",
    "stall_seconds",
    "read_errors_by_cause",
}


def test_before_the_first_snapshot_there_is_nothing():
    totals = StatsTotals()
    totals.end_engine()
    assert totals.latest is None


def test_the_first_engines_snapshot_is_the_total():
    totals = StatsTotals()
    totals.update(EngineStats(steps=3))
    assert EngineStats(steps=3) == totals.latest


def test_counters_add_up_and_gauges_are_the_live_engines():
    totals = StatsTotals()
    totals.update(EngineStats(steps=3, requests_running=2, kv_blocks=9, batch_sizes=[1, 2]))
    totals.end_engine()
    assert EngineStats(steps=3, batch_sizes=[1, 2]) == totals.latest
    totals.update(EngineStats(steps=4, requests_running=1, kv_blocks=8, batch_sizes=[1, 0, 5]))
    assert EngineStats(steps=7, requests_running=1, kv_blocks=8, batch_sizes=[2, 2, 5]) == totals.latest


def test_the_memorys_counters_add_up_too():
    totals = StatsTotals()
    totals.update(
        EngineStats(memory={"device_hits": 5, "device_rows": 7, "read_latency_counts": [1, 2], "errors": {"io": 1}})
    )
    totals.end_engine()
    totals.update(
        EngineStats(memory={"device_hits": 1, "device_rows": 3, "read_latency_counts": [0, 1], "errors": {"io": 2}})
    )
    expected = {"device_hits": 6, "device_rows": 3, "read_latency_counts": [1, 3], "errors": {"io": 3}}
    assert expected == totals.latest.memory


def test_an_end_without_a_snapshot_counts_nothing_twice():
    totals = StatsTotals()
    totals.update(EngineStats(steps=3))
    totals.end_engine()
    totals.end_engine()
    assert 3 == totals.latest.steps


def test_all_that_a_pager_counts_is_kept_and_nothing_else():
    totals = StatsTotals()
    totals.update(EngineStats(memory=dict.fromkeys(PagerStats.__dataclass_fields__, 1)))
    totals.end_engine()
    assert PAGER_COUNTERS == {name for name, value in totals.latest.memory.items() if value}


def test_all_that_an_engine_counts_is_kept_and_nothing_else():
    totals = StatsTotals()
    totals.update(EngineStats(**dict.fromkeys(set(EngineStats.__struct_fields__) - {"memory"}, 1)))
    totals.end_engine()
    kept = {name for name, value in msgspec.structs.asdict(totals.latest).items() if value}
    assert ENGINE_COUNTERS == kept
