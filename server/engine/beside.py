"""Work beside the main thread's while an engine loads: reading, and waiting for memory.

Knows threads. Knows nothing of what the work is; it must be such that an interpreter does it beside another.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")

OnProgress = Callable[[int, int], None]
"""Called with (done, total)."""

_LOOK_SECONDS = 0.1
"""Between two reports of how far the work is."""
_STOP_SECONDS = 10.0
"""For work to end that nobody wants any more; after that it is left to itself."""


class _StoppedError(Exception):
    """Nobody wants the result any more."""


class Beside(Generic[_Result]):
    """One piece of work on a thread of its own, which begins at once; `stop` it where its result is not needed."""

    def __init__(self, name: str, work: Callable[[OnProgress], _Result]) -> None:
        """work: called with a callback for its progress; an error that it raises is raised by `result`."""
        self._work = work
        self._results: list[_Result] = []
        self._error: BaseException | None = None
        self._progress = (0, 0)
        self._is_wanted = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def result(self, on_progress: OnProgress | None = None) -> _Result:
        """Wait for the work and return its result; `on_progress` is called on this thread meanwhile."""
        while self._thread.is_alive():
            self._thread.join(_LOOK_SECONDS)
            done, total = self._progress
            if on_progress is not None and total:
                on_progress(done, total)
        if self._error is not None:
            raise self._error
        return self._results[0]

    def stop(self) -> None:
        """End the work at its next report of progress, and wait for that so long as is reasonable; twice is once."""
        self._is_wanted = False
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._results.append(self._work(self._note))
        except BaseException as error:  # noqa: BLE001 raised where the result is asked for
            self._error = error

    def _note(self, done: int, total: int) -> None:
        if not self._is_wanted:
            raise _StoppedError
        self._progress = (done, total)
