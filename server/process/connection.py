"""The engine process's end of the socket: one thread reads, one writes, and the engine's thread waits for neither.

Knows which messages come and go. Knows nothing of the engine.

| thread | does                                                                                              |
|--------|---------------------------------------------------------------------------------------------------|
| reader | fills the inbox; stops reading while that is full, so that the sender notices                      |
| writer | empties the outbox; what waits there is counted in bytes, and the engine's thread looks at `has_room` |
"""

import os
import socket
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import NoReturn

import msgspec

from server.process.errors import FrameError
from server.process.frames import from_payload, receive_payload, to_frame
from server.process.messages import FromEngine, Refused, ToEngine

_MAX_INBOX = 4096
_MAX_OUTBOX_BYTES = 64 * 2**20


class Connection:
    """Messages to and from whoever started this process."""

    def __init__(self, sock: socket.socket, *, on_end: Callable[[], None]) -> None:
        """Begin to read and write; `on_end` is called on the reader's thread when the other end has gone."""
        self._sock = sock
        self._on_end = on_end
        self._inbox: SimpleQueue[ToEngine | None] = SimpleQueue()
        self._inbox_room = threading.Semaphore(_MAX_INBOX)
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._outbox_bytes = 0
        self._counting = threading.Lock()
        self._writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name="engine-reader", daemon=True).start()

    @property
    def has_room(self) -> bool:
        """Whether the other end keeps up with what is sent."""
        return self._outbox_bytes < _MAX_OUTBOX_BYTES

    def send(self, message: FromEngine) -> None:
        """Queue a message; never blocks. Raises `FrameError` for one that is too long, and queues nothing."""
        self._queue(to_frame(message))

    def receive(self, timeout: float) -> ToEngine | None:
        """Return the next message; None where none has come in `timeout` seconds, or `wake` was called."""
        try:
            message = self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait()
        except Empty:
            return None
        if message is not None:
            self._inbox_room.release()
        return message

    def wake(self) -> None:
        """Make `receive` return."""
        self._inbox.put(None)

    def close(self, timeout: float) -> None:
        """Send what is queued, waiting `timeout` seconds at most; nothing can be sent afterwards."""
        self._outbox.put(None)
        self._writer.join(timeout)

    def _queue(self, frame: bytes) -> None:
        with self._counting:
            self._outbox_bytes += len(frame)
        self._outbox.put(frame)

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(ToEngine)
        try:
            while (payload := receive_payload(self._sock)) is not None:
                message = self._decoded(payload, decoder)
                if message is not None:
                    self._inbox_room.acquire()
                    self._inbox.put(message)
        except FrameError as error:
            sys.stderr.write(f"the engine got what is no message, and ends: {error}\n")
        self._on_end()

    def _decoded(self, payload: bytes, decoder: "msgspec.msgpack.Decoder[ToEngine]") -> ToEngine | None:
        """Return the message; one about a request that has values of wrong types is refused, and None returned."""
        try:
            return from_payload(payload, decoder)
        except FrameError as error:
            try:
                request_id = msgspec.msgpack.decode(payload, type=_Addressed).request_id
            except msgspec.DecodeError:
                raise error from None
            self.send(Refused(request_id=request_id, message=str(error.__cause__)))
            return None

    def _write(self) -> None:
        while (frame := self._outbox.get()) is not None:
            try:
                self._sock.sendall(frame)
            except OSError:  # the other end has gone, which the reader notices too
                return
            with self._counting:
                self._outbox_bytes -= len(frame)


class _Addressed(msgspec.Struct):
    """Any message about a request."""

    request_id: str


def exit_at_once(code: int) -> NoReturn:
    """End this process from any of its threads, without cleaning up."""
    sys.stderr.flush()
    os._exit(code)
