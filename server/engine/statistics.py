"""What an engine says of itself in figures: what it counted, and how things stand.

Knows the parts of an engine and what they count. Knows nothing of who asks.
"""

import dataclasses

from server.engine.capacity import resident_bytes
from server.engine.messages import EngineStats
from server.engine.row_memory import PagedMemory
from server.engine.scheduler import Scheduler


class StepTally:
    """What steps that have run did; counts from the engine's start."""

    def __init__(self) -> None:
        self.generation_tokens = 0
        self._rows = [0, 0, 0]

    def note_rows(self, counts: list[int]) -> None:
        """Count a step's token positions by the tier that their rows came from, in the order of `Tier`."""
        self._rows = [before + count for before, count in zip(self._rows, counts, strict=True)]

    def snapshot(self, scheduler: Scheduler) -> EngineStats:
        """Return the counters and sizes of this moment; to be called between two steps."""
        counters, pool, memory = scheduler.counters, scheduler.blocks.pool, scheduler.rows.memory
        pager = memory.stats() if isinstance(memory, PagedMemory) else None
        device_hits, host_hits, major_faults = self._rows if pager is not None else (0, 0, 0)
        return EngineStats(
            requests_running=len({id(sequence.state) for sequence in scheduler.started}),
            requests_waiting=len({id(sequence.state) for sequence in scheduler.waiting}),
            requests_deferred=scheduler.num_deferred if scheduler.started else 0,
            prompt_tokens=counters.prompt_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            prefix_cache_queries=counters.prefix_cache_queries,
            prefix_cache_hits=counters.prefix_cache_hits,
            generation_tokens=self.generation_tokens,
            preemptions=counters.preemptions,
            steps=counters.steps,
            deferred_steps=counters.deferred_steps,
            stall_seconds=scheduler.rows.stall_seconds,
            kv_blocks=pool.num_blocks,
            kv_blocks_used=pool.num_held,
            resident_bytes=resident_bytes(),
            batch_sizes=tuple(counters.batch_sizes),
            batch_sizes_sum=counters.batch_sizes_sum,
            row_device_hits=device_hits,
            row_host_hits=host_hits,
            row_major_faults=major_faults,
            memory={} if pager is None else dataclasses.asdict(pager),
        )
