"""Statistics across engines."""

import msgspec

from paging.stats import PagerStats
from server.engine.messages import EngineStats
from server.process.totals import StatsTotals

GAUGES = {
    "device_slots",
    "device_rows",
    "device_leased_rows",
    "host_slots",
    "host_rows",
    "waiting_leases",
    "reads_under_way",
}


def stats(**others):
    zeros = dict.fromkeys(EngineStats.__struct_fields__, 0) | {"batch_sizes": [], "memory": {}}
    return EngineStats(**(zeros | others))


def test_before_the_first_snapshot_there_is_nothing():
    totals = StatsTotals()
    totals.end_engine()
    assert totals.latest is None


def test_the_first_engines_snapshot_is_the_total():
    totals = StatsTotals()
    totals.update(stats(steps=3))
    assert stats(steps=3) == totals.latest


def test_counters_add_up_and_gauges_are_the_live_engines():
    totals = StatsTotals()
    totals.update(stats(steps=3, requests_running=2, kv_blocks=9, batch_sizes=[1, 2]))
    totals.end_engine()
    assert stats(steps=3, batch_sizes=[1, 2]) == totals.latest
    totals.update(stats(steps=4, requests_running=1, kv_blocks=8, batch_sizes=[1, 0, 5]))
    assert stats(steps=7, requests_running=1, kv_blocks=8, batch_sizes=[2, 2, 5]) == totals.latest


def test_the_memorys_counters_add_up_too():
    totals = StatsTotals()
    totals.update(stats(memory={"device_hits": 5, "device_rows": 7, "read_latency_counts": [1, 2]}))
    totals.end_engine()
    totals.update(stats(memory={"device_hits": 1, "device_rows": 3, "read_latency_counts": [0, 1]}))
    assert {"device_hits": 6, "device_rows": 3, "read_latency_counts": [1, 3]} == totals.latest.memory


def test_an_end_without_a_snapshot_counts_nothing_twice():
    totals = StatsTotals()
    totals.update(stats(steps=3))
    totals.end_engine()
    totals.end_engine()
    assert 3 == totals.latest.steps


def test_every_size_of_the_pager_is_a_gauge():
    names = PagerStats.__dataclass_fields__
    pager = dict.fromkeys(names, 1)
    totals = StatsTotals()
    totals.update(stats(memory=pager))
    totals.end_engine()
    assert {name for name, value in totals.latest.memory.items() if value == 0} == GAUGES & set(names)
    assert msgspec.structs.asdict(totals.latest)["memory"].keys() == names.keys()
