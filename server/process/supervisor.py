"""Keeps an engine process running: starts it, notices its end or that it hangs, starts another one after a while.

Knows states and delays. Knows nothing of what requests there are and what outputs say.

    STARTING --info--> READY --end--> DOWN --delay, start, info--> READY
       |                 |              |
       +--fatal----------+--stop--------+--> STOPPED
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from server.engine.config import EngineConfig
from server.engine.messages import EngineInfo, Fatal
from server.process.engine_process import EngineProcess
from server.process.errors import FrameError
from server.process.messages import FromEngine

_MISTAKE = 2
"""Exit code of a process that a person must do something about."""
_EXIT_WAIT = 1.0
"""Seconds that an exit code may come later than the end of messages."""
_TRACEBACK_WAIT = 1.0
"""Seconds for a hung process to say where it hangs."""
_USUAL_LOADING = 5.0
"""Seconds that loading is taken to last before it has been seen once."""


class EngineState(StrEnum):
    """What the engine's process is doing."""

    STARTING = "starting"  # loading for the first time
    READY = "ready"
    DOWN = "down"  # it died, and is being started again
    STOPPED = "stopped"  # not started, stopped or being stopped, or it cannot be loaded; it does not come back


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long to wait before a process that died is started again."""

    first: float = 0.5
    """Seconds; each time twice as many."""
    longest: float = 30.0
    healthy_after: float = 60.0
    """Seconds of being ready after which the delays begin anew."""

    def delay(self, num_deaths: int) -> float:
        """Return the seconds to wait after so many deaths in a row, at least one."""
        return min(self.longest, self.first * 2.0 ** min(num_deaths - 1, 60))


class Supervisor:
    """One engine process after another.

    on_message: called with each message but a `Fatal`, in order. on_end: called with the reason when no more come, more
    than once perhaps. stalled: returns the seconds without progress, 0 while none is due.
    """

    def __init__(
        self,
        command: Sequence[str],
        config: EngineConfig,
        *,
        backoff: Backoff,
        stall_timeout: float,
        shutdown_timeout: float,
        on_message: Callable[[FromEngine], None],
        on_end: Callable[[str], None],
        stalled: Callable[[], float],
    ) -> None:
        self._command, self._config, self._backoff = command, config, backoff
        self._stall_timeout, self._shutdown_timeout = stall_timeout, shutdown_timeout
        self._on_message, self._on_end, self._stalled = on_message, on_end, stalled
        self.state = EngineState.STOPPED
        self.settled = asyncio.Event()
        """Set while the state is READY or STOPPED."""
        self.failure: str | None = None
        """Why the engine is down or cannot be loaded; None while it is well."""
        self.is_fatal = False
        """Whether `failure` is final."""
        self.num_restarts = 0
        self.process: EngineProcess | None = None
        """The process of the moment, loading or ready."""
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._was_ready = False
        self._num_deaths = 0
        self._ready_since = 0.0
        self._loading_seconds = _USUAL_LOADING
        self._expected = 0.0
        """When the process is expected to be ready."""

    def start(self) -> None:
        """Start a process, and from now on another one whenever it dies. Twice is once."""
        if self._task is not None:
            return
        self._enter(EngineState.STARTING)
        self._expected = _now() + self._loading_seconds
        self._task = asyncio.create_task(self._run(), name="engine-supervisor")

    def retire(self) -> None:
        """Enter STOPPED, although the process goes on for what it has begun."""
        self._stopping.set()
        self._enter(EngineState.STOPPED)

    async def stop(self) -> None:
        """Ask the process to end, kill it when it has not after the time-out; it is gone on return."""
        self.retire()
        if self._task is None:
            return
        if self.process is not None:
            self.process.terminate()
        try:
            await asyncio.wait({self._task}, timeout=self._shutdown_timeout)
        finally:
            if self.process is not None:
                self.process.kill()
        await asyncio.wait({self._task})

    def seconds_until_ready(self) -> float:
        """Return a guess, at least 1."""
        return max(1.0, self._expected - _now())

    async def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                await self._run_process()
                if self.is_fatal or self._stopping.is_set():
                    break
                delay = self._backoff.delay(self._num_deaths)
                self._expected = _now() + delay + self._loading_seconds
                _say(f"{self.failure}; it is started again in {delay:.1f} s")
                if await _is_set(self._stopping, delay):
                    break
                self.num_restarts += 1
        except Exception as error:
            self.failure = f"the engine is not watched any more: {type(error).__name__}: {error}"
            self._on_end(self.failure)
            raise
        finally:
            self._enter(EngineState.STOPPED)

    async def _run_process(self) -> None:
        """Run one process to its end."""
        started = _now()
        try:
            process = self.process = await EngineProcess.start(self._command, self._config)
        except OSError as error:
            self._note_end(f"the engine's process cannot be started: {error}", is_fatal=not self._was_ready)
            return
        try:
            if self._stopping.is_set():
                process.terminate()
            reason, was_told = await self._receive(process, started)
            self._enter(EngineState.DOWN)
            if reason is not None:
                self._on_end(reason)  # before the exit, which may take a while
            code = await process.end(_EXIT_WAIT if reason is None else self._shutdown_timeout)
        finally:
            process.kill()
            self.process = None
        is_fatal = not self._was_ready and (was_told or code == _MISTAKE)
        self._note_end(reason or _exit_reason(process.pid, code), is_fatal=is_fatal)

    async def _receive(self, process: EngineProcess, started: float) -> tuple[str | None, bool]:
        """Hand on messages until they end; return why they did, if that is known, and whether the process said so."""
        watch = asyncio.create_task(self._watch(process))
        try:
            while (message := await process.receive()) is not None:
                if isinstance(message, Fatal):
                    return message.message, True
                self._on_message(message)
                if isinstance(message, EngineInfo):
                    self._note_ready(started)
        except FrameError as error:
            return f"the engine sent what is no message: {error}", False
        finally:
            was_hung = watch.done()
            watch.cancel()
        if was_hung:
            return f"the engine made no progress for {self._stall_timeout:g} s and was killed", False
        return None, False

    async def _watch(self, process: EngineProcess) -> None:
        """Kill the process when it hangs."""
        while (left := self._stall_timeout - self._stalled()) > 0:  # noqa: ASYNC110 it waits for what does not happen
            await asyncio.sleep(left)
        process.write_tracebacks()
        await asyncio.sleep(_TRACEBACK_WAIT)
        process.kill()

    def _note_ready(self, started: float) -> None:
        self._was_ready, self.failure = True, None
        self._ready_since = _now()
        if self.num_restarts:
            _say(f"the engine is ready again, after {self._ready_since - started:.1f} s")
        self._loading_seconds = self._ready_since - started
        self._enter(EngineState.READY)

    def _note_end(self, reason: str, *, is_fatal: bool) -> None:
        if self._ready_since and _now() - self._ready_since >= self._backoff.healthy_after:
            self._num_deaths = 0
        self._num_deaths += 1
        self._ready_since = 0.0
        if not self._stopping.is_set():
            self.failure, self.is_fatal = reason, is_fatal
        self._on_end(reason)

    def _enter(self, state: EngineState) -> None:
        self.state = EngineState.STOPPED if self._stopping.is_set() else state
        if self.state in {EngineState.READY, EngineState.STOPPED}:
            self.settled.set()
        else:
            self.settled.clear()


def _exit_reason(pid: int, code: int) -> str:
    if code < 0:
        return f"the engine's process {pid} was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"the engine's process {pid} ended with exit code {code}"


def _say(what: str) -> None:
    """Tell who reads the log; requests that were open tell their clients themselves."""
    sys.stderr.write(f"tolbooth: {what}\n")
    sys.stderr.flush()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event so many seconds at most; return whether it has come."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
