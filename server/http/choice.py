"""One choice of a request as its text grows, and why it ended."""

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from server.engine.messages import ChoiceOutput, FinishReason, PositionLogprobs, Tier
from server.engine.params import SamplingParams
from server.engine.text import ChoiceText


class Gain(NamedTuple):
    """What a choice gained in a step."""

    text: str
    num_tokens: int
    logprobs: Sequence[PositionLogprobs] | None
    text_offsets: Sequence[int]
    """Characters of the choice's text before each token."""
    tiers: Sequence[Tier] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    """The stop string or stop token that ended the choice; None also for the end of text."""


class Choice:
    """Counts a choice's tokens and makes text of them."""

    def __init__(
        self, index: int, prompt_index: int, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams
    ) -> None:
        self.index = index
        """Its place among all choices of all prompts."""
        self.prompt_index = prompt_index
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._text = ChoiceText(tokenizer, prompt_ids, params)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.finish_reason is not None

    def push(self, output: ChoiceOutput) -> Gain:
        """Take what the engine said; a stop string in it ends the choice, whatever the engine thinks."""
        reason = output.finish_reason
        delta = self._text.push(
            output.token_ids, is_last=reason is not None, ends_in_stop_token=reason is FinishReason.STOP
        )
        self.num_tokens += delta.num_tokens
        stop_reason: str | int | None = output.stop_token_id
        if delta.stop_string is not None:
            reason, stop_reason = FinishReason.STOP, delta.stop_string
        self.finish_reason = reason
        return Gain(
            text=delta.text,
            num_tokens=delta.num_tokens,
            logprobs=None if output.logprobs is None else output.logprobs[: delta.num_tokens],
            text_offsets=delta.text_offsets,
            tiers=None if output.tiers is None else output.tiers[: delta.num_tokens],
            finish_reason=reason,
            stop_reason=stop_reason,
        )
