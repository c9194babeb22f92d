"""What the engine does for one request of a client: all prompts and all choices, step by step.

Knows the engine's messages. Knows no wire format.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Sequence

import msgspec

from paging import TolboothError
from server.engine.messages import (
    FinishReason,
    MemoryUse,
    PositionLogprobs,
    Request,
    RequestOutput,
    RequestTiming,
)
from server.http.choice import Choice, Gain
from server.http.errors import engine_failed
from server.http.served_model import ServedModel
from server.process.client import EngineClient
from server.process.stream import RequestStream

Step = list[tuple[Choice, Gain]]
_Arrivals = asyncio.Queue[tuple[int, RequestOutput] | TolboothError | None]


class Generation:
    """The requests to the engine that answer one request of a client, one for each prompt."""

    def __init__(self, engine: EngineClient, model: ServedModel, requests: Sequence[Request]) -> None:
        self.requests = requests
        n = requests[0].params.n
        self.choices = [
            Choice(index * n + choice, index, model.tokenizer, request.prompt_ids, request.params)
            for index, request in enumerate(requests)
            for choice in range(n)
        ]
        self.prompt_logprobs: list[Sequence[PositionLogprobs | None] | None] = [None] * len(requests)
        """By prompt, where they were asked for and have come."""
        self.num_cached_tokens = 0
        self.timings: list[RequestTiming] = []
        """Of the prompts that have been computed."""
        self._memory: dict[int, MemoryUse] = {}  # by prompt
        self._engine = engine
        self._n = n

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(request.prompt_ids) for request in self.requests)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(choice.num_tokens for choice in self.choices)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why all of it ended, `length` where any choice was cut off; None before all have ended well."""
        reasons = {choice.finish_reason for choice in self.choices}
        return None if None in reasons else FinishReason.LENGTH if FinishReason.LENGTH in reasons else FinishReason.STOP

    @property
    def memory(self) -> MemoryUse | None:
        """What all prompts asked of the row memory so far; None before anything ran."""
        return functools.reduce(_sum, self._memory.values()) if self._memory else None

    async def steps(self) -> AsyncGenerator[Step]:
        """Submit the requests and yield what their choices gain; leaving early aborts what has not ended.

        Raises what `EngineClient.submit` and its streams raise, and `ApiError` where the engine gave a request up. Use
        it inside `contextlib.aclosing`.
        """
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(self._engine.submit(request)) for request in self.requests]
            outputs = await stack.enter_async_context(contextlib.aclosing(_merged(streams)))
            async for index, output in outputs:
                step, is_given_up = self._take(index, output)
                if step or not is_given_up:
                    yield step  # what came before the end stays, also where both come at once
                if is_given_up:
                    raise engine_failed(output.error or "the engine gave this request up")

    def _take(self, index: int, output: RequestOutput) -> tuple[Step, bool]:
        """Return what the choices gain, and whether the engine gave one of them up after that."""
        if output.num_cached_tokens is not None:
            self.num_cached_tokens += output.num_cached_tokens
        if output.timing is not None:
            self.timings.append(output.timing)
        if output.prompt_logprobs is not None:
            self.prompt_logprobs[index] = output.prompt_logprobs
        if output.memory is not None:
            self._memory[index] = output.memory
        step: Step = []
        is_given_up = False
        for part in output.choices:
            choice = self.choices[index * self._n + part.choice]
            if choice.is_finished:
                continue
            ends_badly = part.finish_reason in {FinishReason.ERROR, FinishReason.ABORT}
            said = msgspec.structs.replace(part, finish_reason=None) if ends_badly else part
            if said.token_ids or not ends_badly:
                gain = choice.push(said)
                if gain.finish_reason is not None and said.finish_reason is None:
                    self._engine.abort(output.request_id, said.choice)
                step.append((choice, gain))
            is_given_up |= ends_badly and not choice.is_finished
        return step, is_given_up


def _sum(first: MemoryUse, second: MemoryUse) -> MemoryUse:
    names = MemoryUse.__struct_fields__
    return MemoryUse(**{name: getattr(first, name) + getattr(second, name) for name in names})


async def _forward(index: int, stream: RequestStream, arrivals: _Arrivals) -> None:
    """Put one stream's outputs, and at last its error or None."""
    try:
        async for output in stream:
            await arrivals.put((index, output))
    except TolboothError as error:
        await arrivals.put(error)
    else:
        await arrivals.put(None)


async def _merged(streams: Sequence[RequestStream]) -> AsyncGenerator[tuple[int, RequestOutput]]:
    """Yield the outputs of all streams as they come, each with its stream's number."""
    if len(streams) == 1:
        async for output in streams[0]:
            yield 0, output
        return
    # Of one place: a reader that is slow finds the outputs of several steps put together.
    arrivals: _Arrivals = asyncio.Queue(maxsize=1)
    tasks = [asyncio.create_task(_forward(index, stream, arrivals)) for index, stream in enumerate(streams)]
    try:
        num_open = len(tasks)
        while num_open:
            arrival = await arrivals.get()
            if arrival is None:
                num_open -= 1
            elif isinstance(arrival, TolboothError):
                raise arrival
            else:
                yield arrival
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
