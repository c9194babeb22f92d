"""Special tokens in text that the program itself put together."""

import re
from collections.abc import Iterator

from tokenizers import Tokenizer


def split_special(tokenizer: Tokenizer, text: str) -> Iterator[str | int]:
    """Yield the pieces of `text` between special tokens as they are, and the special tokens as their ids."""
    special_ids = {
        token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special
    }
    if not special_ids:
        yield text
        return
    # The longest first, so that a token which begins another does not hide it.
    names = sorted(special_ids, key=len, reverse=True)
    # re.split alternates: text, special token, text, ...
    for index, part in enumerate(re.split(f"({'|'.join(map(re.escape, names))})", text)):
        if index % 2:
            yield special_ids[part]
        elif part:
            yield part
