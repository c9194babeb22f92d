"""Requests to the counting engine."""

from server.engine.messages import Request
from server.engine.params import SamplingParams
from tests.server.process.counting_worker import COUNT


def request(request_id="r", kind=COUNT, *, max_tokens=5, n=1):
    return Request(request_id=request_id, prompt_ids=[kind], params=SamplingParams(max_tokens=max_tokens, n=n))


async def tokens_of(stream):
    """All tokens of a request's first choice."""
    async with stream:
        return [token async for output in stream for token in output.choices[0].token_ids]
