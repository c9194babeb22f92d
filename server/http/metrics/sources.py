"""Where the values of metrics come from, at the moment of one scrape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paging.stats import LATENCY_BOUNDS
from server.config import ServerConfig
from server.engine.messages import EngineInfo, EngineStats
from server.http.metrics.distribution import Distribution
from server.http.metrics.requests import RequestMetrics
from server.http.metrics.routes import RouteMetrics
from server.process.client import EngineClient


@dataclass(frozen=True, kw_only=True)
class ServerMetrics:
    """What is counted in this process."""

    requests: RequestMetrics = field(default_factory=RequestMetrics)
    routes: RouteMetrics = field(default_factory=RouteMetrics)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All that a scrape reads; every value of the engine's is of one snapshot."""

    config: ServerConfig
    engine: EngineClient
    stats: EngineStats
    """All zeros before the engine's first snapshot."""
    info: EngineInfo | None
    """None before the engine was ready for the first time."""
    counted: ServerMetrics

    def pager(self, name: str) -> float:
        """Return a figure of the pager, 0 where nothing is paged."""
        value = self.stats.memory.get(name, 0)
        assert isinstance(value, int | float)
        return value

    def pager_latency(self, name: str) -> Distribution:
        """Return the distribution that the pager keeps of its reads or its copies."""
        counts = self.stats.memory.get(f"{name}_latency_counts", ())
        assert isinstance(counts, Sequence)
        return Distribution(LATENCY_BOUNDS, counts, self.pager(f"{name}_latency_sum"))

    def read_errors(self) -> Mapping[str, int]:
        """Return the rows that could not be read, by cause; none where nothing is paged."""
        errors = self.stats.memory.get("read_errors_by_cause", {})
        assert isinstance(errors, Mapping)
        return errors
