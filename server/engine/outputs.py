"""What a step's tokens mean for their requests: outputs that grow, end or fail, and messages that say so.

Knows when an output ends and what callers are told. Knows nothing of scheduling or tensors.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from server.engine.messages import ChoiceOutput, FinishReason, PositionLogprobs, RequestOutput, Tier
from server.engine.sampling import SampledTokens
from server.engine.sequence import RequestState, Sequence
from server.engine.step import Step

_TIERS = tuple(Tier)
"""By the numbers of `Lease.tiers`."""


class StepOutputs:
    """Gathers what the requests of one step are told."""

    def __init__(self, *, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._choices: dict[RequestState, list[ChoiceOutput]] = {}
        self._errors: dict[RequestState, str] = {}

    def add_token(
        self,
        sequence: Sequence,
        token_id: int,
        *,
        reason: FinishReason | None,
        logprobs: PositionLogprobs | None,
        tier: int,
    ) -> None:
        """Tell of a sequence's new token, why it is the last (None: it is not), and where the row before it came from.

        tier: by the numbers of `Lease.tiers`.
        """
        request = sequence.state.request
        is_stop = reason is FinishReason.STOP and token_id in request.params.stop_token_ids
        output = ChoiceOutput(
            choice=sequence.choice,
            token_ids=(token_id,),
            logprobs=None if logprobs is None else (logprobs,),
            finish_reason=reason,
            stop_token_id=token_id if is_stop else None,
            tiers=(_TIERS[tier],) if request.return_tiers else None,
        )
        self._add(sequence.state, output)

    def add_tokens(self, sequences: Items[Sequence], tokens: SampledTokens, tiers: Items[int]) -> None:
        """Tell of a new token of each of these sequences, all of which go on; `tiers` as for one token."""
        for sequence, token_id, logprobs, tier in zip(sequences, tokens.token_ids, tokens.logprobs, tiers, strict=True):
            state = sequence.state
            if logprobs is None and not state.request.return_tiers:
                self._add(state, ChoiceOutput(choice=sequence.choice, token_ids=(token_id,)))
            else:
                self.add_token(sequence, token_id, reason=None, logprobs=logprobs, tier=tier)

    def end(self, sequence: Sequence, reason: FinishReason, *, error: str | None = None) -> None:
        """Tell of the end of a sequence that gets no further token."""
        self._add(sequence.state, ChoiceOutput(choice=sequence.choice, finish_reason=reason))
        if error is not None:
            self._errors[sequence.state] = error

    def messages(self) -> list[RequestOutput]:
        """Return what to tell; to be called when sequences that ended have left their requests."""
        return [self._message(state, choices) for state, choices in self._choices.items()]

    def _add(self, state: RequestState, output: ChoiceOutput) -> None:
        choices = self._choices.get(state)
        if choices is None:
            self._choices[state] = [output]
        else:
            choices.append(output)

    def _message(self, state: RequestState, choices: list[ChoiceOutput]) -> RequestOutput:
        memory = state.memory_use(self._row_bytes)
        if state.is_begun and state.sequences:
            return RequestOutput(
                request_id=state.request.request_id, choices=choices, error=self._errors.get(state), memory=memory
            )
        # A choice may fail before the prompt is through; what is said of the prompt comes with one that gets so far.
        is_first = state.is_prompt_computed and not state.is_begun
        state.is_begun |= is_first
        asked = state.request.params.prompt_logprobs is not None
        return RequestOutput(
            request_id=state.request.request_id,
            choices=choices,
            prompt_logprobs=state.prompt_logprobs if is_first and asked else None,
            num_cached_tokens=(state.num_cached_tokens or 0) if is_first else None,
            timing=state.timing if is_first else None,
            is_finished=not state.sequences,
            error=self._errors.get(state),
            memory=memory,
        )


def finish_reason(sequence: Sequence, token_id: int) -> FinishReason | None:
    """Return why the output ends with its newest token, None where it goes on."""
    if token_id in sequence.state.ends:
        return FinishReason.STOP
    return FinishReason.LENGTH if len(sequence.ids) >= sequence.state.most_tokens else None


class RowTiers(NamedTuple):
    """Where the rows of a step came from."""

    last: list[int]
    """Of each chunk's last row."""
    counts: list[int]
    """Of all rows: how many came from each tier."""


def note_tiers(step: Step) -> RowTiers:
    """Count where the rows of a step came from, each for its request; return it for the step."""
    if all(lease.tiers is None for lease in step.leases):
        num_rows = 0
        for sequence, length, _ in step.chunks:
            sequence.state.device_hits += length
            num_rows += length
        return RowTiers([0] * len(step.chunks), [num_rows, 0, 0])
    tiers_N = np.concatenate([_tiers(lease.tiers, len(lease)) for lease in step.leases])
    if step.places is not None:
        tiers_N = tiers_N[step.places]
    # Most chunks are single tokens: a list is looked through faster than numpy is called.
    tiers: list[int] = tiers_N.tolist()
    last, start = [], 0
    for chunk in step.chunks:
        of_chunk = tiers[start : start + chunk.length]
        state = chunk.sequence.state
        state.device_hits += of_chunk.count(0)
        state.host_hits += of_chunk.count(1)
        state.major_faults += of_chunk.count(2)
        start += chunk.length
        last.append(of_chunk[-1])
    return RowTiers(last, [tiers.count(tier) for tier in range(len(_TIERS))])


def _tiers(tiers: npt.NDArray[np.uint8] | None, count: int) -> npt.NDArray[np.uint8]:
    return np.zeros(count, dtype=np.uint8) if tiers is None else tiers
