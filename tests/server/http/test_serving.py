"""A whole server on a socket of its own, with signals, over an engine in this process."""

import asyncio
import contextlib
import os
import signal

import httpx
import pytest

from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.http.listening import base_url, close_socket, open_socket
from server.http.serving import Serving
from server.process.client import EngineState
from server.process.errors import EngineFatalError
from tests.server.http.conftest import error_of, frames_of, load_model

pytestmark = pytest.mark.anyio
PATIENCE = 30.0


class Running:
    """A server that runs."""

    def __init__(self, config, model, engine, listener):
        self.url = base_url(config, listener)
        self.ready, self.draining = asyncio.Event(), asyncio.Event()
        self.serving = Serving(
            config,
            model,
            engine,
            listener,
            on_ready=lambda _info: self.ready.set(),
            on_drain=lambda _num_open: self.draining.set(),
        )
        self.task = asyncio.create_task(self.serving.run())

    async def end(self):
        async with asyncio.timeout(PATIENCE):
            return await self.task


@pytest.fixture
async def serve(engine, chat_model):
    """Starts servers; they are stopped at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**options):
            options = {"port": 0} | options
            config = ServerConfig(engine=EngineConfig(model=str(chat_model)), **options)
            listener = open_socket(config)
            stack.callback(close_socket, config, listener)
            running = Running(config, load_model(chat_model), engine, listener)

            async def stop():
                if not running.task.done():
                    running.serving._on_signal()
                    running.serving._on_signal()
                await asyncio.wait({running.task}, timeout=PATIENCE)

            stack.push_async_callback(stop)
            async with asyncio.timeout(PATIENCE):
                await (running.ready if engine.is_ready.is_set() else engine.was_started).wait()
            return running

        yield start


@pytest.fixture
async def http():
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        yield client


def stream_of(http, running):
    return http.stream("POST", f"{running.url}/v1/completions", json={"prompt": "x", "stream": True})


async def test_it_serves(serve, http):
    running = await serve()
    response = await http.post(f"{running.url}/v1/completions", json={"prompt": "x"})
    assert 16 == response.json()["usage"]["completion_tokens"]


async def test_it_listens_before_it_has_loaded(serve, http, engine):
    engine.is_ready.clear()
    engine.state = EngineState.STARTING
    running = await serve()
    assert 503 == (await http.get(f"{running.url}/health")).status_code
    response = await http.post(f"{running.url}/v1/completions", json={"prompt": "x"})
    assert "3" == response.headers["retry-after"]
    assert not running.ready.is_set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it(serve, engine, number):
    running = await serve()
    os.kill(os.getpid(), number)
    assert await running.end()
    assert engine.is_stopped


async def test_a_signal_ends_it_while_it_loads(serve, engine):
    engine.is_ready.clear()
    running = await serve()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running.end()


async def test_after_a_signal_open_requests_end_and_new_ones_are_refused(serve, http, engine):
    running = await serve()
    engine.gate.clear()
    first = asyncio.create_task(http.post(f"{running.url}/v1/completions", json={"prompt": "x"}))
    await engine.submitted.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await running.draining.wait()
    error_of(await http.post(f"{running.url}/v1/completions", json={"prompt": "x"}), 503)
    health = await http.get(f"{running.url}/health")
    assert (503, "draining") == (health.status_code, health.json()["status"])
    engine.gate.set()
    assert 200 == (await first).status_code
    assert await running.end()


async def test_requests_that_do_not_end_in_time_end_with_an_error(serve, http, engine):
    engine.holds_after = 1
    running = await serve(shutdown_timeout=0.05)
    async with stream_of(http, running) as response:
        os.kill(os.getpid(), signal.SIGTERM)
        await response.aread()
    assert "engine_died" == frames_of(response)[-1]["error"]["code"]
    assert not await running.end()


async def test_a_second_signal_waits_for_nothing(serve, http, engine):
    engine.holds_after = 1
    running = await serve(shutdown_timeout=10_000)
    async with stream_of(http, running) as response:
        os.kill(os.getpid(), signal.SIGTERM)
        await running.draining.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        assert not await running.end()
        with contextlib.suppress(httpx.TransportError):
            await response.aread()


async def test_an_engine_that_cannot_be_loaded_ends_it(serve, engine):
    async def fail(timeout):  # noqa: ASYNC109 as the client has it
        raise EngineFatalError("the table is of another model")

    engine.wait_ready = fail
    engine.is_ready.clear()
    running = await serve()
    with pytest.raises(EngineFatalError, match="another model"):
        await running.end()


async def test_an_engine_that_does_not_come_back_ends_it(serve, engine):
    running = await serve()
    engine.failure, engine.state = "the table is gone", EngineState.STOPPED
    with pytest.raises(EngineFatalError, match="the table is gone"):
        await running.end()


async def test_it_serves_at_a_unix_socket(serve, tmp_path):
    path = tmp_path / "s"
    await serve(uds=str(path))
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        assert 200 == (await client.get("http://toy/health")).status_code
