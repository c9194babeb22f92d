"""Errors as clients see them: `{"error": {"message", "type", "param", "code"}}`, always, and never long.

| status | type                    | when                                                                |
|--------|-------------------------|---------------------------------------------------------------------|
| 400    | `invalid_request_error` | the request cannot be served as it is; `param` names the field      |
| 401    | `invalid_request_error` | no key, or a wrong one                                              |
| 403    | `invalid_request_error` | a change that nobody may make, or not with this key                 |
| 404    | `invalid_request_error` | no such route, model or pack                                        |
| 405    | `invalid_request_error` | the route takes another method                                      |
| 409    | `invalid_request_error` | the memory is not paged                                             |
| 413    | `invalid_request_error` | the body is too large                                               |
| 429    | `rate_limit_error`      | the queue is full; `Retry-After` says when to try again             |
| 500    | `server_error`          | the engine ended or something broke during the request              |
| 503    | `server_error`          | the engine is loading, down or draining; `Retry-After`, as above    |
"""

import math
from collections.abc import Mapping

import msgspec

from server.engine.errors import QueueFullError, RequestError
from server.process.errors import BrokenQuestionError, EngineDiedError, EngineUnavailableError, NoAnswerError

CODES = frozenset(
    {
        "admin_key_needed",
        "body_too_large",
        "context_length_exceeded",
        "draining",
        "engine_busy",
        "engine_died",
        "engine_error",
        "engine_unavailable",
        "incomplete_body",
        "internal_error",
        "invalid_api_key",
        "invalid_json",
        "invalid_request_error",
        "memory_busy",
        "memory_not_paged",
        "method_not_allowed",
        "missing_api_key",
        "missing_field",
        "model_not_found",
        "no_chat_template",
        "no_memory_cells",
        "pack_not_found",
        "queue_full",
        "request_timeout",
        "route_not_found",
        "unknown_field",
    }
)
"""What errors are counted by: their codes, and the types of those that have none."""

_MAX_MESSAGE = 1000
_MAX_NAME = 100
_RETRY_AFTER = 1
"""Seconds after which a full queue may have room again, and a busy engine time."""


class ErrorDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error."""

    error: ErrorDetails


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 the wire's name
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = ErrorBody(
            error=ErrorDetails(
                message=_shortened(message, _MAX_MESSAGE),
                type=type,
                param=None if param is None else _shortened(param, _MAX_NAME),
                code=code,
            )
        )

    @property
    def label(self) -> str:
        """What the error is counted by."""
        return self.body.error.code or self.body.error.type


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error for a request that cannot be served as it is."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, *, retry_after: float | None, code: str) -> ApiError:
    """Return the error for a server that takes no requests now."""
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return ApiError(503, message, type="server_error", code=code, headers=headers)


def queue_full(message: str) -> ApiError:
    """Return the error for a server that has as many requests as it takes."""
    return ApiError(
        429, message, type="rate_limit_error", code="queue_full", headers={"Retry-After": str(_RETRY_AFTER)}
    )


def internal_error() -> ApiError:
    """Return the error for a fault of ours; what it was stands in the log."""
    return ApiError(500, "something broke on the server; its log says what", type="server_error", code="internal_error")


def engine_failed(message: str) -> ApiError:
    """Return the error for a request that the engine began and could not finish."""
    return ApiError(500, message, type="server_error", code="engine_error")


def as_api_error(error: Exception) -> ApiError | None:  # noqa: PLR0911 an answer for each error
    """Return what a client is told of an error that a person may see; None for one that is a fault of ours."""
    match error:
        case ApiError():
            return error
        case RequestError():
            return invalid(str(error), param=error.param)
        case QueueFullError():
            return queue_full(str(error))
        case EngineUnavailableError():
            return unavailable(str(error), retry_after=error.retry_after, code="engine_unavailable")
        case NoAnswerError():
            return unavailable(str(error), retry_after=_RETRY_AFTER, code="engine_busy")
        case BrokenQuestionError():
            return engine_failed(str(error))
        case EngineDiedError():
            return ApiError(500, str(error), type="server_error", code="engine_died")
        case _:
            return None


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
