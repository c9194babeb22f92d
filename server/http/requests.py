"""What clients may send, field by field, and how a body becomes one of these.

Names and types only: ranges are `SamplingParams`', limits are `server/http/limits.py`'s, and which fields may only have
a neutral value is in `server/http/neutral.py`. None always means what leaving the field out means.
"""

from typing import Annotated, Any, TypeVar

import msgspec

from server.http.errors import ApiError, invalid
from server.nearest import nearest

Count = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Seed = Annotated[int, msgspec.Meta(ge=0)]
Prompt = str | list[str | TokenId | list[TokenId]]
"""A text, token ids, or a list of several of one of these."""


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stream says besides its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class MemoryFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request changes of the memory's part in the model."""

    alpha: float | list[float] | None = None
    drop_layers: list[Count] | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields that completions and chat completions share."""

    model: str | None = None
    max_tokens: Count | None = None
    n: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Count | None = None
    min_p: float | None = None
    min_tokens: Count | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: list[str] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    seed: Seed | None = None
    prompt_logprobs: Count | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Count | None = None
    priority: Count | None = None
    cache_salt: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_memory_stats: bool | None = None
    memory: MemoryFields | None = None

    # Taken and not acted upon: they label a request, or place it in plans that there are none of here.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # Only their neutral values are taken (`server/http/neutral.py`).
    response_format: Any = None
    spaces_between_special_tokens: Any = None
    use_beam_search: Any = None
    length_penalty: Any = None


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/completions`."""

    prompt: Prompt
    echo: bool | None = None
    logprobs: Count | None = None

    best_of: Any = None
    suffix: Any = None


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A piece of a message; of the wire's kinds only text is served."""

    type: str
    text: str | None = None
    refusal: Any = None
    image_url: Any = None
    input_audio: Any = None
    video_url: Any = None
    file: Any = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None

    refusal: Any = None
    audio: Any = None
    annotations: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None


Messages = Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]


class ChatRequest(GenerationRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    add_generation_prompt: bool | None = None

    audio: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None
    continue_final_message: Any = None
    documents: Any = None
    echo: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    tool_choice: Any = None
    tools: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /tokenize`: a prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /detokenize`."""

    tokens: list[TokenId]
    model: str | None = None


_Body = TypeVar("_Body", bound=msgspec.Struct)


def parse_body(body: bytes, kind: type[_Body]) -> _Body:
    """Return what a body says, or raise the `ApiError` that names the field at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _misfit(text: str, kind: type[msgspec.Struct]) -> ApiError:
    """Return the error for JSON of another shape, from what the decoder says of it."""
    what, _, path = text.partition(" - at `$")
    path = path.removesuffix("`").removeprefix(".")
    if what.startswith("Object contains unknown field `"):
        field = what.removeprefix("Object contains unknown field `").removesuffix("`")
        hint = "" if path else nearest(field, kind.__struct_fields__)
        return invalid(
            f"unknown field {field[:80]!r}{f' in {path}' if path else ''}{hint}",
            param=f"{path}.{field}" if path else field,
            code="unknown_field",
        )
    if what.startswith("Object missing required field `"):
        field = what.removeprefix("Object missing required field `").removesuffix("`")
        param = f"{path}.{field}" if path else field
        return invalid(f"{param} is missing", param=param, code="missing_field")
    if not path:
        return invalid(f"the body is not as it must be: {what[0].lower()}{what[1:]}")
    return invalid(f"{path}: {what[0].lower()}{what[1:]}", param=path.partition(".")[0].partition("[")[0])
