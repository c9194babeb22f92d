"""Messages across a socket, whole or not at all."""

import asyncio
import socket
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.messages import Abort, Fatal
from server.process import frames
from server.process.errors import FrameError
from server.process.frames import from_payload, read_payload, receive_payload, to_frame
from server.process.messages import FromEngine, ToEngine


@pytest.fixture
def sockets():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(30)
        yield ours, theirs


def read_all(stream):
    """All payloads of a byte stream, as asyncio reads them."""

    async def read():
        reader = asyncio.StreamReader()
        reader.feed_data(stream)
        reader.feed_eof()
        payloads = []
        while (payload := await read_payload(reader)) is not None:
            payloads.append(payload)
        return payloads

    return asyncio.run(read())


@given(st.lists(st.text(max_size=50), max_size=5))
def test_messages_come_as_they_were_sent(texts):
    messages = [Fatal(message=text) for text in texts]
    decoder = msgspec.msgpack.Decoder(FromEngine)
    payloads = read_all(b"".join(to_frame(message) for message in messages))
    assert messages == [from_payload(payload, decoder) for payload in payloads]


def test_a_blocking_reader_gets_messages_and_then_none(sockets):
    ours, theirs = sockets
    message = Abort(request_id="r", choice=1)
    theirs.sendall(to_frame(message))
    theirs.close()
    assert message == from_payload(receive_payload(ours), msgspec.msgpack.Decoder(ToEngine))
    assert receive_payload(ours) is None


@pytest.mark.parametrize("length", [0, 2, 4, 6])
def test_a_sender_that_dies_in_the_middle_of_a_message_has_sent_none(sockets, length):
    ours, theirs = sockets
    part = to_frame(Abort(request_id="r"))[:length]
    theirs.sendall(part)
    theirs.close()
    assert receive_payload(ours) is None
    assert [] == read_all(part)


def test_a_message_announced_as_too_long_is_an_error(sockets):
    ours, theirs = sockets
    header = struct.pack(">I", frames.MAX_FRAME_BYTES + 1)
    theirs.sendall(header)
    with pytest.raises(FrameError, match="268435457 bytes is announced"):
        receive_payload(ours)
    with pytest.raises(FrameError, match="268435457 bytes is announced"):
        read_all(header)


def test_a_message_too_long_to_send_is_an_error(monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    with pytest.raises(FrameError, match="the longest is 100"):
        to_frame(Fatal(message="m" * 100))


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", msgspec.msgpack.encode({"type": "unheard"}), to_frame(Abort(request_id="r"))]
)
def test_bytes_that_are_no_message_are_an_error(payload):
    with pytest.raises(FrameError, match="cannot be read"):
        from_payload(payload, msgspec.msgpack.Decoder(FromEngine))
