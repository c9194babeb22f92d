"""How long the first request waits for its first output: what a start costs beyond the loading. Knows no clock."""

from collections.abc import Callable, Container


class FirstOutput:
    """Watches requests until one of them has an output; one that ends without makes room for the next."""

    def __init__(self, tell: Callable[[float], None] | None, *, clock: Callable[[], float]) -> None:
        """tell: called once, with the seconds between request and output."""
        self._tell, self._clock = tell, clock
        self._request_id: str | None = None
        self._sent = 0.0

    def note_request(self, request_id: str, open_ids: Container[str]) -> None:
        """Note a request that is sent now; `open_ids` are those of the requests that have not ended."""
        if self._tell is not None and self._request_id not in open_ids:
            self._request_id, self._sent = request_id, self._clock()

    def note_output(self, request_id: str) -> None:
        """Note an output."""
        if self._tell is not None and request_id == self._request_id:
            tell, self._tell = self._tell, None
            tell(self._clock() - self._sent)
