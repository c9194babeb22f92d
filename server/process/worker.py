"""The engine's process: loads an engine, gives it what comes over the socket and sends back what it says.

    python -m server.process.worker --fd N

N is a connected stream socket, inherited. The process exits at once when the other end is closed, so that it never
outlives who started it. SIGTERM ends it after closing the engine, or at once while it loads. SIGINT, which a terminal
sends to every process of a command, is left to the one that decides. SIGUSR1 writes every thread's traceback to stderr.

| exit code | meaning                                                                 |
|-----------|-------------------------------------------------------------------------|
| 0         | asked to end                                                            |
| 1         | something broke, which may be otherwise next time; stderr has the traceback |
| 2         | the engine cannot be loaded as it was asked for; a person must act       |
"""

import argparse
import faulthandler
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from paging import TolboothError
from server.beginning import collector_paused, seconds_since_start
from server.engine.config import EngineConfig
from server.engine.errors import QueueFullError, RequestError
from server.engine.messages import Abort, EngineInfo, EngineStats, Fatal, Progress, Request, RequestOutput, StartupPhase
from server.engine.questions import Answer, Question
from server.engine.reading import read_weights_ahead
from server.process.connection import Connection, exit_at_once
from server.process.errors import FrameError
from server.process.frames import from_payload, receive_payload
from server.process.messages import Ask, FromEngine, Refused, StatsQuery, StepOutputs, ToEngine
from server.process.questions import answer

OK, BROKEN, MISTAKE = 0, 1, 2

_STATS_INTERVAL = 0.5
_PROGRESS_INTERVAL = 0.1
_IDLE_WAIT = 10.0
"""Seconds after which an idle engine looks around, though nothing came."""
_ROOM_WAIT = 0.05
"""Seconds between two looks at whether the other end reads again."""
_LAST_WAIT = 3.0
"""Seconds that an engine has to close when nobody is left to serve, and that the last message has to get out."""

ProgressCallback = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


class EngineLike(Protocol):
    """What this process asks of an engine; one thread calls everything."""

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""

    def add(self, request: Request) -> None:
        """Take a request; raises `RequestError`, or `QueueFullError`."""

    def abort(self, request_id: str, choice: int | None = None) -> None:
        """End a request or one of its choices; unknown ids are ignored."""

    @property
    def works_beside(self) -> bool:
        """Whether a step's work goes on beside the thread that calls `step`."""

    def step(self, meanwhile: Callable[[], None]) -> list[RequestOutput]:
        """Do one step, and call `meanwhile` once its work goes on beside this thread, if it does."""

    def stats(self) -> EngineStats:
        """Return a snapshot."""

    def answer(self, question: Question) -> Answer:
        """Answer a question; raises `RequestError`, or `QueueFullError`."""

    def close(self) -> None:
        """Release what it holds."""


MakeEngine = Callable[[EngineConfig, ProgressCallback], tuple[EngineLike, EngineInfo]]


def load_engine(config: EngineConfig, on_progress: ProgressCallback) -> tuple[EngineLike, EngineInfo]:
    """Load the engine that serves; its weights are read while the libraries load."""
    on_progress("loading the libraries", 0, 1)
    weights = read_weights_ahead(config)
    try:
        with collector_paused():
            from server.engine.starting import start_engine  # noqa: PLC0415 loads torch

            before = {StartupPhase.LIBRARIES: seconds_since_start()}
            engine = start_engine(config, on_progress, weights=weights, seconds_before=before)
    finally:
        weights.stop()
    return engine, engine.info


def serve_engine(fd: int, make_engine: MakeEngine = load_engine) -> int:
    """Serve an engine on the socket `fd` until the end; return the exit code. To be called on the main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = _signal_socket()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)  # a process started from here must not keep the connection open
    payload = receive_payload(sock)
    return OK if payload is None else _Worker(sock, signals).run(payload, make_engine)


def _signal_socket() -> socket.socket:
    """Return a socket that becomes readable with SIGTERM.

    Libraries have started threads of their own, and the signal may come to any of them; a Python handler runs on the
    main thread alone, and not before its next wait has timed out if the signal came just before that began.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach())
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    return receiver


