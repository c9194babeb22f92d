"""What a step's tokens mean for their requests: outputs that grow, end or fail, and messages that say so.

Knows when an output ends and what callers are told. Knows nothing of scheduling or tensors.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from server.engine.messages import ChoiceOutput, FinishReason, RequestOutput, Tier
from server.engine.sequence import RequestState, Sequence
from server.engine.step_rows import Step

_TIERS = tuple(Tier)
"""By the numbers of `Lease.tiers`."""


class StepOutputs:
    """Gathers what the requests of one step are told."""

    def __init__(self, *, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._choices: dict[RequestState, list[ChoiceOutput]] = {}
        self._errors: dict[RequestState, str] = {}

    def add(self, sequence: Sequence, output: ChoiceOutput) -> None:
        """Tell of a sequence's new token, or of its end."""
        choices = self._choices.get(sequence.state)
        if choices is None:
            self._choices[sequence.state] = [output]
        else:
            choices.append(output)

    def end(self, sequence: Sequence, reason: FinishReason, *, error: str | None = None) -> None:
        """Tell of the end of a sequence that gets no further token."""
        self.add(sequence, ChoiceOutput(choice=sequence.choice, finish_reason=reason))
        if error is not None:
            self._errors[sequence.state] = error

    def messages(self) -> list[RequestOutput]:
        """Return what to tell; to be called when sequences that ended have left their requests."""
        return [self._message(state, choices) for state, choices in self._choices.items()]

    def _message(self, state: RequestState, choices: list[ChoiceOutput]) -> RequestOutput:
        is_finished = not state.sequences
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
            is_finished=is_finished,
            error=self._errors.get(state),
            memory=state.memory_use(self._row_bytes),
        )


def finish_reason(
    sequence: Sequence, token_id: int, eos_token_id: int | None, max_model_len: int
) -> FinishReason | None:
    """Return why the output ends with its newest token, None where it goes on."""
    params = sequence.state.request.params
    if (token_id == eos_token_id and not params.ignore_eos) or token_id in params.stop_token_ids:
        return FinishReason.STOP
    if len(sequence.output_ids) == params.max_tokens or len(sequence.ids) >= max_model_len:
        return FinishReason.LENGTH
    return None


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


def tier_of(number: int) -> Tier:
    """Return the tier that `Lease.tiers` has a number for."""
    return _TIERS[number]


def _tiers(tiers: npt.NDArray[np.uint8] | None, count: int) -> npt.NDArray[np.uint8]:
    return np.zeros(count, dtype=np.uint8) if tiers is None else tiers
