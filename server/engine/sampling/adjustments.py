"""Scores after all that changes or forbids tokens, for a whole batch at once.

Shape legend: S sequences, V vocabulary, E entries of (row, token).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from server.engine.sampling.sequence import SampledSequence

_MAX = torch.finfo(torch.float32).max


class Adjustments:
    """What a batch's sequences ask to be done to scores; made once for as long as the same sequences run."""

    def __init__(self, sequences: Sequence[SampledSequence], *, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        rows = list(enumerate(sequences))
        self._changing = [(row, each, each.changes) for row, each in rows if each.changes is not None]
        self._banning = [(row, each, each.bans) for row, each in rows if each.bans is not None]
        allowed = [(row, each.params.allowed_token_ids) for row, each in rows]
        self._confined_rows = self._index([row for row, ids in allowed if ids is not None])
        self._allowed = self._index(
            [row * vocab_size + token_id for row, ids in allowed if ids is not None for token_id in set(ids)]
        )

    def applied_to(self, logits_SV: Tensor) -> Tensor:
        """Return the scores that tokens are drawn by; `logits_SV` itself where nothing is asked, else a float32 copy.

        What must not be drawn has minus infinity. That is set last, though `SamplingParams` names it first: it is the
        same, for no bias or penalty moves minus infinity, and nothing can undo it.
        """
        if not (self._changing or self._banning or len(self._confined_rows)):
            return logits_SV
        scores_SV = logits_SV.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        flat = scores_SV.view(-1)
        if self._changing:
            self._change(flat)
        if len(self._confined_rows):
            allowed = flat[self._allowed]
            scores_SV.index_fill_(0, self._confined_rows, -torch.inf)
            flat[self._allowed] = allowed
        banned = [
            row * self._vocab_size + token_id
            for row, sequence, bans in self._banning
            for token_id in bans.after(sequence.output_ids, vocab_size=self._vocab_size)
        ]
        if banned:
            flat.index_fill_(0, self._index(banned), -torch.inf)
        return scores_SV

    def _change(self, flat: Tensor) -> None:
        """Add biases and take penalties, in place."""
        ids, amounts = [], []
        for row, sequence, changes in self._changing:
            ids_E, amounts_3E = changes.after(sequence.output_ids)
            ids.append(row * self._vocab_size + ids_E)
            amounts.append(amounts_3E)
        index_E = torch.from_numpy(np.concatenate(ids)).to(self._device)
        every_amount_3E = np.concatenate(amounts, axis=1, dtype=np.float32, casting="same_kind")
        bias_E, factor_E, penalty_E = torch.from_numpy(every_amount_3E).to(self._device)
        raised_E = flat[index_E] + bias_E
        changed_E = torch.where(raised_E > 0, raised_E / factor_E, raised_E * factor_E) - penalty_E
        # An absurd factor must not make an infinity, which nothing could be compared with.
        flat[index_E] = changed_E.clamp(-_MAX, _MAX)

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device)