class _Worker:
    """One engine and one connection."""

    def __init__(self, sock: socket.socket, signals: socket.socket) -> None:
        self._signals = signals
        self._engine: EngineLike | None = None
        self._is_ending = False
        self._untold: Sequence[RequestOutput] = ()
        self._too_long: list[str] = []
        """Requests whose outputs cannot be sent; given up between two steps."""
        self._connection = Connection(sock, on_end=self._leave)

    def run(self, config: bytes, make_engine: MakeEngine) -> int:
        """Load an engine, serve it, close it."""
        threading.Thread(target=self._await_sigterm, name="engine-sigterm", daemon=True).start()
        try:
            engine, info = make_engine(
                from_payload(config, msgspec.msgpack.Decoder(EngineConfig)), _Reporter(self._connection.send)
            )
        except TolboothError as error:
            return self._fail(str(error), MISTAKE)
        except Exception as error:  # noqa: BLE001 whatever it is, somebody waits for an answer
            traceback.print_exc()
            return self._fail(f"the engine could not be loaded: {_named(error)}", BROKEN)
        self._engine = engine
        try:
            self._connection.send(info)
            self._serve(engine)
            engine.close()
        except Exception as error:  # noqa: BLE001 whatever it is, requests wait for an answer
            # The engine is not closed: what it would save may be as broken as it is.
            traceback.print_exc()
            self._tell()
            return self._fail(f"the engine broke: {_named(error)}", BROKEN)
        self._connection.close(_LAST_WAIT)
        return OK

    def _serve(self, engine: EngineLike) -> None:
        was_busy, stats_due = True, 0.0  # the first snapshot goes out at once
        while not self._is_ending:
            is_busy = engine.has_work
            has_room = self._connection.has_room
            if has_room and was_busy and (not is_busy or time.monotonic() >= stats_due):
                self._connection.send(engine.stats())
                stats_due = time.monotonic() + _STATS_INTERVAL
            was_busy = is_busy
            self._take(engine, _IDLE_WAIT if not is_busy else 0.0 if has_room else _ROOM_WAIT)
            if has_room and engine.has_work and not self._is_ending:
                self._step(engine)
        self._tell()

    def _step(self, engine: EngineLike) -> None:
        """Do a step; where a device works beside this thread, tell of its outputs while it works on the next one."""
        outputs = engine.step(self._tell)
        self._tell()  # where it was not called for
        self._untold = outputs
        if not engine.works_beside or not engine.has_work:
            self._tell()
        while self._too_long:
            engine.abort(self._too_long.pop())

    def _tell(self) -> None:
        """Send the last step's outputs, unless they have been sent; the engine may be in the middle of a step."""
        outputs, self._untold = self._untold, ()
        self._send_outputs(outputs)

    def _take(self, engine: EngineLike, timeout: float) -> None:
        """Give the engine all that has come, waiting for the first message `timeout` seconds at most."""
        while (message := self._connection.receive(timeout)) is not None and not self._is_ending:
            self._handle(engine, message)
            timeout = 0.0

    def _handle(self, engine: EngineLike, message: ToEngine) -> None:
        if isinstance(message, Abort):
            engine.abort(message.request_id, message.choice)
        elif isinstance(message, StatsQuery):
            self._connection.send(engine.stats())
        elif isinstance(message, Ask):
            answer(message, engine.answer, self._connection.send)
        else:
            try:
                engine.add(message)
            except RequestError as error:
                self._connection.send(Refused(request_id=message.request_id, message=str(error), param=error.param))
            except QueueFullError as error:
                self._connection.send(Refused(request_id=message.request_id, message=str(error), is_overload=True))

    def _send_outputs(self, outputs: Sequence[RequestOutput]) -> None:
        """Send outputs in one message, or in several where that would be too long."""
        if not outputs:
            return
        try:
            self._connection.send(StepOutputs(outputs=outputs))
        except FrameError as error:
            if len(outputs) > 1:
                middle = len(outputs) // 2
                self._send_outputs(outputs[:middle])
                self._send_outputs(outputs[middle:])
                return
            self._too_long.append(outputs[0].request_id)
            message = f"the output cannot be sent: {error}; ask for fewer log probabilities"
            self._connection.send(Refused(request_id=outputs[0].request_id, message=message, param="logprobs"))

    def _fail(self, message: str, code: int) -> int:
        self._connection.send(Fatal(message=message))
        self._connection.close(_LAST_WAIT)
        return code

    def _leave(self) -> None:
        """End because nobody is left to serve; on the reader's thread, which sees to it that it happens."""
        if self._engine is None:
            # Perhaps in the very instant in which the connection is made.
            exit_at_once(BROKEN)
        self._is_ending = True
        self._connection.wake()
        time.sleep(_LAST_WAIT)
        exit_at_once(BROKEN)

    def _await_sigterm(self) -> None:
        self._signals.recv(1)
        if self._engine is None:
            exit_at_once(OK)
        self._is_ending = True
        self._connection.wake()


class _Reporter:
    """Tells of progress not more often than anybody can look."""

    def __init__(self, send: Callable[[FromEngine], None]) -> None:
        self._send = send
        self._phase: str | None = None
        self._due = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != self._phase or done >= total or now >= self._due:
            self._phase, self._due = phase, now + _PROGRESS_INTERVAL
            self._send(Progress(phase=phase, done=done, total=total))


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def main(arguments: Sequence[str] | None = None, make_engine: MakeEngine = load_engine) -> int:
    """Serve on the socket that the command line names."""
    parser = argparse.ArgumentParser(prog="server.process.worker", description="The engine's process.")
    parser.add_argument("--fd", type=int, required=True, help="a connected stream socket")
    return serve_engine(parser.parse_args(arguments).fd, make_engine)


if __name__ == "__main__":
    sys.exit(main())
