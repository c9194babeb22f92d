"""The blocks of sequences: found in the prefix cache, added as they grow, shared once full, given back.

Knows sequences and the pool of blocks; knows nothing of rows, lanes or steps.
"""

from server.engine.blocks import BlockPool, extend_digests
from server.engine.sequence import Sequence

_LIKELY_TOKENS = 512
"""Most tokens for which a sequence is given room behind it: many end before what they might have."""


class SequenceBlocks:
    """What a pool's blocks hold for which sequence."""

    def __init__(self, pool: BlockPool, *, block_size: int, max_model_len: int | None = None) -> None:
        """max_model_len: tokens that no sequence has more of."""
        self.pool = pool
        self.block_size = block_size
        self._max_model_len = max_model_len

    def cached(self, sequence: Sequence) -> list[int]:
        """Return the blocks of the longest prefix that is there, short of the last token: that is to be computed."""
        if sequence.state.request.params.prompt_logprobs is not None and not sequence.output_ids:
            return []  # what scores the prompt runs all of it
        extend_digests(sequence.digests, sequence.state.root, sequence.ids, self.block_size)
        return self.pool.match(sequence.digests[: (len(sequence.ids) - 1) // self.block_size])

    def num_missing(self, sequence: Sequence, cached: list[int]) -> int:
        """Return how many free blocks a sequence takes that begins with cached ones and runs all tokens it has."""
        return -(-len(sequence.ids) // self.block_size) - len(cached) + self.pool.num_unheld(cached)

    def begin(self, sequence: Sequence, cached: list[int]) -> None:
        """Let a sequence hold cached blocks and go on behind them."""
        self.pool.hold(cached)
        sequence.table.extend(cached)
        sequence.num_computed = sequence.num_published = len(cached) * self.block_size

    def num_needed(self, sequence: Sequence, length: int) -> int:
        """Return how many blocks the next `length` tokens need beside those that are there."""
        return max(0, -(-(sequence.num_computed + length) // self.block_size) - len(sequence.table))

    def grow(self, sequence: Sequence, length: int) -> int:
        """Add blocks for the next `length` tokens, as many as are free; return for how many tokens there is room."""
        needed = min(self.num_needed(sequence, length), self.pool.num_free)
        if needed:
            blocks = sequence.table.blocks
            room = self._num_likely(sequence, sequence.num_computed + length)
            sequence.table.extend(self.pool.allocate(needed, after=blocks[-1] if blocks else None, room=room))
        return min(length, len(sequence.table) * self.block_size - sequence.num_computed)

    def _num_likely(self, sequence: Sequence, num_tokens: int) -> int:
        """Return how many blocks a sequence of so many tokens is likely to need soon."""
        params, state = sequence.state.request.params, sequence.state
        left = _LIKELY_TOKENS
        if params.max_tokens is not None:
            left = min(left, max(0, len(state.prompt_ids) + params.max_tokens - num_tokens))
        if self._max_model_len is not None:
            left = min(left, max(0, self._max_model_len - num_tokens))
        return -(-(num_tokens + left) // self.block_size) - -(-num_tokens // self.block_size)

    def publish(self, sequence: Sequence) -> None:
        """Let the blocks that have become full be found."""
        first, stop = sequence.num_published // self.block_size, sequence.num_computed // self.block_size
        if stop > first:
            extend_digests(
                sequence.digests, sequence.state.root, sequence.ids[: sequence.num_computed], self.block_size
            )
            for index in range(first, stop):
                self.pool.publish(sequence.table.blocks[index], sequence.digests[index])
            sequence.num_published = stop * self.block_size

    def free(self, sequence: Sequence) -> None:
        """Give all blocks back; the sequence would begin again."""
        self.pool.release(reversed(sequence.table.clear()))
        sequence.num_computed = sequence.num_published = 0
