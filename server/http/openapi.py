"""The description of the API in OpenAPI: bodies and answers as their types say them."""

from functools import cache
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from server.http import memory_messages, memory_token_messages, requests, responses
from server.http.errors import ErrorBody

_REFERENCE = "#/components/schemas/{name}"
_BODIES = (
    requests.CompletionRequest,
    requests.ChatRequest,
    requests.TokenizeRequest,
    requests.DetokenizeRequest,
    responses.Completion,
    responses.ChatCompletion,
    responses.ModelList,
    responses.ModelCard,
    responses.Tokens,
    responses.Text,
    responses.Health,
    responses.Version,
    memory_messages.MemoryState,
    memory_messages.MemoryMap,
    memory_messages.HitRateCurve,
    memory_messages.PackCard,
    memory_messages.PackCards,
    memory_messages.PackRequest,
    memory_messages.PinList,
    memory_messages.PinRequest,
    memory_messages.PinState,
    memory_messages.UnloadedPack,
    memory_messages.WarmRequest,
    memory_messages.Warmed,
    memory_token_messages.TokenMemory,
    ErrorBody,
)


def describe(summary: str, body: type[msgspec.Struct] | None, answer: type[msgspec.Struct] | None) -> dict[str, Any]:
    """Return what a route's decorator is told about it."""
    extra: dict[str, Any] = {"responses": {"default": {"description": "An error.", "content": _content(ErrorBody)}}}
    if answer is not None:
        extra["responses"]["200"] = {"description": answer.__doc__, "content": _content(answer)}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _content(body)}
    return {"summary": summary, "openapi_extra": extra, "response_model": None}


def describe_app(app: FastAPI) -> None:
    """Make `app` answer `/openapi.json` with the types that `describe` named."""

    @cache
    def description() -> dict[str, Any]:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(msgspec.json.schema_components(_BODIES, ref_template=_REFERENCE)[1])
        for unused in ("HTTPValidationError", "ValidationError"):  # every error has our body
            schemas.pop(unused, None)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return document

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's own way of replacing it


def _content(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}}
