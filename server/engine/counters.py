"""What a scheduler counts. Knows nothing of who asks."""

from bisect import bisect_left
from dataclasses import dataclass, field

from server.engine.messages import BATCH_SIZES


@dataclass
class Counters:
    """What a scheduler did since its start."""

    steps: int = 0
    deferred_steps: int = 0
    """Times that a sequence sat out a step for a row."""
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    prefix_cache_queries: int = 0
    """Tokens of sequences that began, or began again."""
    prefix_cache_hits: int = 0
    """Those that were computed already."""
    batch_sizes: list[int] = field(default_factory=lambda: [0] * (len(BATCH_SIZES) + 1))
    """Steps by the number of their sequences: one count for each of `BATCH_SIZES` and one above."""
    batch_sizes_sum: int = 0

    def note_step(self, num_sequences: int) -> None:
        """Count a step that has run."""
        self.steps += 1
        self.batch_sizes[bisect_left(BATCH_SIZES, num_sequences)] += 1
        self.batch_sizes_sum += num_sequences
