"""One engine process, as seen by the one that started it: messages to it, messages from it, its end.

Knows how a process is started, killed and reaped. Knows nothing of starting another one, or of requests.
"""

import asyncio
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from typing import Self

import msgspec

from server.engine.config import EngineConfig
from server.process.frames import from_payload, read_payload, to_frame
from server.process.messages import FromEngine, ToEngine

_STDERR = 2
_READ_AHEAD = 2**20
_EXIT_WAIT = 1.0
"""Seconds that the last messages of a process have to be read after its exit."""


class EngineProcess:
    """A process that was started, whether it still runs or not."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._exit = asyncio.create_task(self._await_exit())

    @classmethod
    async def start(cls, command: Sequence[str], config: EngineConfig) -> Self:
        """Start `command` with one end of a socket, and send it its configuration; raises `OSError`.

        What it prints goes to stderr: stdout belongs to the command that a person gave.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                fd = theirs.fileno()
                process = await asyncio.create_subprocess_exec(
                    *command, "--fd", str(fd), pass_fds=[fd], stdin=DEVNULL, stdout=_STDERR
                )
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_READ_AHEAD)
        except BaseException:
            ours.close()  # at which a process that was started exits
            raise
        writer.write(to_frame(config))
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def unsent_bytes(self) -> int:
        """Bytes of messages that the process has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def send(self, message: ToEngine) -> None:
        """Send a message; never blocks, and is without effect once the process has ended. Raises `FrameError`."""
        frame = to_frame(message)
        if not self._writer.is_closing():
            self._writer.write(frame)

    async def receive(self) -> FromEngine | None:
        """Return the next message, None when the process has ended or closed its end. Raises `FrameError`."""
        payload = await read_payload(self._reader)
        return None if payload is None else from_payload(payload, self._decoder)

    def terminate(self) -> None:
        """Ask it to close its engine and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def write_tracebacks(self) -> None:
        """Make it write what each of its threads is doing to stderr."""
        self._signal(signal.SIGUSR1)

    async def end(self, patience: float) -> int:
        """Close the connection, at which it exits; kill it if that takes longer than `patience` seconds, and reap it.

        Returns the exit code, -N where signal N ended it.
        """
        self._exit.cancel()
        self._writer.close()
        try:
            async with asyncio.timeout(patience):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        return await self._process.wait()

    async def _await_exit(self) -> None:
        """End the messages when the process has exited: one that it started may still hold its end of the socket."""
        await self._process.wait()
        await asyncio.sleep(_EXIT_WAIT)
        self._writer.transport.abort()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)
