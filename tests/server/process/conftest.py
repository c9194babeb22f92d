"""Clients of an engine that counts, in a process of its own."""

import contextlib
import sys
from pathlib import Path

import pytest

from server.engine.config import EngineConfig
from server.process.client import Backoff, EngineClient

PATIENCE = 30.0
"""Seconds that a test waits for what must happen, before it fails."""

WORKER = Path(__file__).parent / "counting_worker.py"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def control(tmp_path):
    """The folder by which an engine is told how to behave, and tells what it did."""
    return tmp_path


@pytest.fixture
async def clients(control):
    """Makes clients of the counting engine; they are stopped at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def make(model="well", **options):
            options = {"backoff": Backoff(first=0.01, longest=0.02), "shutdown_timeout": PATIENCE} | options
            command = options.pop("command", (sys.executable, str(WORKER), str(control)))
            client = EngineClient(EngineConfig(model=model), command=command, **options)
            stack.push_async_callback(client.stop, timeout=0)
            return client

        yield make


@pytest.fixture(params=["well", "beside"])
async def client(clients, request):
    """A client whose engine is ready; one that works on its own thread, or beside it."""
    client = clients(request.param)
    await client.start()
    await client.wait_ready(PATIENCE)
    return client
