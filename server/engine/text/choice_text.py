"""The text of one choice, from its tokens as they come: whole characters, up to a stop string.

Whatever the pieces in which tokens come, the texts put together are the same.
"""

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from server.engine.params import SamplingParams
from server.engine.text.stop_strings import StopStrings
from server.engine.text.vocabulary import vocabulary_of


class TextDelta(NamedTuple):
    """What some tokens added to a choice's text."""

    text: str
    num_tokens: int
    """Tokens that belong to the output: all, or up to the one that completed the stop string."""
    stop_string: str | None
    """What ended the output; the caller aborts the choice and says that it stopped."""
    text_offsets: tuple[int, ...]
    """For each of those tokens the characters of the output's text that came before it, held back or not."""


class ChoiceText:
    """Turns one choice's tokens into text.

    - Only whole characters come out. Bytes that are no UTF-8 become U+FFFD as `bytes.decode` has it with
      `errors="replace"`; so does a character that is incomplete when the output ends.
    - Text that may be the beginning of a stop string is held back until that is decided.
    - The first character that completes a stop string ends the text; if it completes several, the longest counts. It
      must belong to a token after the first `min_tokens`.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Start behind a prompt: some tokenizers drop the space before a text's first word."""
        self._vocabulary = vocabulary_of(tokenizer)
        self._skipped = self._vocabulary.special_ids if params.skip_special_tokens else frozenset[int]()
        self._is_at_start = all(token_id in self._skipped for token_id in prompt_ids)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop_strings = StopStrings(params.stop)
        self._min_tokens = params.min_tokens
        self._keeps_stop = params.include_stop_str_in_output
        self._held = ""
        self._num_tokens = 0
        self._num_characters = 0
        self._is_over = False

    def push(self, token_ids: Sequence[int], *, is_last: bool, ends_in_stop_token: bool = False) -> TextDelta:
        """Take the next tokens and return what they add.

        is_last: the output ends with them; nothing is held back any more. ends_in_stop_token: the last of them is the
        stop token or end of text that ended it; its text is left out, unless `include_stop_str_in_output`. After the
        end, or a stop string, nothing is added any more.
        """
        released: list[str] = []
        offsets: list[int] = []
        stop_string = None
        for index, token_id in enumerate(token_ids):
            if self._is_over:
                break
            is_end = is_last and index == len(token_ids) - 1
            raw = b"" if is_end and ends_in_stop_token and not self._keeps_stop else self._raw(token_id)
            offsets.append(self._num_characters)
            self._num_tokens += 1
            text, stop_string = self._read(self._decoder.decode(raw, final=is_end))
            released.append(text)
        if is_last and not self._is_over:
            if not token_ids:
                text, stop_string = self._read(self._decoder.decode(b"", final=True))
                released.append(text)
            released.append(self._held)
            self._held, self._is_over = "", True
        return TextDelta("".join(released), len(offsets), stop_string, tuple(offsets))

    def _raw(self, token_id: int) -> bytes:
        if token_id in self._skipped:
            return b""
        if self._is_at_start:
            self._is_at_start = False
            return self._vocabulary.raw_at_start(token_id)
        return self._vocabulary.raw(token_id)

    def _read(self, text: str) -> tuple[str, str | None]:
        """Return what can be handed out now that `text` has come, and the stop string if it is complete."""
        self._num_characters += len(text)
        found = self._stop_strings.find(text, counts=self._num_tokens > self._min_tokens)
        pending = self._held + text
        if found is None:
            decided = len(pending) - self._stop_strings.undecided
            self._held = pending[decided:]
            return pending[:decided], None
        position, string = found
        end = len(self._held) + position
        self._held, self._is_over = "", True
        return pending[: end if self._keeps_stop else end - len(string)], string
