"""The engine's log probabilities in the shapes that clients read."""

from collections.abc import Sequence

from server.engine.messages import Candidate, PositionLogprobs
from server.http.responses import (
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
)
from server.http.served_model import ServedModel

_LEAST = -9999.0
"""Stands for impossible tokens: JSON has no infinity."""


def completion_logprobs(
    model: ServedModel,
    positions: Sequence[PositionLogprobs | None],
    token_ids: Sequence[int] | None,
    text_offsets: Sequence[int],
    *,
    num_top: int,
) -> CompletionLogprobs:
    """Return the lists of completions; at positions without any, the token of `token_ids` stands alone.

    num_top: likeliest tokens listed, where the engine may have been asked for more.
    """
    tokens: list[str] = []
    own: list[float | None] = []
    top: list[dict[str, float] | None] = []
    for index, position in enumerate(positions):
        if position is None:
            assert token_ids is not None, "only prompts have positions without log probabilities"
            tokens.append(model.token_text(token_ids[index]).text)
            own.append(None)
            top.append(None)
            continue
        tokens.append(model.token_text(position.actual.token_id).text)
        own.append(_bounded(position.actual))
        candidates = (*position.top[:num_top], position.actual)
        top.append({model.token_text(each.token_id).text: _bounded(each) for each in candidates} if num_top else {})
    return CompletionLogprobs(tokens=tokens, token_logprobs=own, top_logprobs=top, text_offset=list(text_offsets))


def joined(parts: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    """Return the lists of all parts, one after another."""
    return CompletionLogprobs(
        tokens=[item for part in parts for item in part.tokens],
        token_logprobs=[item for part in parts for item in part.token_logprobs],
        top_logprobs=[item for part in parts for item in part.top_logprobs],
        text_offset=[item for part in parts for item in part.text_offset],
    )


def chat_logprobs(model: ServedModel, positions: Sequence[PositionLogprobs]) -> ChatLogprobs:
    """Return the entries of chat completions."""
    entries = []
    for position in positions:
        text = model.token_text(position.actual.token_id)
        top = []
        for candidate in position.top:
            shown = model.token_text(candidate.token_id)
            top.append(TopLogprob(token=shown.text, logprob=_bounded(candidate), bytes=list(shown.raw)))
        entries.append(
            TokenLogprob(token=text.text, logprob=_bounded(position.actual), bytes=list(text.raw), top_logprobs=top)
        )
    return ChatLogprobs(content=entries)


def prompt_logprobs(
    model: ServedModel, positions: Sequence[PositionLogprobs | None], *, num_top: int
) -> PromptLogprobs:
    """Return the candidates of each position of a prompt by their ids; None for the first."""
    return [
        None
        if position is None
        else {
            str(each.token_id): PromptLogprob(
                logprob=_bounded(each), rank=each.rank, decoded_token=model.token_text(each.token_id).text
            )
            for each in (*position.top[:num_top], position.actual)
        }
        for position in positions
    ]


def _bounded(candidate: Candidate) -> float:
    return max(candidate.logprob, _LEAST)
