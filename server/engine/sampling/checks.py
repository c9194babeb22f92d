"""Parameters that only a model's vocabulary can be wrong about."""

from collections.abc import Iterable, Sequence

from server.engine.errors import RequestError
from server.engine.params import SamplingParams


def check_params(params: SamplingParams, vocab_size: int, bad_word_ids: Sequence[Sequence[int]] = ()) -> None:
    """Raise `RequestError` for ids outside the vocabulary, words of no token, or more log probabilities than tokens."""
    ids_by_param: dict[str, Iterable[int]] = {
        "logit_bias": params.logit_bias,
        "allowed_token_ids": params.allowed_token_ids or (),
        "stop_token_ids": params.stop_token_ids,
        "bad_words": (token_id for word in bad_word_ids for token_id in word),
    }
    for param, ids in ids_by_param.items():
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                raise RequestError(
                    f"{param} has token id {token_id}; the model's vocabulary has ids 0 to {vocab_size - 1}",
                    param=param,
                )
    if not all(bad_word_ids):
        raise RequestError("bad_words has a word that is no token at all; leave it out", param="bad_words")
    for param in ("logprobs", "prompt_logprobs"):
        if (getattr(params, param) or 0) > vocab_size:
            raise RequestError(
                f"{param} is {getattr(params, param)}; the model's vocabulary has {vocab_size} tokens", param=param
            )
