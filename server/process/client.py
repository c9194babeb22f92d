"""The engine's process as seen from the API process: started, asked, watched, started again.

Imports without torch. Every method is called on one event loop's thread, except where it says otherwise.
"""

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum

from server.engine.config import EngineConfig
from server.engine.messages import EngineInfo, EngineStats, Request
from server.process.stream import RequestStream

WORKER_COMMAND = (sys.executable, "-P", "-m", "server.process.worker")
"""-P: a folder called `server` where the command was given is not taken for ours."""

ProgressCallback = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


class EngineState(StrEnum):
    """What the engine's process is doing."""

    STARTING = "starting"  # loading for the first time
    READY = "ready"
    DOWN = "down"  # it died, and is being started again
    STOPPED = "stopped"  # not started, stopped or being stopped, or it cannot be loaded; it does not come back


class EngineClient:
    """Serves requests from an engine in another process, and starts that process again when it dies.

    config: what the engine is asked to be. command: what starts the process; `--fd N` is appended.
    on_progress: called while the engine loads, at every start. stall_timeout: seconds without any progress, while
    requests are open, after which the process is taken for hung and killed. shutdown_timeout: seconds that it has to
    close its engine before it is killed.
    """

    num_restarts: int
    """Times that the process was started again."""
    failure: str | None
    """Why the engine is down or cannot be loaded, for a person; None while it is well."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        on_progress: ProgressCallback | None = None,
        stall_timeout: float = 300.0,
        shutdown_timeout: float = 10.0,
    ) -> None: ...

    @property
    def state(self) -> EngineState:
        """What the engine's process is doing now."""

    @property
    def info(self) -> EngineInfo | None:
        """What the engine turned out to be; None before it was ready for the first time. Stays while it is down."""

    @property
    def stats(self) -> EngineStats | None:
        """The latest snapshot, at most half a second old while requests run; None before the first one.

        Counters never go down: those of engines that died are included. The rest is of the live engine, and 0 while it
        is down.
        """

    async def start(self) -> None:
        """Start the process and return; the engine loads meanwhile."""

    async def wait_ready(self, timeout: float) -> EngineInfo:
        """Wait until the engine takes requests.

        Raises `EngineFatalError` where it cannot be loaded and trying again would not help, `EngineUnavailableError`
        where it is not ready after `timeout` seconds or is stopped.
        """

    async def stop(self, timeout: float) -> None:
        """Take no more requests, give open ones `timeout` seconds to end, then end them and the process. Twice is once.

        Streams that are still open after that raise `EngineDiedError`. The process is gone when this returns.
        """

    def submit(self, request: Request) -> RequestStream:
        """Send a request; the result must be closed (`async with`).

        Raises `EngineUnavailableError` where the state is not READY, `QueueFullError` where the engine is far behind
        with reading requests, `RequestError` for an id that is in use. What the engine itself refuses, the stream
        raises.
        """

    def abort(self, request_id: str, choice: int | None = None) -> None:
        """End a request, or one of its choices; its stream says nothing more of it. Unknown ids are ignored."""

    async def refresh_stats(self, timeout: float) -> EngineStats | None:
        """Ask the engine for a new snapshot, wait for it `timeout` seconds at most, and return `stats`."""
