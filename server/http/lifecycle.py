"""Whether the server takes requests, and how many it has: what a graceful end waits for."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.errors import queue_full, unavailable
from server.http.paths import WATCHING, route_path

_RETRY_AFTER_DRAINING = 5.0
"""Seconds after which another server may be there."""


class Lifecycle:
    """Counts open requests; turns new ones away while it drains, or when there are too many."""

    def __init__(self, *, max_open: int) -> None:
        """max_open: requests at once; the engine's queue is shorter, this bounds what has not reached it."""
        self.max_open = max_open
        self.num_open = 0
        self.is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Take no more requests."""
        self.is_draining = True

    async def wait_idle(self, timeout: float) -> bool:  # noqa: ASYNC109 a time-out is no error here
        """Wait until no request is open; return whether that came true within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def enter(self) -> None:
        """Count a request, or raise the `ApiError` for one that is not taken; `leave` ends it."""
        if self.is_draining:
            error = unavailable("the server is shutting down", retry_after=_RETRY_AFTER_DRAINING, code="draining")
            error.headers["Connection"] = "close"
            raise error
        if self.num_open >= self.max_open:
            raise queue_full(f"{self.num_open} requests are open, as many as this server takes; try again later")
        self.num_open += 1
        self._idle.clear()

    def leave(self) -> None:
        """End what `enter` began."""
        self.num_open -= 1
        if not self.num_open:
            self._idle.set()


class LifecycleMiddleware:
    """Counts every request but those of people and programs that watch the server."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it, or raise the `ApiError` for one that is not taken."""
        if scope["type"] != "http" or route_path(scope) in WATCHING:
            await self.app(scope, receive, send)
            return
        self.lifecycle.enter()
        try:
            await self.app(scope, receive, send)
        finally:
            self.lifecycle.leave()
