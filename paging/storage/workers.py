"""Threads that serve a queue, and can be told to stop.

Knows nothing of rows.
"""

import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Workers(Generic[_Item]):
    """Daemon threads, each serving one item of the queue at a time. `serve` must not raise."""

    def __init__(self, name: str, *, num_threads: int, serve: Callable[[_Item], None]) -> None:
        self._serve = serve
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{index}", daemon=True) for index in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, items: Iterable[_Item]) -> None:
        """Queue items; returns at once."""
        for item in items:
            self._queue.put(item)

    def stop(self, timeout: float) -> bool:
        """End the threads once everything queued is served; return whether they ended within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._serve(item)
