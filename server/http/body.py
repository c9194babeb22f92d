"""A request's body, read with a bound on its bytes and on the time it takes."""

import asyncio

from starlette.requests import Request

from server.http.errors import ApiError

_SECONDS = 60.0
"""For the whole body; longer, and it is no client but somebody who holds connections open."""


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return the body, or raise the `ApiError` for one that is too large or comes too slowly."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client went away before its request was whole", code="incomplete_body")
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(
            400,
            f"the body did not arrive within {_SECONDS:g} s",
            code="incomplete_body",
            headers={"Connection": "close"},
        ) from None


def _too_large(max_bytes: int) -> ApiError:
    # What is left of the body is not waited for.
    headers = {"Connection": "close"}
    return ApiError(413, f"the body has more than {max_bytes} bytes", code="body_too_large", headers=headers)
