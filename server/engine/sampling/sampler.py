"""The next token of every sequence of a batch.

Knows sequences and scores; knows nothing of requests, models or when a sequence ends. The order in which parameters
apply stands with `SamplingParams`, how a token is drawn in `server/engine/sampling/draw.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from server.engine.messages import PositionLogprobs
from server.engine.sampling.adjustments import Adjustments
from server.engine.sampling.batch import Batch
from server.engine.sampling.draw import BROKEN, UNSURE, draw
from server.engine.sampling.errors import ScoresError
from server.engine.sampling.logprobs import position_logprobs
from server.engine.sampling.sequence import SampledSequence

_MIN_CANDIDATES = 256
_MORE = 32  # ranking 8192 costs a few times what 256 do, ranking all of a large vocabulary a few times that


@dataclass(frozen=True)
class SampledTokens:
    """What each sequence of a batch got, in the batch's order."""

    token_ids: Sequence[int]
    """-1 where there is an error."""
    logprobs: Sequence[PositionLogprobs | None]
    """None where none are asked for, and where there is an error."""
    errors: Mapping[int, ScoresError]
    """By row: those for which no token can be chosen."""


class Sampler:
    """Chooses tokens for batches of any sequences."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._set_batch(())

    @torch.inference_mode()
    def sample(self, logits_SV: Tensor, sequences: Sequence[SampledSequence]) -> SampledTokens:
        """Return the next token of each sequence by its row of `logits_SV`, which stays as it is.

        Adds nothing to the sequences. Quickest when called with the same sequences again.
        """
        if not self._batch.is_of(sequences):
            self._set_batch(sequences)
        scores_SV = self._adjustments.applied_to(logits_SV)
        tokens = self._drawn(scores_SV, self._batch)
        logprobs = _logprobs(logits_SV, tokens, sequences)
        errors = {}
        for row, (token, position) in enumerate(zip(tokens, logprobs, strict=True)):
            if token == BROKEN or (position is not None and math.isnan(position.actual.logprob)):
                tokens[row], logprobs[row] = -1, None
                errors[row] = _error(sequences[row])
        return SampledTokens(tokens, logprobs, errors)

    def _set_batch(self, sequences: Sequence[SampledSequence]) -> None:
        self._batch = self._batch_of(sequences, _MIN_CANDIDATES)
        self._adjustments = Adjustments(sequences, vocab_size=self._vocab_size, device=self._device)

    def _batch_of(self, sequences: Sequence[SampledSequence], min_candidates: int) -> Batch:
        return Batch(sequences, vocab_size=self._vocab_size, device=self._device, min_candidates=min_candidates)

    def _drawn(self, scores_SV: Tensor, batch: Batch) -> list[int]:
        """Return tokens or `BROKEN`; what candidates were too few for is drawn again among many more."""
        tokens: list[int] = draw(scores_SV, batch).tolist()
        unsure = [row for row, token in enumerate(tokens) if token == UNSURE]
        if unsure:
            again = self._batch_of([batch.sequences[row] for row in unsure], _MORE * batch.num_candidates)
            for row, token in zip(unsure, self._drawn(scores_SV[unsure], again), strict=True):
                tokens[row] = token
        return tokens


def _error(sequence: SampledSequence) -> ScoresError:
    return ScoresError(
        f"the model's scores for token {sequence.position} of choice {sequence.choice} are not finite numbers; "
        "its weights may be damaged, or its number format too narrow"
    )


def _logprobs(
    logits_SV: Tensor, tokens: Sequence[int], sequences: Sequence[SampledSequence]
) -> list[PositionLogprobs | None]:
    told: list[PositionLogprobs | None] = [None] * len(sequences)
    nums = {
        row: sequence.params.logprobs
        for row, sequence in enumerate(sequences)
        if sequence.params.logprobs is not None and tokens[row] != BROKEN
    }
    if nums:
        ids = [tokens[row] for row in nums]
        positions = position_logprobs(logits_SV[list(nums)], ids, list(nums.values()))
        for row, position in zip(nums, positions, strict=True):
            told[row] = position
    return told
