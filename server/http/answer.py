"""An answer on its way to a client that may go at any time: of one piece, or streamed.

Whatever happens before the first byte is a status of its own; after it, an error event ends the stream. A client that
goes takes its request in the engine along.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.http.errors import ApiError, as_api_error, internal_error, invalid
from server.http.form import Form, encode_json, error_frames
from server.http.metrics.requests import RequestMetrics
from server.http.pace import Pace
from server.http.record import Record, record_of

if TYPE_CHECKING:
    from server.http.choice import Gain

_LAST_WORD_SECONDS = 5.0
"""A client that does not read gets no error event after so long."""
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the frames
]

_log = logging.getLogger("tolbooth.http")


class Answer(Response):
    """Runs a generation and sends it in its form."""

    def __init__(self, form: Form, *, timeout: float, metrics: RequestMetrics) -> None:
        """`timeout`: seconds that the request may take from now on."""
        super().__init__(media_type="application/json")
        self._form = form
        self._metrics = metrics
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; raises `ApiError` and what the engine raises where nothing was sent yet."""
        record = record_of(scope)
        record.completion_id, record.generation = self._form.asked.id, self._form.generation
        pace = record.pace = Pace(self._metrics, began=record.began)
        work = self._stream(send, record, pace) if self._form.asked.stream else self._send_whole(send, pace)
        await _while_connected(receive, work, record)

    async def _send_whole(self, send: Send, pace: Pace) -> None:
        gains: list[list[Gain]] = [[] for _ in self._form.generation.choices]
        try:
            async with asyncio.timeout(self._timeout), contextlib.aclosing(self._form.generation.steps()) as steps:
                async for step in steps:
                    pace.note(step)
                    for choice, gain in step:
                        gains[choice.index].append(gain)
        except TimeoutError:
            self._refuse_time()
        body = encode_json(self._form.whole(gains))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Send, record: Record, pace: Pace) -> None:
        has_begun = False
        try:
            async with asyncio.timeout(self._timeout), contextlib.aclosing(self._form.generation.steps()) as steps:
                async for step in steps:
                    pace.note(step)
                    frames = self._form.frames(step)
                    if not has_begun:
                        has_begun = True
                        frames = self._form.opening() + frames
                        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                    if frames:
                        await send({"type": "http.response.body", "body": frames, "more_body": True})
                await send({"type": "http.response.body", "body": self._form.closing()})
        except Exception as error:
            if not has_begun:
                if isinstance(error, TimeoutError):
                    self._refuse_time()
                raise
            await self._send_last_word(send, error, record)

    async def _send_last_word(self, send: Send, error: Exception, record: Record) -> None:
        if isinstance(error, TimeoutError):
            told: ApiError | None = self._out_of_time()
        else:
            told = as_api_error(error)
        if told is None:
            _log.error("a stream broke", exc_info=error)
            told = internal_error()
        record.error, record.outcome = told, told.body.error.code or "error"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await send({"type": "http.response.body", "body": error_frames(told)})

    def _refuse_time(self) -> NoReturn:
        raise self._out_of_time() from None

    def _out_of_time(self) -> ApiError:
        # Not a status that clients take for an invitation to try again.
        return invalid(
            f"the request took longer than {self._timeout:g} s, all that this server gives one; ask for fewer tokens",
            code="request_timeout",
        )


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None], record: Record) -> None:
    """Do `work` until it is done or the client has gone."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnection(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            record.outcome = "disconnected"
            return
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
