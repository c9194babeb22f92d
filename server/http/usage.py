"""The tokens of a request, and what it asked of the row memory."""

from msgspec import UNSET

from server.engine.messages import MemoryUse
from server.http.generation import Generation
from server.http.responses import MemoryStats, PromptTokensDetails, Usage


def usage_of(generation: Generation, *, with_memory: bool) -> Usage:
    """Return the usage so far."""
    prompt, completion = generation.num_prompt_tokens, generation.num_completion_tokens
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(generation.num_cached_tokens),
        tol=_memory_stats(generation.memory) if with_memory else UNSET,
    )


def _memory_stats(memory: MemoryUse | None) -> MemoryStats | None:
    if memory is None:
        return None
    return MemoryStats(
        rows=memory.rows,
        hits=memory.device_hits,
        minor_faults=memory.host_hits,
        major_faults=memory.major_faults,
        bytes=memory.bytes_read,
        stall_seconds=memory.stall_seconds,
    )
