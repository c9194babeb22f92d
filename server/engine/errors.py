"""What a request can do wrong, and what can go wrong with one.

| error            | meaning                                                                  |
|------------------|--------------------------------------------------------------------------|
| `RequestError`   | the request cannot be served as it is; `param` names the field           |
| `QueueFullError` | the engine has as many requests waiting as it takes; try again later     |
"""

from paging import TolboothError


class RequestError(TolboothError, ValueError):
    """A request that cannot be served as it is."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        """The field at fault, spelled as `SamplingParams` or `Request` does."""


class QueueFullError(TolboothError):
    """As many requests wait as the engine takes."""
