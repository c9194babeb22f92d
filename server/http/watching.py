"""`GET /health`, `/version` and `/metrics`: for those who watch the server."""

import importlib.metadata

from fastapi import APIRouter
from msgspec import UNSET, UnsetType
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from starlette.responses import Response

from server.engine.messages import Progress
from server.http.metrics.collector import MetricsCollector
from server.http.openapi import describe
from server.http.paths import METRICS
from server.http.responses import Health, Loading, Version
from server.http.service import Service, json_response
from server.process.client import EngineState

_STATS_SECONDS = 1.0
"""What a scrape waits for new figures; then it takes the last ones."""


def watching_router(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(service.config, service.engine, service.metrics))

    @router.get("/health", **describe("Tell whether requests are served now.", None, Health))
    async def health() -> Response:
        state = "draining" if service.lifecycle.is_draining else str(service.engine.state)
        is_ready = state == EngineState.READY
        health = Health(status=state, model=service.model.names[0], loading=_loading(service.engine.progress))
        return json_response(health, 200 if is_ready else 503)

    @router.get("/version", **describe("Tell the server's version.", None, Version))
    async def version() -> Response:
        return json_response(Version(version=importlib.metadata.version("tolbooth")))

    @router.get(METRICS, **describe("Tell the server's figures, for Prometheus.", None, None))
    async def metrics() -> Response:
        if service.engine.state is EngineState.READY:
            await service.engine.refresh_stats(_STATS_SECONDS)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def _loading(progress: Progress | None) -> Loading | UnsetType:
    if progress is None:
        return UNSET
    return Loading(phase=progress.phase, fraction=round(progress.done / max(progress.total, 1), 3))
