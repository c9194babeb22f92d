"""One streamed completion, and when each piece of it came."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from server.loadgen.prompts import Prompt

_MAX_ERROR_CHARACTERS = 300


@dataclass
class Record:
    """What became of one request; times are seconds of a monotonic clock."""

    sent: float
    """When it went out; in a load of a given rate, when it was due."""
    arrivals: list[float] = field(default_factory=list)
    """When each piece with text or tokens came."""
    ended: float | None = None
    """When the whole answer was there; None where it never was."""
    prompt_tokens: int | None = None
    """As the server counts them; None where it does not say."""
    completion_tokens: int | None = None
    error: str | None = None
    """Why there is no whole answer."""

    @property
    def is_ok(self) -> bool:
        """Whether the whole answer came."""
        return self.error is None

    @property
    def first_token(self) -> float | None:
        """Seconds from sending to the first piece (TTFT)."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def between_pieces(self) -> list[float]:
        """Seconds between one piece and the next (ITL); several tokens may share a piece."""
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def per_token(self) -> float | None:
        """Seconds for each token after the first (TPOT), by the server's count."""
        if len(self.arrivals) < 2 or not self.completion_tokens or self.completion_tokens < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.completion_tokens - 1)

    @property
    def whole(self) -> float | None:
        """Seconds from sending to the end."""
        return None if self.ended is None else self.ended - self.sent


async def complete(http: httpx.AsyncClient, body: Mapping[str, Any], prompt: Prompt, *, due: float) -> Record:
    """Stream `body` with this prompt from `v1/completions`; whatever goes wrong is in the record."""
    record = Record(sent=due)
    try:
        async with http.stream("POST", "v1/completions", json={**body, "prompt": prompt}) as answer:
            if answer.status_code != httpx.codes.OK:
                await answer.aread()
                record.error = f"HTTP {answer.status_code}: {answer.text[:_MAX_ERROR_CHARACTERS]}"
                return record
            is_over = False
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    is_over = _take(record, line[5:].strip()) or is_over
            if not is_over and record.error is None:
                record.error = "the stream ended before its end"
    except httpx.HTTPError as error:
        record.error = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
    else:
        record.ended = time.perf_counter()
    return record


def _take(record: Record, data: str) -> bool:
    """Note an event of the stream; return whether it is the last one."""
    now = time.perf_counter()
    if data == "[DONE]":
        return True
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        record.error = f"an event is no JSON object: {data[:_MAX_ERROR_CHARACTERS]}"
        return False
    if (error := event.get("error")) is not None:
        record.error = str(error.get("message", error) if isinstance(error, dict) else error)[:_MAX_ERROR_CHARACTERS]
        return False
    usage = event.get("usage")
    if isinstance(usage, dict):
        record.prompt_tokens = usage.get("prompt_tokens", record.prompt_tokens)
        record.completion_tokens = usage.get("completion_tokens", record.completion_tokens)
    choices = event.get("choices") or []
    # A last piece may say only why the text ended; an empty first one is a token without text of its own.
    if any(choice.get("text") or choice.get("finish_reason") is None for choice in choices):
        record.arrivals.append(now)
    return False
