"""What a request can do wrong, and what can go wrong with one.

| error            | meaning                                                                  |
|------------------|--------------------------------------------------------------------------|
| `RequestError`   | the request cannot be served as it is; `param` names the field           |
| `QueueFullError` | the engine has as many requests waiting as it takes; try again later     |
"""

import sys

from paging import RowReadError, TolboothError


class RequestError(TolboothError, ValueError):
    """A request that cannot be served as it is."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        """The field at fault, spelled as `SamplingParams` or `Request` does."""


class QueueFullError(TolboothError):
    """As many requests wait as the engine takes."""


def report(error: Exception) -> str:
    """Return what callers are told of an error. Where a table's files lie is not their business: the log has that."""
    if not isinstance(error, RowReadError) or error.path is None:
        return str(error)
    sys.stderr.write(f"error: {error}\n")
    return str(error).replace(str(error.path), error.path.name)
