"""When the tokens of one request come."""

import time
from collections.abc import Callable

from server.http.generation import Step
from server.http.metrics.requests import RequestMetrics


class Pace:
    """Looks at the clock at every step of a request, and tells the metrics as tokens come."""

    def __init__(
        self, metrics: RequestMetrics, *, began: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`began`: when the request came, by `clock`."""
        self.first_token_seconds: float | None = None
        """From the request to its first token; None before there is one."""
        self.decode_seconds = 0.0
        """From the first token to the last so far."""
        self._metrics = metrics
        self._began = began
        self._clock = clock
        self._came: dict[int, float] = {}
        """When each choice, by its index, last gained tokens."""

    def note(self, step: Step) -> None:
        """Take in what choices have gained just now."""
        now = self._clock()
        for choice, gain in step:
            if not gain.num_tokens:
                continue
            if self.first_token_seconds is None:
                self.first_token_seconds = now - self._began
                self._metrics.first_token_seconds.note(self.first_token_seconds)
            self.decode_seconds = now - self._began - self.first_token_seconds
            if (before := self._came.get(choice.index)) is not None:
                self._metrics.note_tokens(now - before, gain.num_tokens)
            self._came[choice.index] = now
