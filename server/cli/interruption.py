"""Ending a long run politely: the first SIGINT or SIGTERM asks, the second ends it at once."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While its block runs, the first signal sets `requested`; the second is a `KeyboardInterrupt`."""

    def __init__(self, announcement: str) -> None:
        self.requested = False
        self._announcement = announcement
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 what signal handlers are given
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Past Python's buffers, which the signal may have found in the middle of a write.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{self._announcement}\n".encode())
