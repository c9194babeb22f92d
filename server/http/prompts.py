"""From the prompts of a request to token ids that fit the model's context."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tokenizers import Tokenizer

from models.errors import CorpusError
from server.engine.errors import RequestError
from server.engine.params import SamplingParams
from server.http.errors import invalid
from server.http.neutral import check_message, check_part
from server.http.requests import ChatMessage, Prompt
from server.http.served_model import ServedModel

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_LONG_TEXT = 16384
"""Characters from which on encoding is left to another thread: it would hold up every stream."""

_Result = TypeVar("_Result")


class TokenPrompt(NamedTuple):
    """A prompt ready for the engine."""

    ids: Sequence[int]
    text: str | None
    """As the client wrote it; None for token ids."""


def separate_prompts(prompt: Prompt) -> list[str | list[int]]:
    """Return the prompts that a request has, each a text or token ids; the error for a mixture or none."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise invalid("prompt has no tokens; give at least one", param="prompt")
    if all(isinstance(each, int) for each in prompt):
        return [prompt]  # type: ignore[list-item]  # ids alone, as has just been seen
    if all(isinstance(each, str) for each in prompt) or all(isinstance(each, list) for each in prompt):
        return prompt  # type: ignore[return-value]  # of one kind, as has just been seen
    raise invalid("prompt mixes texts, token ids and lists; give one kind", param="prompt")


async def encode_prompts(
    prompts: Sequence[str | list[int]], tokenizer: Tokenizer, *, add_special_tokens: bool
) -> list[TokenPrompt]:
    """Return each prompt with its token ids."""
    num_chars = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
    return await _away_if_long(
        num_chars, lambda: [_encoded(prompt, tokenizer, add_special_tokens=add_special_tokens) for prompt in prompts]
    )


async def encode_messages(
    messages: Sequence[ChatMessage], model: ServedModel, *, add_special_tokens: bool, add_generation_prompt: bool
) -> list[int]:
    """Return the token ids of a conversation; with what the tokenizer puts around a text, if asked."""
    template = model.chat_template
    if template is None:
        raise invalid(
            "the model has no chat template; use /v1/completions, or add one to its tokenizer_config.json",
            param="messages",
            code="no_chat_template",
        )
    plain = [_plain(message, f"messages[{index}]") for index, message in enumerate(messages)]
    num_chars = sum(len(message["content"]) for message in plain)
    try:
        ids = await _away_if_long(
            num_chars, lambda: template.encode(plain, add_generation_prompt=add_generation_prompt)
        )
    except CorpusError as error:
        raise RequestError(str(error), param="messages") from error
    if not add_special_tokens:
        return ids
    before, after = _surroundings(model.tokenizer)
    return [*before, *ids, *after]


def fit(
    prompt: TokenPrompt,
    params: SamplingParams,
    *,
    truncate_to: int | None,
    max_model_len: int,
    has_default: bool,
    param: str,
) -> tuple[TokenPrompt, int]:
    """Return the prompt, cut at its beginning if asked, and the tokens that it may be continued with.

    has_default: the client named no `max_tokens`, so that less room than that is no mistake of its own.
    """
    if truncate_to is not None:
        if truncate_to < 1:
            raise invalid(
                f"truncate_prompt_tokens is {truncate_to}; it must be at least 1", param="truncate_prompt_tokens"
            )
        if truncate_to < len(prompt.ids):
            prompt = TokenPrompt(prompt.ids[-truncate_to:], None)
    num_ids = len(prompt.ids)
    if not num_ids:
        raise invalid(f"{param} has no tokens; give at least one", param=param)
    room = max_model_len - num_ids
    wanted = room if params.max_tokens is None else params.max_tokens
    least = 0 if wanted == 0 and params.max_tokens == 0 else 1
    if room < least:
        raise invalid(
            f"the prompt has {num_ids} tokens; this model's context is {max_model_len} tokens, prompt and output",
            param=param,
            code="context_length_exceeded",
        )
    if wanted > room and not has_default:
        raise invalid(
            f"the prompt has {num_ids} tokens and {wanted} are to be generated, {num_ids + wanted} together; this "
            f"model's context is {max_model_len} tokens",
            param=param,
            code="context_length_exceeded",
        )
    return prompt, min(wanted, room)


def _encoded(prompt: str | list[int], tokenizer: Tokenizer, *, add_special_tokens: bool) -> TokenPrompt:
    if not isinstance(prompt, str):
        return TokenPrompt(prompt, None)
    if not tokenizer.encode_special_tokens:
        tokenizer.encode_special_tokens = True  # what a client spells is text
    return TokenPrompt(tokenizer.encode(prompt, add_special_tokens=add_special_tokens).ids, prompt)


def _plain(message: ChatMessage, place: str) -> Mapping[str, str]:
    check_message(message, place)
    if message.role not in _ROLES:
        raise invalid(f"{place}.role is {message.role!r:.80}; this server takes {', '.join(_ROLES)}", param="messages")
    if message.content is None:
        raise invalid(f"{place} has no content", param="messages")
    content = message.content
    if not isinstance(content, str):
        content = "\n".join(check_part(part, f"{place}.content[{index}]") for index, part in enumerate(content))
    plain = {"role": _ROLES[message.role], "content": content}
    return plain if message.name is None else plain | {"name": message.name}


def _surroundings(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before a text, and those behind it."""
    alone, within = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    start = next(start for start in range(len(within) - len(alone) + 1) if within[start : start + len(alone)] == alone)
    return within[:start], within[start + len(alone) :]


async def _away_if_long(num_chars: int, work: Callable[[], _Result]) -> _Result:
    return await asyncio.to_thread(work) if num_chars > _LONG_TEXT else work()
