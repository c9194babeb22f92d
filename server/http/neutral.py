"""Fields that other servers act upon and this one does not: taken with a value that asks for nothing, else refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from server.http.errors import invalid
from server.http.requests import ChatMessage, ChatRequest, CompletionRequest, TextPart

_TEXT_FORMAT = {"type": "text"}

_SHARED: Mapping[str, Sequence[Any]] = {
    "response_format": [_TEXT_FORMAT],
    "spaces_between_special_tokens": [True],
    "use_beam_search": [False],
    "length_penalty": [1],
}
_COMPLETION: Mapping[str, Sequence[Any]] = {**_SHARED, "suffix": [""]}
_CHAT: Mapping[str, Sequence[Any]] = {
    **_SHARED,
    "audio": [],
    "chat_template": [],
    "chat_template_kwargs": [{}],
    "continue_final_message": [False],
    "documents": [[]],
    "echo": [False],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "modalities": [["text"]],
    "moderation": [],
    "parallel_tool_calls": [True, False],
    "prediction": [],
    "prompt_cache_options": [],
    "prompt_cache_retention": [],
    "reasoning_effort": ["none"],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "verbosity": [],
    "web_search_options": [],
}
_MESSAGE: Mapping[str, Sequence[Any]] = {
    "refusal": [],
    "audio": [],
    "annotations": [[]],
    "tool_calls": [[]],
    "tool_call_id": [],
    "function_call": [],
}


def check_completion(request: CompletionRequest) -> None:
    """Raise the error for the first field that asks for something unsupported."""
    _check(request, _COMPLETION)
    wanted = request.n or 1
    if request.best_of is not None and (request.best_of is True or request.best_of != wanted):
        raise invalid(f"best_of is not supported; leave it out, or give it the value of n, {wanted}", param="best_of")


def check_chat(request: ChatRequest) -> None:
    """Raise the error for the first field that asks for something unsupported."""
    _check(request, _CHAT)


def check_message(message: ChatMessage, place: str) -> None:
    """Raise the error for the first field of a message that asks for something unsupported."""
    _check(message, _MESSAGE, place)


def check_part(part: TextPart, place: str) -> str:
    """Return a part's text, or raise the error for one that is no text."""
    if part.type != "text" or part.text is None:
        raise invalid(f"{place} is of the type {part.type!r:.80}; only text is supported", param="messages")
    return part.text


def _check(request: msgspec.Struct, neutral: Mapping[str, Sequence[Any]], place: str | None = None) -> None:
    for name, values in neutral.items():
        value = getattr(request, name)
        # True == 1, but a switch is no number on the wire.
        if value is None or any(
            value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in values
        ):
            continue
        where = name if place is None else f"{place}.{name}"
        raise invalid(f"{where} is not supported with this value; leave it out", param="messages" if place else name)
