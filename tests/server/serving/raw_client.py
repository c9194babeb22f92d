"""HTTP as bytes on a connection, for clients that do what no library would."""

import asyncio
import json
from typing import NamedTuple

from tests.server.serving.server_process import PATIENCE


class Response(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def error(self):
        """The error in the body, which must be as every error's."""
        error = json.loads(self.body)["error"]
        assert {"message", "type", "param", "code"} == error.keys()
        return error


def post(body, *headers, path="/v1/completions"):
    """Return the bytes of a request; a body that is not bytes is sent as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: toy", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def connect(server, **options):
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(PATIENCE):
        return await asyncio.open_connection(host, int(port), **options)


async def read_response(reader):
    """Read one answer of a known length."""
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
    return Response(int(first.split()[1]), headers, body)


async def ask(server, request):
    """Send one request on a connection of its own and return the answer."""
    reader, writer = await connect(server)
    try:
        writer.write(request)
        return await read_response(reader)
    finally:
        writer.close()
