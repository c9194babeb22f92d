"""Tokens as people name them on the command line: by their text, or as `#17` by their id."""

import re

from tokenizers import Tokenizer

from models.errors import ConfigError
from models.tokenizer import encode
from server.engine.text import token_text

_MOST_PIECES = 8


def token_id(tokenizer: Tokenizer, name: str, *, vocab_size: int) -> int:
    """Return the token that a person means, or raise `ConfigError`."""
    if re.fullmatch(r"#[0-9]{1,9}", name):
        number = int(name[1:])
        if number >= vocab_size:
            raise ConfigError(f"there is no token {name}; ids of this model go from #0 to #{vocab_size - 1}")
        return number
    special = tokenizer.token_to_id(name) if name.startswith("<") else None
    ids = encode(tokenizer, name) if special is None else [special]
    if len(ids) != 1:
        pieces = ", ".join(repr(token_text(tokenizer, each).text) for each in ids[:_MOST_PIECES])
        more = ", ..." if len(ids) > _MOST_PIECES else ""
        raise ConfigError(
            f"{name[:80]!r} is {len(ids)} tokens ({pieces or 'none'}{more}), not one; name one of them, or an id as #17"
        )
    return int(ids[0])
