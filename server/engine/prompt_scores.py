"""Log probabilities of prompts, for requests that ask for them, as far as each step comes.

Shape legend: N tokens of the step, d hidden size.
"""

from collections.abc import Sequence as Items

from torch import Tensor

from server.engine.runner import Runner
from server.engine.sampling import ScoresError, prompt_logprobs
from server.engine.sequence import Sequence
from server.engine.step import Chunk

_SCORED_AT_ONCE = 64
"""Prompt positions whose scores are held at a time."""


def score_prompts(runner: Runner, chunks: Items[Chunk], hidden_Nd: Tensor) -> list[tuple[Sequence, str]]:
    """Score the prompts of requests that asked for it, as far as a step comes; return whose failed, and why."""
    broken: list[tuple[Sequence, str]] = []
    start = 0
    for chunk in chunks:
        if chunk.sequence.state.request.params.prompt_logprobs is not None:
            try:
                _score_prompt(runner, chunk, hidden_Nd, start)
            except ScoresError as error:
                broken.append((chunk.sequence, str(error)))
        start += chunk.length
    return broken


def _score_prompt(runner: Runner, chunk: Chunk, hidden_Nd: Tensor, start: int) -> None:
    state, first = chunk.sequence.state, chunk.sequence.num_computed
    num = state.request.params.prompt_logprobs or 0
    # The scores at a position are those of the token after it; what an earlier choice has scored stays.
    begin, stop = max(first, len(state.prompt_logprobs) - 1), min(first + chunk.length, len(state.prompt_ids) - 1)
    for left in range(begin, stop, _SCORED_AT_ONCE):
        right = min(left + _SCORED_AT_ONCE, stop)
        scores = runner.scores(hidden_Nd, range(start + left - first, start + right - first))
        state.prompt_logprobs += prompt_logprobs(scores, state.prompt_ids[left + 1 : right + 1], num)
