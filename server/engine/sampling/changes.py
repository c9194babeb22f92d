"""One sequence's `logit_bias` and penalties: which tokens' scores change, and by how much.

Kept up as the output grows, one entry for each token concerned, so that a step costs what is new and not what the
vocabulary or the output has. Knows neither batches nor tensors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from server.engine.params import SamplingParams

_FLOAT32 = np.finfo(np.float32)
_BIAS, _FACTOR, _PENALTY = range(3)


class Changes(NamedTuple):
    """A score z becomes `scaled(z + bias) - penalty`: what is positive is divided by the factor, else multiplied."""

    ids_E: npt.NDArray[np.int64]
    """Each token once."""
    amounts_3E: npt.NDArray[np.float64]
    """Bias, factor, penalty: within float32's range."""


class ScoreChanges:
    """What one sequence's parameters change of its scores, now."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        self._params = params
        self._factor = float(np.clip(params.repetition_penalty, _FLOAT32.tiny, _FLOAT32.max))
        repeated = set(prompt_ids) if params.repetition_penalty != 1 else set()
        ids = sorted(repeated | set(params.logit_bias))
        self._entries = {token_id: entry for entry, token_id in enumerate(ids)}
        self._ids_E = np.array(ids, np.int64)
        self._amounts_3E = np.zeros((3, len(ids)))
        self._amounts_3E[_FACTOR] = [self._factor if token_id in repeated else 1 for token_id in ids]
        for token_id, bias in params.logit_bias.items():
            self._amounts_3E[_BIAS, self._entries[token_id]] = np.clip(bias, _FLOAT32.min, _FLOAT32.max)
        self._penalises = any(_penalties(params))
        self._in_output: set[int] = set()
        self._num_counted = 0

    @staticmethod
    def are_asked_for(params: SamplingParams) -> bool:
        """Whether `params` can change any score."""
        return bool(params.logit_bias) or any(_penalties(params))

    def after(self, output_ids: Sequence[int]) -> Changes:
        """Return what changes after `output_ids`, which begins with what it was at the last call.

        The arrays are valid until the next call.
        """
        params = self._params
        for token_id in output_ids[self._num_counted :] if self._penalises else ():
            entry = self._entry(token_id)
            self._amounts_3E[_FACTOR, entry] = self._factor
            first = params.presence_penalty if token_id not in self._in_output else 0
            self._amounts_3E[_PENALTY, entry] += first + params.frequency_penalty
            self._in_output.add(token_id)
        self._num_counted = len(output_ids)
        count = len(self._entries)
        return Changes(self._ids_E[:count], self._amounts_3E[:, :count])

    def _entry(self, token_id: int) -> int:
        """Return the entry of a token, a new one where it has none."""
        count = len(self._entries)
        entry = self._entries.setdefault(token_id, count)
        if entry == count:
            if count == len(self._ids_E):
                room = max(16, count)
                self._ids_E = np.concatenate([self._ids_E, np.zeros(room, np.int64)])
                self._amounts_3E = np.concatenate([self._amounts_3E, np.zeros((3, room))], axis=1)
            self._ids_E[entry] = token_id
        return entry


def _penalties(params: SamplingParams) -> tuple[float, float, float]:
    return params.presence_penalty, params.frequency_penalty, params.repetition_penalty - 1
