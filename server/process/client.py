"""The engine's process as seen from the API process: asked, answered, and replaced when it dies.

Imports without torch. Everything is called on one event loop's thread.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence

from server.engine.config import EngineConfig
from server.engine.errors import QueueFullError, RequestError
from server.engine.messages import Abort, EngineInfo, EngineStats, Progress, Request, RequestOutput
from server.engine.questions import AnswerT, QuestionFor
from server.process.errors import EngineDiedError, EngineFatalError, EngineUnavailableError, FrameError
from server.process.first_output import FirstOutput
from server.process.messages import Answered, FromEngine, Refused, StatsQuery, StepOutputs, ToEngine, Unanswered
from server.process.questions import OpenQuestions
from server.process.recent_stats import Before, RecentStats
from server.process.stream import RequestStream
from server.process.supervisor import Backoff, EngineState, Supervisor
from server.process.totals import StatsTotals

__all__ = ["WORKER_COMMAND", "Backoff", "EngineClient", "EngineState", "RequestStream"]

WORKER_COMMAND = (sys.executable, "-P", "-m", "server.process.worker")
"""-P: a folder called `server` where the command was given is not taken for ours."""

ProgressCallback = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""

_MAX_UNSENT_BYTES = 64 * 2**20
"""Requests that the engine has not read yet, beyond which no more are taken."""


class EngineClient:
    """Serves requests from an engine in another process, and starts that process again when it dies."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        on_progress: ProgressCallback | None = None,
        on_first_output: Callable[[float], None] | None = None,
        stall_timeout: float = 300.0,
        shutdown_timeout: float = 10.0,
        backoff: Backoff = Backoff(),  # noqa: B008 frozen
    ) -> None:
        """Serve an engine as `config` asks.

        command: what starts the process; `--fd N` is appended. on_progress: called while an engine loads, at every
        start. on_first_output: called once, with the seconds that the first request waited for its first tokens.
        stall_timeout: seconds without any progress, while requests are open, after which the process is taken
        for hung and killed. shutdown_timeout: seconds that it has to close its engine before it is killed.
        """
        self._on_progress = on_progress
        self._first_output = FirstOutput(on_first_output, clock=_now)
        self._progress: Progress | None = None
        self._streams: dict[str, RequestStream] = {}
        self._no_streams = asyncio.Event()
        self._no_streams.set()
        self._totals = StatsTotals()
        self._recent = RecentStats()
        self._stats_came = asyncio.Event()
        self._questions = OpenQuestions()
        self._steps = 0
        self._progress_at = 0.0
        self._info: EngineInfo | None = None
        self._supervisor = Supervisor(
            command,
            config,
            backoff=backoff,
            stall_timeout=stall_timeout,
            shutdown_timeout=shutdown_timeout,
            on_message=self._handle,
            on_end=self._note_death,
            stalled=self._stalled,
        )

    @property
    def state(self) -> EngineState:
        """What the engine's process is doing now."""
        return self._supervisor.state

    @property
    def info(self) -> EngineInfo | None:
        """What the engine turned out to be; None before it was ready for the first time. Stays while it is down."""
        return self._info

    @property
    def stats(self) -> EngineStats | None:
        """The latest snapshot, half a second old at most while requests run; None before the first one.

        Counters never go down: those of engines that died are included. The rest is of the live engine, and 0 while it
        is down.
        """
        return self._totals.latest

    @property
    def stats_before(self) -> Before | None:
        """What `stats` were some seconds ago; None before the first."""
        return self._recent.before(_now())

    @property
    def num_restarts(self) -> int:
        """Times that the process was started again."""
        return self._supervisor.num_restarts

    @property
    def failure(self) -> str | None:
        """Why the engine is down or cannot be loaded, for a person; None while it is well."""
        return self._supervisor.failure

    @property
    def progress(self) -> Progress | None:
        """How far loading is; None while none is under way, or nothing is known of it."""
        return None if self.state in {EngineState.READY, EngineState.STOPPED} else self._progress

    async def start(self) -> None:
        """Start the process and return; the engine loads meanwhile. Twice is once."""
        self._supervisor.start()

    async def wait_ready(self, timeout: float) -> EngineInfo:  # noqa: ASYNC109 what it raises is its own
        """Wait until the engine takes requests.

        Raises `EngineFatalError` where it cannot be loaded and trying again would not help, `EngineUnavailableError`
        where it is stopped or not ready after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._supervisor.settled.wait()
        except TimeoutError:
            raise self._unavailable() from None
        if self._supervisor.is_fatal:
            raise EngineFatalError(self.failure)
        if self.state is not EngineState.READY or self._info is None:
            raise self._unavailable()
        return self._info

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 what follows the time-out is part of it
        """Take no more requests, give open ones `timeout` seconds to end, then end them and the process. Twice is once.

        Streams that are still open then raise `EngineDiedError`. The process is gone when this returns.
        """
        self._supervisor.retire()
        try:
            async with asyncio.timeout(timeout):
                await self._no_streams.wait()
        except TimeoutError:
            pass
        finally:
            for request_id in self._streams:
                self._send(Abort(request_id=request_id))
            self._fail(self._streams, lambda: EngineDiedError("the server stops; the request was not finished"))
            await self._supervisor.stop()

    def submit(self, request: Request) -> RequestStream:
        """Send a request; the stream must be closed (`async with`).

        Raises `EngineUnavailableError` where the state is not READY, `QueueFullError` where the engine is far behind
        with reading requests, `RequestError` for an id that is in use or a request too long to send. What the engine
        itself refuses, the stream raises.
        """
        process = self._supervisor.process
        if self.state is not EngineState.READY or process is None:
            raise self._unavailable()
        if request.request_id in self._streams:
            raise RequestError(f"the request id {request.request_id!r:.80} is in use", param="request_id")
        if process.unsent_bytes > _MAX_UNSENT_BYTES:
            raise QueueFullError("the engine is behind with reading requests; try again later")
        try:
            process.send(request)
        except FrameError as error:
            raise RequestError(f"the request is too long: {error}", param="prompt_ids") from error
        if not self._streams:
            self._note_progress()
        self._first_output.note_request(request.request_id, self._streams)
        stream = self._streams[request.request_id] = RequestStream(request, lambda: self.abort(request.request_id))
        self._no_streams.clear()
        return stream

    def abort(self, request_id: str, choice: int | None = None) -> None:
        """End a request, or one of its choices; its stream says nothing more of it. Unknown ids are ignored."""
        stream = self._streams.get(request_id)
        if stream is None:
            return
        self._send(Abort(request_id=request_id, choice=choice))
        if choice is None:
            stream.end()
        else:
            stream.expect_no_more([choice])
        self._forget_if_over(stream)

    async def refresh_stats(self, timeout: float) -> EngineStats | None:  # noqa: ASYNC109 a time-out is no error here
        """Ask the engine for a snapshot, wait for the next one `timeout` seconds at most, and return `stats`.

        Returns at once where no engine is ready.
        """
        if self.state is not EngineState.READY:
            return self.stats
        self._stats_came.clear()
        self._send(StatsQuery())
        try:
            async with asyncio.timeout(timeout):
                await self._stats_came.wait()
        except TimeoutError:
            pass
        return self.stats

    async def ask(self, question: QuestionFor[AnswerT], timeout: float) -> AnswerT:  # noqa: ASYNC109 as `wait_ready`
        """Return the engine's answer, which comes after the step under way.

        Raises `RequestError` or `QueueFullError` where the engine refuses, or too many questions are open;
        `EngineUnavailableError`, `EngineDiedError`, `NoAnswerError` after `timeout` seconds, `BrokenQuestionError`.
        """
        if self.state is not EngineState.READY:
            raise self._unavailable()
        return await self._questions.ask(question, self._send, timeout)

    def _send(self, message: ToEngine) -> None:
        if self._supervisor.process is not None:
            self._supervisor.process.send(message)

    def _handle(self, message: FromEngine) -> None:
        match message:
            case StepOutputs():
                self._hand_out(message.outputs)
            case EngineStats():
                self._take_stats(message)
            case Answered() | Unanswered():
                self._questions.settle(message)
            case Refused():
                self._fail([message.request_id], lambda: _refusal(message))
            case EngineInfo():
                self._info, self._progress = message, None
            case Progress():
                self._progress = message
                if self._on_progress is not None:
                    self._on_progress(message.phase, message.done, message.total)

    def _hand_out(self, outputs: Sequence[RequestOutput]) -> None:
        self._note_progress()
        for output in outputs:
            if (stream := self._streams.get(output.request_id)) is not None:
                self._first_output.note_output(output.request_id)
                stream.put(output)
                self._forget_if_over(stream)

    def _take_stats(self, stats: EngineStats) -> None:
        if stats.steps != self._steps:
            self._note_progress()
        self._steps = stats.steps
        self._totals.update(stats)
        latest = self._totals.latest
        assert latest is not None, "it has just come"
        self._recent.note(latest, _now())
        self._stats_came.set()

    def _note_death(self, reason: str) -> None:
        self._progress = None
        self._totals.end_engine()
        self._fail(self._streams, lambda: EngineDiedError(f"{reason}; the request was not finished"))
        self._questions.fail(lambda: EngineDiedError(f"{reason}; what was asked of it was not answered"))

    def _fail(self, request_ids: Iterable[str], error: Callable[[], Exception]) -> None:
        for request_id in list(request_ids):
            if (stream := self._streams.get(request_id)) is not None:
                stream.fail(error())
                self._forget_if_over(stream)

    def _forget_if_over(self, stream: RequestStream) -> None:
        if stream.is_over:
            self._streams.pop(stream.request_id, None)
            if not self._streams:
                self._no_streams.set()

    def _note_progress(self) -> None:
        self._progress_at = _now()

    def _stalled(self) -> float:
        return _now() - self._progress_at if self._streams else 0.0

    def _unavailable(self) -> EngineUnavailableError:
        """Return the error that says in which state the engine is, and until when."""
        state, failure = self.state, f": {self.failure}" if self.failure else ""
        if state is EngineState.STOPPED:
            return EngineUnavailableError(f"the engine is stopped{failure}", retry_after=None)
        what = "is being loaded" if state is EngineState.STARTING else "is started again"
        seconds = self._supervisor.seconds_until_ready()
        return EngineUnavailableError(f"the engine {what}{failure}", retry_after=seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _refusal(message: Refused) -> RequestError | QueueFullError:
    if message.is_overload:
        return QueueFullError(message.message)
    return RequestError(message.message, param=message.param)
