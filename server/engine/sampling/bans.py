"""Tokens that one sequence must not have next: ends that come too early, and the last tokens of bad words.

Bans give way where nothing else would be left to draw: first those of `min_tokens`, then those of `bad_words`. What
`allowed_token_ids` leaves out stays out. Knows neither batches nor tensors.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from server.engine.params import SamplingParams


class Bans:
    """What one sequence's parameters forbid, now."""

    def __init__(
        self, params: SamplingParams, *, eos_token_id: int | None, bad_word_ids: Sequence[Sequence[int]]
    ) -> None:
        self._min_tokens = params.min_tokens
        ends = set(params.stop_token_ids)
        if eos_token_id is not None and not params.ignore_eos:
            ends.add(eos_token_id)
        self._ends = frozenset(ends)
        self._single = frozenset(word[0] for word in bad_word_ids if len(word) == 1)
        self._longer = [(list(word[:-1]), word[-1]) for word in bad_word_ids if len(word) > 1]
        self._allowed = None if params.allowed_token_ids is None else frozenset(params.allowed_token_ids)

    def after(self, output_ids: Sequence[int], *, vocab_size: int) -> AbstractSet[int]:
        """Return what must not follow `output_ids`; never all that could."""
        words = self._single | {
            last for beginning, last in self._longer if list(output_ids[-len(beginning) :]) == beginning
        }
        if len(output_ids) < self._min_tokens:
            banned = words | self._ends
            if self._leave_any(banned, vocab_size):
                return banned
        return words if self._leave_any(words, vocab_size) else frozenset()

    def _leave_any(self, banned: AbstractSet[int], vocab_size: int) -> bool:
        return len(banned) < vocab_size if self._allowed is None else not self._allowed <= banned
