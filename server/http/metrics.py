"""The engine's figures in the words of Prometheus, read when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.engine.messages import EngineStats
from server.process.client import EngineClient, EngineState

_GAUGES = {
    "requests_running": "Requests that are being generated.",
    "requests_waiting": "Requests in the queue.",
    "requests_deferred": "Running requests that sat out the last step for a row on its way.",
    "kv_blocks": "Blocks for keys and values.",
    "kv_blocks_used": "Blocks that sequences hold.",
    "resident_bytes": "Host memory of the engine's process, mapped files included as far as they are in memory.",
}
_COUNTERS = {
    "prompt_tokens": "Prompt tokens of requests that have begun.",
    "cached_prompt_tokens": "Prompt tokens whose keys and values were there already.",
    "generation_tokens": "Tokens generated.",
    "preemptions": "Sequences that gave their place up to others.",
    "steps": "Steps of the engine.",
    "deferred_steps": "Times that a sequence sat out a step.",
    "stall_seconds": "Time during which nothing could run for want of rows.",
}
_TOL_GAUGES = {
    "device_slots": "Rows that the device tier has room for.",
    "device_rows": "Rows ready on the device.",
    "device_leased_rows": "Rows on the device that running requests hold, or that are kept for waiting ones.",
    "host_slots": "Rows that the host tier has room for, those being read included.",
    "host_rows": "Rows ready in the host tier.",
    "waiting_leases": "Batches of rows that are waited for.",
    "reads_under_way": "Rows being read from storage.",
}
_TOL_COUNTERS = {
    "device_hits": "Rows found on the device.",
    "host_hits": "Rows found in the host tier: minor faults.",
    "major_faults": "Rows that had to be read from storage.",
    "bytes_read": "Bytes read from storage.",
}


class EngineCollector(Collector):
    """Turns the latest `EngineStats` into metrics; none of the engine's before its first one."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        engine = self._engine
        yield _gauge("engine_up", "Whether the engine takes requests.", engine.state is EngineState.READY)
        yield _counter("engine_restarts", "Times that the engine was started again.", engine.num_restarts)
        if engine.stats is not None:
            yield from _of_stats(engine.stats)


def _of_stats(stats: EngineStats) -> Iterator[Metric]:
    for name, text in _GAUGES.items():
        yield _gauge(name, text, getattr(stats, name))
    for name, text in _COUNTERS.items():
        yield _counter(name, text, getattr(stats, name))
    for make, texts in ((_gauge, _TOL_GAUGES), (_counter, _TOL_COUNTERS)):
        for name, text in texts.items():
            value = stats.memory.get(name)
            if isinstance(value, int | float):
                yield make(f"tol_{name}", text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tolbooth_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"tolbooth_{name}", text, value=value)
