"""From the fields of a request to `SamplingParams`."""

from typing import Any

from server.engine.params import SamplingParams
from server.http.errors import invalid
from server.http.requests import ChatRequest, CompletionRequest, GenerationRequest

_SAME_NAMES = (
    "n",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "allowed_token_ids",
    "bad_words",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "seed",
    "prompt_logprobs",
    "skip_special_tokens",
)


def completion_params(request: CompletionRequest) -> SamplingParams:
    """Return what a completion asks for; raises `RequestError` or `ApiError`."""
    values = _shared(request)
    if request.max_tokens is not None:
        values["max_tokens"] = request.max_tokens
    if request.logprobs is not None:
        values["logprobs"] = request.logprobs
        if request.echo:
            values["prompt_logprobs"] = max(request.logprobs, request.prompt_logprobs or 0)
    return SamplingParams(**values)


def chat_params(request: ChatRequest) -> SamplingParams:
    """Return what a chat completion asks for; raises `RequestError` or `ApiError`."""
    values = _shared(request)
    given = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(given) > 1:
        raise invalid("max_tokens and max_completion_tokens differ; give one of them", param="max_completion_tokens")
    values["max_tokens"] = next(iter(given), None)
    if request.top_logprobs is not None:
        if not request.logprobs:
            raise invalid("top_logprobs needs logprobs: true", param="top_logprobs")
        if request.top_logprobs < 0:
            raise invalid(f"top_logprobs is {request.top_logprobs}; it must be at least 0", param="top_logprobs")
    if request.logprobs:
        values["logprobs"] = request.top_logprobs or 0
    return SamplingParams(**values)


def _shared(request: GenerationRequest) -> dict[str, Any]:
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options is only for stream: true", param="stream_options")
    if request.stream_options is not None and request.stream_options.include_obfuscation:
        raise invalid("include_obfuscation is not supported; leave it out", param="stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise invalid("prompt_logprobs cannot be streamed; leave out stream", param="prompt_logprobs")
    values = {name: value for name in _SAME_NAMES if (value := getattr(request, name)) is not None}
    if request.stop is not None:
        values["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.logit_bias is not None:
        values["logit_bias"] = {_token_id(key): bias for key, bias in request.logit_bias.items()}
    return values


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise invalid(f"logit_bias has the key {key!r:.80}; its keys are token ids", param="logit_bias")
    return int(key)
