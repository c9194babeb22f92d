"""What is counted and timed of requests that ask for text, as their clients see them.

One request of a client is one observation, however many prompts and choices it has; of the engine's times there is one
for each prompt. Knows the engine's messages. Knows no HTTP.
"""

from server.engine.messages import FinishReason, RequestTiming
from server.http.errors import CODES
from server.http.metrics.distribution import Distribution

SECONDS = tuple(0.001 * 2**power for power in range(20))
"""Bounds for what takes from a millisecond to the ten minutes that a request may last."""
TOKEN_SECONDS = tuple(0.0005 * 2**power for power in range(16))
"""Bounds for the time between two tokens: half a millisecond to 16 seconds."""
TOKENS = tuple(float(2**power) for power in range(18))
"""Bounds for lengths: 1 to 131,072 tokens."""

OTHER = "other"
FINISH_REASONS = (FinishReason.STOP, FinishReason.LENGTH)


class RequestMetrics:
    """Counters and distributions over all requests since the server's start."""

    def __init__(self) -> None:
        self.successes = dict.fromkeys(FINISH_REASONS, 0)
        self.errors = dict.fromkeys((*sorted(CODES), OTHER), 0)
        self.first_token_seconds = Distribution(SECONDS)
        self.inter_token_seconds = Distribution(TOKEN_SECONDS)
        self.queue_seconds = Distribution(SECONDS)
        self.prefill_seconds = Distribution(SECONDS)
        self.decode_seconds = Distribution(SECONDS)
        self.e2e_seconds = Distribution(SECONDS)
        self.prompt_tokens = Distribution(TOKENS)
        self.generation_tokens = Distribution(TOKENS)

    def note_tokens(self, seconds: float, num_tokens: int) -> None:
        """Take in that a choice gained tokens so many seconds after those before.

        What was put together on the way, because its reader was slow, counts as tokens at even distances.
        """
        self.inter_token_seconds.note(seconds / num_tokens, num_tokens)

    def note_timing(self, timing: RequestTiming) -> None:
        """Take in what the engine says of one prompt."""
        self.queue_seconds.note(timing.queue_seconds)
        self.prefill_seconds.note(timing.prefill_seconds)

    def note_error(self, code: str) -> None:
        """Count a request that was answered with an error, or whose stream ended with one."""
        self.errors[code if code in self.errors else OTHER] += 1

    def note_success(
        self,
        reason: FinishReason,
        *,
        e2e_seconds: float,
        decode_seconds: float,
        prompt_tokens: int,
        generation_tokens: int,
    ) -> None:
        """Take in a request that was served to its end."""
        self.successes[reason] += 1
        self.e2e_seconds.note(e2e_seconds)
        self.decode_seconds.note(decode_seconds)
        self.prompt_tokens.note(prompt_tokens)
        self.generation_tokens.note(generation_tokens)
