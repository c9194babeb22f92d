"""What can go wrong between a process that asks and the engine's process.

TolboothError
├── FrameError                what came over the socket is no message
├── EngineFatalError          the engine cannot be loaded, and trying again would not help
├── EngineUnavailableError    the engine takes no requests now; `retry_after` says when to try again
├── EngineDiedError           the engine ended before the request did
├── NoAnswerError             the engine did not answer a question in time
└── BrokenQuestionError       the engine could not make sense of a question, or broke over it

What an engine refuses is a `RequestError` or a `QueueFullError` (`server/engine/errors.py`), as if it were in process.
"""

from paging import TolboothError


class FrameError(TolboothError):
    """What came over the socket is no message, or none that may come; the connection is of no use any more."""


class EngineFatalError(TolboothError):
    """The engine cannot be loaded, and trying again would not help."""


class EngineUnavailableError(TolboothError):
    """The engine takes no requests now: it is being loaded, is started again, or was stopped."""

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which it may take requests again, a guess of at least 1; None: not before a person acts."""


class EngineDiedError(TolboothError):
    """The engine ended, or was stopped, before the request did; asking again is safe and may succeed."""


class NoAnswerError(TolboothError):
    """The engine did not answer a question in time; it may have done what it was asked to, or do it yet."""


class BrokenQuestionError(TolboothError):
    """The engine knows no such question, or something broke over it; nothing else is wrong."""
