"""What happens on a connection: clients that go, that are slow, that say too much or no HTTP."""

import asyncio
import json

import pytest

from server.http import body as body_module
from server.http import protocol
from tests.server.http.test_serving import PATIENCE, http, serve  # noqa: F401 fixtures

pytestmark = pytest.mark.anyio


def post(path, body, *headers):
    lines = [f"POST {path} HTTP/1.1", "host: toy", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
async def connect(serve):  # noqa: F811 a fixture
    """Opens connections to a server."""
    writers = []

    async def open_connection(**options):
        running = await serve(**options)
        port = int(running.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield open_connection
    for writer in writers:
        writer.close()


async def rest(reader):
    async with asyncio.timeout(PATIENCE):
        return await reader.read()


async def refusal(reader):
    head, _, body = (await rest(reader)).partition(b"\r\n\r\n")
    assert b"HTTP/1.1 400 Bad Request" == head.partition(b"\r\n")[0]
    return json.loads(body)["error"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_takes_its_request_along(connect, engine, stream):
    _, writer = await connect()
    engine.gate.clear()
    writer.write(post("/v1/completions", json.dumps({"prompt": "x", "stream": stream}).encode()))
    async with asyncio.timeout(PATIENCE):
        await engine.submitted.wait()
        writer.close()
        await engine.abort_came.wait()
    assert [(engine.requests[0].request_id, None)] == engine.aborted


async def test_a_client_that_goes_in_the_middle_of_a_stream_takes_it_along(connect, engine):
    reader, writer = await connect()
    engine.holds_after = 1
    writer.write(post("/v1/completions", b'{"prompt": ["x", "y"], "n": 2, "stream": true}'))
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"data: ")
        writer.close()
        while len(engine.aborted) < 2:
            engine.abort_came.clear()
            await engine.abort_came.wait()
    assert {(request.request_id, None) for request in engine.requests} == set(engine.aborted)


async def test_a_connection_is_kept(connect):
    reader, writer = await connect()
    for _ in range(2):
        writer.write(b"GET /version HTTP/1.1\r\nhost: toy\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
            await reader.readuntil(b"}")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /version HTTP/1.1\r\nhost: toy\r\nx: " + b"y" * 2000 + b"\r\n\r\n",
        b"GET /version HTTP/1.1\r\nhost: toy\r\n" + b"x: y\r\n" * 400 + b"\r\n",
        b"GET /version?" + b"x" * 2000,
        b"GET /version HTTP/1.1\r\nx: " + b"y" * 2000,
    ],
)
async def test_headers_are_limited(connect, head):
    reader, writer = await connect(max_header_bytes=1000)
    writer.write(head)
    error = await refusal(reader)
    assert ("invalid_http", True) == (error["code"], "more than 1000 bytes" in error["message"])


async def test_headers_of_later_requests_are_limited_too(connect):
    reader, writer = await connect(max_header_bytes=1000)
    writer.write(b"GET /version HTTP/1.1\r\nhost: toy\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"}")
    writer.write(b"GET /version HTTP/1.1\r\nx: " + b"y" * 2000 + b"\r\n\r\n")
    assert "invalid_http" == (await refusal(reader))["code"]


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\r\n\r\n"])
async def test_what_is_no_http_is_told_so(connect, nonsense):
    reader, writer = await connect()
    writer.write(nonsense)
    assert "invalid_http" == (await refusal(reader))["code"]


@pytest.mark.parametrize("beginning", [b"", b"GET /version HTTP/1.1\r\nho"])
async def test_a_head_that_does_not_come_ends_the_connection(connect, monkeypatch, beginning):
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.05)
    reader, writer = await connect()
    writer.write(beginning)
    assert b"" == await rest(reader)


async def test_a_body_that_does_not_come_is_told_so(connect, monkeypatch):
    monkeypatch.setattr(body_module, "_SECONDS", 0.05)
    reader, writer = await connect()
    writer.write(post("/v1/completions", b'{"prompt": "x"}')[:-5])
    assert "incomplete_body" == (await refusal(reader))["code"]


async def test_a_body_in_pieces_is_one_body(connect):
    reader, writer = await connect()
    for byte in post("/v1/completions", b'{"prompt": "x"}', "connection: close"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert b"HTTP/1.1 200 OK" == (await rest(reader)).partition(b"\r\n")[0]
