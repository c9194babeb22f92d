"""The bytes that each token stands for, whatever the tokenizer's decoder does to get there.

A token alone may be no text at all: a byte-level vocabulary has tokens that are parts of characters. Bytes can be put
together token by token, in constant time, and give the text of the whole; texts of single tokens cannot.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

_ANCHOR = "a"
"""A token's text is what it adds to this: some decoders drop the space before a text's first word."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenText(NamedTuple):
    """A token as it is shown to people."""

    text: str
    """Its text, or `bytes:\\xf0\\x9f` where its bytes alone are none."""
    raw: bytes


class Vocabulary:
    """What one tokenizer's ids stand for; its tokens must not change any more."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        """Tokens that are marks rather than text."""
        self._is_byte_level = self._decode("Ġa") == " a"
        self._has_byte_tokens = self._decode("<0x41>") == "A"
        self._known: dict[int, bytes] = {}

    def raw(self, token_id: int) -> bytes:
        """Return the bytes of a token that follows others; none where the tokenizer has no such id."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._spell(token_id)
        return known

    def raw_at_start(self, token_id: int) -> bytes:
        """Return the bytes of a token that no other comes before."""
        token = self._tokenizer.id_to_token(token_id)
        if self._is_byte_level or token is None or token_id in self._added or self._is_byte_token(token):
            return self.raw(token_id)
        return self._decode(token).encode()

    def _spell(self, token_id: int) -> bytes:
        if (content := self._added.get(token_id)) is not None:
            return content.encode()
        token: str | None = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._is_byte_level:
            return _from_byte_level(token)
        if self._is_byte_token(token):
            return bytes.fromhex(token[3:5])
        return self._decode(_ANCHOR, token).removeprefix(_ANCHOR).encode()

    def _is_byte_token(self, token: str) -> bool:
        return self._has_byte_tokens and _BYTE_TOKEN.fullmatch(token) is not None

    def _decode(self, *tokens: str) -> str:
        return " ".join(tokens) if self._decoder is None else self._decoder.decode(list(tokens))


@lru_cache(maxsize=4)
def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return a tokenizer's vocabulary, the same one each time."""
    return Vocabulary(tokenizer)


def token_text(tokenizer: Tokenizer, token_id: int) -> TokenText:
    """Return one token as log probabilities show it; special tokens by their names."""
    raw = vocabulary_of(tokenizer).raw(token_id)
    try:
        return TokenText(raw.decode(), raw)
    except UnicodeDecodeError:
        return TokenText("bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw)


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for."""
    shown = set(ByteLevel.alphabet())
    own = [byte for byte in range(256) if chr(byte) in shown]
    # Bytes that have no character to be shown by take those from 256 on, in order.
    others = [byte for byte in range(256) if chr(byte) not in shown]
    return {chr(byte): byte for byte in own} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_level_alphabet()


def _from_byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:  # what is not spelled in the alphabet stands for itself
        return token.encode()
