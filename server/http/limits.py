"""How much one request may ask for; what is over a limit is a 400 that says so."""

from collections.abc import Sequence

from server.config import ServerConfig
from server.engine.params import SamplingParams
from server.http.errors import invalid


def check_params(params: SamplingParams, config: ServerConfig, *, vocab_size: int, logprobs_field: str) -> None:
    """Raise the error for the first parameter beyond a limit; `logprobs_field`: what the client calls `logprobs`."""
    _at_most("n", params.n, config.max_n, "choices for a prompt")
    for name in ("stop", "bad_words"):
        texts: Sequence[str] = getattr(params, name)
        _at_most(name, len(texts), config.max_stop_strings, "strings")
        _at_most(name, max(map(len, texts), default=0), config.max_stop_length, "characters in a string")
    _at_most("logit_bias", len(params.logit_bias), config.max_logit_bias, "entries")
    for name, value in ((logprobs_field, params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        _at_most(name, value or 0, config.max_logprobs, "log probabilities for a position")
    for name in ("stop_token_ids", "allowed_token_ids"):
        _at_most(name, len(getattr(params, name) or ()), vocab_size, "tokens, the whole vocabulary")
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        check_ids(name, tuple(getattr(params, name) or ()), vocab_size)


def check_ids(name: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Raise the error for ids outside the vocabulary."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        outside = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
        raise invalid(f"{name} has the token id {outside}; ids of this model go from 0 to {vocab_size - 1}", param=name)


def check_sequences(num_prompts: int, n: int, config: ServerConfig) -> None:
    """Raise the error for too many prompts, or too many choices of all of them together."""
    _at_most("prompt", num_prompts, config.max_prompts, "prompts in a request")
    _at_most("n", num_prompts * n, config.max_sequences, "choices of all prompts together")


def _at_most(name: str, value: int, limit: int, what: str) -> None:
    if value > limit:
        raise invalid(f"{name}: {value} is too much; this server takes at most {limit} {what}", param=name)
