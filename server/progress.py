"""Progress of work that takes more than a moment, on stderr: a bar on a terminal, sparse lines elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from server.units import duration_text

_QUIET_SECONDS = 1.0
_LINE_SHARE = 0.1


class Progress:
    """One or several phases of work, each told by calls of `update` or of what `phase` returns.

    Nothing is shown of a phase that is over within a second. On a terminal bars vanish when the work is done.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._task = self._bars.add_task("", visible=False)
        self._what = ""
        self._started = clock()
        self._next_share = 0.0

    def phase(self, what: str) -> Callable[[int, int], None]:
        """Return a callback (done, total) for the phase called `what`, which begins now."""
        self._begin(what)
        return lambda done, total: self.update(what, done, total)

    def update(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` is done of the phase called `what`."""
        if what != self._what:
            self._begin(what)
        elapsed = self._clock() - self._started
        if elapsed < _QUIET_SECONDS or total < 1:
            return
        if self._console.is_interactive:
            self._bars.start()
            self._bars.update(self._task, description=what, completed=done, total=total, visible=True)
        elif done / total >= self._next_share:
            left = f", {duration_text(elapsed * (total - done) / done)} left" if 0 < done < total else ""
            sys.stderr.write(f"{what}: {100 * done // total} %{left}\n")
            sys.stderr.flush()
            # The next multiple of 10 % behind this line.
            self._next_share = (done * 10 // total + 1) * _LINE_SHARE

    def stop(self) -> None:
        """Take the bar away, where there is one."""
        if self._console.is_interactive:  # elsewhere it would print an empty line
            self._bars.stop()

    def _begin(self, what: str) -> None:
        self._what = what
        self._started = self._clock()
        self._next_share = 0.0
        self._bars.reset(self._task, visible=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
