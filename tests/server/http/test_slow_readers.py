"""Connections whose client does not read what it asked for."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from server.http import protocol
from server.http.protocol import bounded_protocol

pytestmark = pytest.mark.anyio
PATIENCE = 30.0


class UnreadTransport(asyncio.Transport):
    """A connection with bytes that its client has not taken."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 10**6
        self.num_taken = 0
        """Bytes that the client takes between one look at it and the next."""
        self.was_asked, self.was_aborted = asyncio.Event(), asyncio.Event()

    def get_write_buffer_size(self):
        self.was_asked.set()
        self.num_bytes -= self.num_taken
        return self.num_bytes

    def abort(self):
        self.was_aborted.set()

    def is_closing(self):
        return self.was_aborted.is_set()

    def close(self):
        """Nothing is closed while bytes are to be sent."""


@pytest.fixture
def transport():
    return UnreadTransport()


@pytest.fixture
async def connection(transport, monkeypatch):
    monkeypatch.setattr(protocol, "_UNREAD_SECONDS", 0.01)
    config = uvicorn.Config(print, log_config=None, lifespan="off", ws="none")
    connection = bounded_protocol(1000)(config, ServerState(), {})
    connection.connection_made(transport)
    yield connection
    connection.connection_lost(None)


async def test_who_reads_nothing_is_cut_off(connection, transport):
    connection.pause_writing()
    async with asyncio.timeout(PATIENCE):
        await transport.was_aborted.wait()


async def test_who_reads_slowly_is_not(connection, transport):
    transport.num_taken = 1
    connection.pause_writing()
    for _ in range(5):
        transport.was_asked.clear()
        async with asyncio.timeout(PATIENCE):
            await transport.was_asked.wait()
    assert not transport.was_aborted.is_set()


async def test_who_has_read_enough_is_not_watched_any_more(connection, transport):
    connection.pause_writing()
    connection.resume_writing()
    assert connection._unread_timer.cancelled()


async def test_a_lost_connection_is_not_watched_any_more(connection, transport):
    connection.pause_writing()
    connection.connection_lost(None)
    assert connection._unread_timer.cancelled()
