"""The phases of an engine's start on stderr: how far each is where it takes long, and a line when it is over."""

import sys
import time
from collections.abc import Callable

from server.progress import Progress


class StartupLines:
    """Takes progress as it is told and writes a line when a phase is over."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = ""
        self._began = clock()
        self._progress = Progress()

    def update(self, phase: str, done: int, total: int) -> None:
        """Take it that `done` of `total` is done of `phase`; another phase than the last ends that one."""
        if phase != self._phase:
            self.end()
            self._phase, self._began = phase, self._clock()
        if done < total:
            self._progress.update(phase, done, total)
        else:
            self.end()

    def end(self) -> None:
        """End the phase under way, if there is one."""
        if self._phase:
            self._progress.stop()
            sys.stderr.write(f"{self._phase}: {self._clock() - self._began:.2f} s\n")
            sys.stderr.flush()
            self._phase = ""
