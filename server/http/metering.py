"""The layer that counts requests when they have ended."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.metrics.sources import ServerMetrics
from server.http.record import Record, record_of


class MeteringMiddleware:
    """Counts every request by route and status, and what came of those that asked for text."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it when it has ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status: int | None = None

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        route = self.metrics.routes.template_of(scope)
        try:
            await self.app(scope, receive, watch)
        finally:
            self.metrics.routes.note(route, status)
            self._note_end(record_of(scope))

    def _note_end(self, record: Record) -> None:
        requests, generation, pace = self.metrics.requests, record.generation, record.pace
        if record.error is not None:
            requests.note_error(record.error.label)
        if generation is None or pace is None:
            return
        for timing in generation.timings:
            requests.note_timing(timing)
        reason = generation.finish_reason
        if record.error is None and record.outcome is None and reason is not None:
            requests.note_success(
                reason,
                e2e_seconds=time.perf_counter() - record.began,
                decode_seconds=pace.decode_seconds,
                prompt_tokens=generation.num_prompt_tokens,
                generation_tokens=generation.num_completion_tokens,
            )
