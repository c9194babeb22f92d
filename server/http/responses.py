"""What clients get, in the shapes of the OpenAI API with a few fields more.

Streams write the same fields by hand (`server/http/chunks.py`).
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from server.engine.messages import FinishReason


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """How many of the prompt's tokens needed no work."""

    cached_tokens: int


class MemoryStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asked of the row memory; `rows = hits + minor_faults + major_faults`."""

    rows: int
    hits: int
    minor_faults: int
    major_faults: int
    bytes: int
    """Read from storage."""
    stall_seconds: float


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    tol: MemoryStats | UnsetType | None = UNSET
    """Only where asked for; None where the engine did not say."""


class PromptLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate at a position of the prompt."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""By position, then by token id."""


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities as completions show them: one list per aspect."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/completions`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One of the likeliest tokens at a position."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """The token at a position, and the likeliest there."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities as chat completions show them: one entry per token."""

    content: list[TokenLogprob]
    refusal: None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One message."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One name under which the model is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tolbooth"
    root: str
    """The name that the model's answers have; others are aliases of it."""
    parent: str | UnsetType = UNSET
    """Of a model with a memory pack: the name of the model alone."""
    max_model_len: int


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /detokenize`."""

    prompt: str


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine does before it is ready."""

    phase: str
    fraction: float
    """How much of this phase is done."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /health`."""

    status: str
    """`ready`, `starting`, `down`, `stopped` or `draining`."""
    model: str
    loading: Loading | UnsetType = UNSET
    """How far the engine is, while it loads."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /version`."""

    version: str
