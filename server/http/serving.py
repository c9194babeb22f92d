"""A server from its first moment to its last: it listens, the engine loads, requests are served, signals end it.

| event                | what happens                                                                              |
|----------------------|-------------------------------------------------------------------------------------------|
| loading              | `/health` and requests get a 503                                                          |
| first SIGTERM/SIGINT | new requests and `/health` get a 503; open ones have `shutdown_timeout` seconds to end    |
| after that           | what is still open ends with an error event; the engine and the connections are closed    |
| a second signal      | the same, at once                                                                         |
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from server.config import ServerConfig
from server.engine.messages import EngineInfo
from server.http.app import create_app
from server.http.lifecycle import Lifecycle
from server.http.protocol import bounded_protocol
from server.http.served_model import ServedModel
from server.http.service import Service
from server.process.client import EngineClient, EngineState
from server.process.errors import EngineFatalError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CLOSE_SECONDS = 5
"""For connections to close when every request has ended."""
_HASTY_SECONDS = 2.0
"""For the engine to go when a second signal came; its process ends by itself when it finds itself alone."""
_WATCH_SECONDS = 0.5


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """One run of a server over a socket that listens already."""

    def __init__(
        self,
        config: ServerConfig,
        model: ServedModel,
        engine: EngineClient,
        listener: socket.socket,
        *,
        on_ready: Callable[[EngineInfo], None],
        on_drain: Callable[[int], None],
    ) -> None:
        """on_ready: called when requests are served. on_drain: called with the requests still open at the end."""
        self._config = config
        self._engine = engine
        self._listener = listener
        self._on_ready = on_ready
        self._on_drain = on_drain
        # What runs holds no place in the queue; and a sequence that sits out holds its request, but no lane.
        self._lifecycle = Lifecycle(max_open=config.engine.max_waiting + 2 * config.engine.max_num_seqs)
        service = Service(config=config, model=model, engine=engine, lifecycle=self._lifecycle)
        self._http = _HttpServer(_uvicorn_config(create_app(service), config))
        self._asked_to_end = asyncio.Event()
        self._told_to_stop = asyncio.Event()

    async def run(self) -> bool:
        """Serve until a signal comes; return whether every request could end.

        Raises `EngineFatalError` where the engine cannot be loaded or does not come back, `EngineUnavailableError`
        where it takes longer to load than `load_timeout`.
        """
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        http = asyncio.create_task(self._http.serve(sockets=[self._listener]))
        try:
            await self._engine.start()
            await self._first(http, self._live())
            return await self._end()
        finally:
            await self._close(http)
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._asked_to_end.is_set():
            self._told_to_stop.set()
            self._http.force_exit = True
        self._asked_to_end.set()

    async def _live(self) -> None:
        """Load, then serve for as long as there is an engine that can come back."""
        self._on_ready(await self._engine.wait_ready(self._config.load_timeout))
        while self._engine.state is not EngineState.STOPPED:  # noqa: ASYNC110 the client tells nobody
            await asyncio.sleep(_WATCH_SECONDS)
        raise EngineFatalError(self._engine.failure or "the engine has stopped")

    async def _first(self, http: asyncio.Task[None], life: "asyncio._CoroutineLike[None]") -> None:
        """Wait for a signal; raise what ends the server before one comes."""
        living, asked = asyncio.create_task(life), asyncio.create_task(self._asked_to_end.wait())
        try:
            done, _ = await asyncio.wait({http, living, asked}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (living, asked):
                task.cancel()
            await asyncio.gather(living, asked, return_exceptions=True)

    async def _end(self) -> bool:
        """Let open requests end, as long as they may."""
        self._lifecycle.drain()
        self._on_drain(self._lifecycle.num_open)
        idle = asyncio.create_task(self._lifecycle.wait_idle(self._config.shutdown_timeout))
        stop = asyncio.create_task(self._told_to_stop.wait())
        await asyncio.wait({idle, stop}, return_when=asyncio.FIRST_COMPLETED)
        ended = idle.done() and idle.result()
        for task in (idle, stop):
            task.cancel()
        await asyncio.gather(idle, stop, return_exceptions=True)
        return ended

    async def _close(self, http: asyncio.Task[None]) -> None:
        """End what is left of the requests, the engine's process and the connections."""
        stopping = asyncio.create_task(self._engine.stop(0))
        stop = asyncio.create_task(self._told_to_stop.wait())
        await asyncio.wait({stopping, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await asyncio.wait({stopping}, timeout=_HASTY_SECONDS)
        for task in (stopping, stop):
            task.cancel()
        self._http.should_exit = True
        await asyncio.gather(stopping, stop, http, return_exceptions=True)


def _uvicorn_config(app: FastAPI, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bounded_protocol(config.max_header_bytes),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
