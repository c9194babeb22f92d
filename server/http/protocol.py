"""uvicorn's protocol with bounds on what comes before a body and on who does not read, and errors as all others are."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.http.errors import ApiError
from server.http.form import encode_json

_HEAD_SECONDS = 30.0
"""From a connection's beginning, or a request's first byte, to the end of its headers."""
_UNREAD_SECONDS = 120.0
"""For a client to read something of what it was sent, where more is there than the system buffers."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that ends when the head of a request is too long or comes too slowly, or its client reads nothing.

    Without the last, an answer that nobody fetches would be kept, and its connection open, until the client goes.
    """

    max_header_bytes: int
    """Of a request's line and headers; a subclass says it, since uvicorn makes the connections."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what uvicorn passes."""
        super().__init__(*arguments, **options)
        self._num_head_bytes = 0
        self._is_in_head = True
        self._is_head_too_large = False
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._close)
        self._num_unread_bytes = 0
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head_timer.cancel()
        self._end_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to watch whether the client reads."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        """Take note that it does."""
        self._end_unread()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._is_in_head:
            # The parser keeps a line to itself until it is whole: what it was given counts, not what it said.
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._num_head_bytes > self.max_header_bytes and not self.transport.is_closing():
            self._is_head_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._is_in_head = True
        self._head_timer.cancel()
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._close)

    def on_headers_complete(self) -> None:
        """Hand the request on, or have the parser refuse it."""
        self._is_in_head = False
        self._num_head_bytes = 0
        self._head_timer.cancel()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.max_header_bytes:
            self._is_head_too_large = True
            raise ValueError("the parser makes a refusal of this")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, or none that may come."""
        if self._is_head_too_large:
            msg = f"the request's line and headers have more than {self.max_header_bytes} bytes"
        body = encode_json(ApiError(400, msg, code="invalid_http").body)
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _watch_unread(self) -> None:
        self._num_unread_bytes = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(_UNREAD_SECONDS, self._check_unread)

    def _check_unread(self) -> None:
        if self.transport.get_write_buffer_size() < self._num_unread_bytes:
            self._watch_unread()
        else:
            self.transport.abort()

    def _end_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def bounded_protocol(max_header_bytes: int) -> type[asyncio.Protocol]:
    """Return the class for connections whose request line and headers have so many bytes at most."""
    return type("BoundedProtocol", (BoundedProtocol,), {"max_header_bytes": max_header_bytes})
