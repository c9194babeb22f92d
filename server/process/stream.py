"""The outputs of one request, as its reader gets them: in order, each once, merged where the reader is slow.

Knows one request. Knows no sockets, and not why a request ended.
"""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import msgspec

from server.engine.messages import Request, RequestOutput
from server.process.merging import merge_outputs


class RequestStream:
    """Async iterator over the outputs of one request, for one reader; to be used as a context manager.

        async with client.submit(request) as stream:
            async for output in stream: ...

    Leaving the block, for whatever reason, aborts what has not ended. Iteration ends after the last output, or once
    everything was aborted (nothing more is said of what was aborted). It raises `RequestError` or `QueueFullError` in
    place of the first item where the engine refused the request, and `EngineDiedError` at once, in place of outputs
    that were not read yet, where the engine ended before the request.
    """

    def __init__(self, request: Request, on_leave: Callable[[], None]) -> None:
        """Take a request's outputs; `on_leave` is called when the reader goes before the end."""
        self.request_id = request.request_id
        self._running = set(range(request.params.n))
        """Choices of which more may come."""
        self._on_leave = on_leave
        self._unread: list[RequestOutput] = []
        self._error: Exception | None = None
        self._is_over = False
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes; some of what came may not be read yet."""
        return self._is_over

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        """Return all that came since the last call as one output; wait until there is something."""
        while True:
            if self._error is not None:
                raise self._error
            if self._unread:
                unread, self._unread = self._unread, []
                return merge_outputs(unread)
            if self._is_over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Leave: what was not read is dropped, what has not ended is aborted. Twice is once."""
        self._unread.clear()
        if not self._is_over:
            self.end()
            self._on_leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # The client's side, on the event loop's thread.

    def put(self, output: RequestOutput) -> None:
        """Hand over what the engine said; what it said of a choice before it knew of its abort is left out."""
        if self._is_over:
            return
        kept = [choice for choice in output.choices if choice.choice in self._running]
        if len(kept) < len(output.choices):
            output = msgspec.structs.replace(output, choices=kept)
        self._unread.append(output)
        self._changed.set()
        self.expect_no_more(choice.choice for choice in kept if choice.finish_reason is not None)
        if output.is_finished:
            self.end()

    def expect_no_more(self, choices: Iterable[int]) -> None:
        """Leave out what may still come of these choices; the stream ends with the last one."""
        self._running.difference_update(choices)
        if not self._running:
            self.end()

    def fail(self, error: Exception) -> None:
        """End with an error, unless it is over."""
        if not self._is_over:
            self._error = error
            self.end()

    def end(self) -> None:
        """Expect nothing more; what came before stays."""
        self._is_over = True
        self._changed.set()
