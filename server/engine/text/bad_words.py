"""Words that an output must not have, as tokens."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from models.errors import CorpusError
from models.tokenizer import encode_batch
from server.engine.errors import RequestError


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each word at the beginning of a text and behind a space, each sequence once.

    A word may still come about in other tokens than the tokenizer takes for it. Raises `RequestError`.
    """
    stripped = [word.lstrip() or word for word in words]  # a word of spaces alone is itself
    try:
        sequences = encode_batch(tokenizer, [text for word in stripped for text in (word, f" {word}")])
    except CorpusError as error:
        raise RequestError(f"bad_words: {error}", param="bad_words") from error
    return [list(ids) for ids in dict.fromkeys(tuple(ids) for ids in sequences if ids)]
