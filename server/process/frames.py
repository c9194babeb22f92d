"""Messages as frames on a stream socket: a length of four bytes, the most significant first, then msgpack.

Knows bytes and both ways of reading them, blocking and asyncio. Knows nothing of what messages say.
"""

import asyncio
import socket
import struct
from typing import TypeVar

import msgspec

from server.process.errors import FrameError

MAX_FRAME_BYTES = 256 * 2**20
"""Longest payload that is sent or accepted."""

_LENGTH = struct.Struct(">I")
_ENCODER = msgspec.msgpack.Encoder()

_Message = TypeVar("_Message")


def to_frame(message: msgspec.Struct) -> bytes:
    """Return a message with its length before it; `FrameError` if it is too long."""
    payload = _ENCODER.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(payload)} bytes; the longest is {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(payload)) + payload


def from_payload(payload: bytes, decoder: msgspec.msgpack.Decoder[_Message]) -> _Message:
    """Return the message in a payload; `FrameError` if it is none, or not one that may come here."""
    try:
        return decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(f"{len(payload)} bytes that cannot be read: {error}") from error


def receive_payload(sock: socket.socket) -> bytes | None:
    """Return the next payload; blocks. None: the other end has closed, or died, maybe in the middle of a message.

    Raises `FrameError` where none can follow.
    """
    header = _receive(sock, _LENGTH.size)
    return None if header is None else _receive(sock, _length(header))


async def read_payload(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next payload. None: the other end has closed, or died, maybe in the middle of a message.

    Raises `FrameError` where none can follow.
    """
    try:
        return await reader.readexactly(_length(await reader.readexactly(_LENGTH.size)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _length(header: bytes) -> int:
    length: int = _LENGTH.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {length} bytes is announced; the longest is {MAX_FRAME_BYTES}")
    return length


def _receive(sock: socket.socket, length: int) -> bytes | None:
    """Return `length` bytes, None where the other end closes before."""
    buffer = bytearray(length)
    view, filled = memoryview(buffer), 0
    while filled < length:
        try:
            received = sock.recv_into(view[filled:])
        except ConnectionError:
            received = 0
        if not received:
            return None
        filled += received
    return bytes(buffer)
