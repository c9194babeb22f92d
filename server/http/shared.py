"""A value that costs something to have and that many may ask for: worked out once for all of them, and for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """One value, on one event loop."""

    def __init__(
        self,
        work_out: Callable[[], Awaitable[_T]],
        *,
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`work_out` is called when the value is asked for and older than `fresh_seconds`, never twice at a time."""
        self._work_out = work_out
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._work: asyncio.Task[_T] | None = None
        self._began = 0.0

    async def get(self) -> _T:
        """Return the value; raises what working it out raises, which whoever comes next tries again."""
        work = self._work
        if work is None or (work.done() and self._is_over(work)):
            self._began = self._clock()
            work = self._work = asyncio.create_task(self._awaited())
        # Who goes away does not take it from those who still wait.
        return await asyncio.shield(work)

    def _is_over(self, work: "asyncio.Task[_T]") -> bool:
        is_broken = work.cancelled() or work.exception() is not None
        return is_broken or self._clock() - self._began >= self._fresh_seconds

    async def _awaited(self) -> _T:
        return await self._work_out()
