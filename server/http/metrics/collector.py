"""All families, and a scrape of them."""

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from server.config import ServerConfig
from server.engine.messages import EngineStats
from server.http.metrics.memory import MEMORY_FAMILIES
from server.http.metrics.serving import SERVING_FAMILIES
from server.http.metrics.sources import ServerMetrics, Sources
from server.process.client import EngineClient

FAMILIES = (*MEMORY_FAMILIES, *SERVING_FAMILIES)

_NOTHING = EngineStats()


class MetricsCollector(Collector):
    """Reads every family from the engine's latest snapshot and from what this process has counted."""

    def __init__(self, config: ServerConfig, engine: EngineClient, counted: ServerMetrics) -> None:
        self._config = config
        self._engine = engine
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        """Yield every family, whether or not there is an engine."""
        engine = self._engine
        sources = Sources(
            config=self._config,
            engine=engine,
            stats=engine.stats or _NOTHING,
            info=engine.info,
            counted=self._counted,
        )
        for family in FAMILIES:
            yield family.metric(sources)
