"""The place where exceptions become answers."""

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import ApiError, as_api_error, internal_error
from server.http.form import encode_json
from server.http.record import record_of

_log = logging.getLogger("tolbooth.http")


class ErrorGuard:
    """Answers with the error body whatever is raised further in, and logs what is a fault of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; nothing but cancellation comes out."""
        has_begun = False

        async def watch(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:  # noqa: BLE001 the last place where one can become an answer
            told = as_api_error(error)
            if told is None:
                _log.error("%s %s broke", scope.get("method"), scope.get("path"), exc_info=error)
                told = internal_error()
            record_of(scope).error = told
            # An answer that has begun is cut off by the server, so that it is not taken for whole.
            if not has_begun:
                await error_response(told)(scope, receive, send)


def error_response(error: ApiError) -> Response:
    """Return the answer that says `error`."""
    return Response(
        encode_json(error.body), status_code=error.status, headers=error.headers, media_type="application/json"
    )


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Return the answer for what the routing raises: no such route, no such method."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status_code)
    told = record_of(request.scope).error = ApiError(error.status_code, message, code=code, headers=error.headers)
    return error_response(told)
