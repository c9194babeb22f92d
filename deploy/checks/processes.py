"""Programs that a check starts: each with its output in a file, each ended in the end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_END_SECONDS = 60.0
_INTERVAL = 0.1


class CheckError(Exception):
    """What was to be shown does not hold; the message says what."""


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], *, output: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, and end it with SIGTERM, or SIGKILL where that takes too long."""
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 what a check starts is written in it
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=None if environment is None else {**os.environ, **environment},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_SECONDS)


def eventually(holds: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Wait until something holds; `CheckError` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise CheckError(f"within {seconds:g} s it did not come true that {what}")
        time.sleep(_INTERVAL)


def free_port() -> int:
    """Return a port of this machine at which nobody listens now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
