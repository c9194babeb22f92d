"""How a batch's tokens are to be drawn, as tensors; made once for as long as the same sequences run.

Shape legend: S sequences, R of them not greedy, Q of those with `min_p`, `top_k` or `top_p`.
"""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from server.engine.params import SamplingParams
from server.engine.sampling.sequence import SampledSequence
from server.engine.sampling.uniforms import uniforms

_MAX_FACTOR = float(torch.finfo(torch.float32).max)


class Truncation(NamedTuple):
    """The limits of Q rows, each [Q, 1]."""

    min_p: Tensor
    top_k: Tensor
    """The size of the vocabulary where there is no limit."""
    top_p: Tensor
    is_open: Tensor
    """Whether `top_p` is a share of the whole vocabulary's probability, nothing having been left out before."""


class Batch:
    """What a draw from the scores of a batch's sequences goes by."""

    def __init__(
        self, sequences: Sequence[SampledSequence], *, vocab_size: int, device: torch.device, min_candidates: int
    ) -> None:
        self.sequences = tuple(sequences)
        self.vocab_size = vocab_size
        self.device = device
        drawn = [(row, sequence) for row, sequence in enumerate(sequences) if not sequence.params.is_greedy]
        self.num_drawn = len(drawn)
        self._drawn = [sequence for _, sequence in drawn]
        self._keys_R = np.array([sequence.stream_key for sequence in self._drawn], np.uint64)
        self.drawn_rows_R: Tensor | None = None
        """None where that is all of them, or none."""
        if 0 < self.num_drawn < len(sequences):
            self.drawn_rows_R = self._tensor([row for row, _ in drawn], torch.int64)
        params = [sequence.params for sequence in self._drawn]
        # A temperature close to 0 must not become an infinite factor: infinity times 0 is no number.
        factors = [min(1 / each.temperature, _MAX_FACTOR) for each in params]
        self.sharpness_R1 = self._tensor(factors, torch.float32)[:, None]
        """1 / temperature."""
        limited = [index for index, each in enumerate(params) if self._limits(each)]
        self.limited_rows_Q = self._tensor(limited, torch.int64) if limited else None
        """Rows with limits, counted among the drawn ones."""
        self.truncation = self._truncation([params[index] for index in limited])
        top_ks = [params[index].top_k for index in limited if self._limits_k(params[index])]
        # Twice as many as are asked for: what is as likely as the last of them should be among the candidates too.
        self.num_candidates = min(vocab_size, max([min_candidates, *(2 * top_k for top_k in top_ks)]))
        """Likeliest tokens among which limits are looked for."""

    def is_of(self, sequences: Sequence[SampledSequence]) -> bool:
        """Whether these are the sequences, in this order, that the batch was made for."""
        return len(sequences) == len(self.sequences) and all(map(operator.is_, sequences, self.sequences))

    def uniforms(self) -> Tensor:
        """Return the next draw's number for each row that is not greedy, [R, 1] in float64."""
        positions_R = np.fromiter((sequence.position for sequence in self._drawn), np.uint64, self.num_drawn)
        return torch.from_numpy(uniforms(self._keys_R, positions_R)).to(self.device)[:, None]

    def _tensor(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(self.device)

    def _limits_k(self, params: SamplingParams) -> bool:
        return 0 < params.top_k < self.vocab_size

    def _limits(self, params: SamplingParams) -> bool:
        return params.min_p > 0 or params.top_p < 1 or self._limits_k(params)

    def _truncation(self, params: Sequence[SamplingParams]) -> Truncation:
        top_k = [each.top_k if self._limits_k(each) else self.vocab_size for each in params]
        is_open = [each.min_p == 0 and not self._limits_k(each) for each in params]
        return Truncation(
            min_p=self._tensor([each.min_p for each in params], torch.float64)[:, None],
            top_k=self._tensor(top_k, torch.int64)[:, None],
            top_p=self._tensor([each.top_p for each in params], torch.float64)[:, None],
            is_open=self._tensor(is_open, torch.bool)[:, None],
        )
