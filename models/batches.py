"""Sequences for training: packed from a corpus, in an order shuffled anew each epoch.

Knows positions and permutations. The order is a pure function of (seed, epoch), computed where it is read, so the
whole state of the data is one integer and a corpus of any size needs no list of its sequences.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from models.corpus import TokenShards
from models.errors import CorpusError

_ROUNDS = 6
# Multipliers of splitmix64's finaliser (Steele, Lea and Flood, 2014).
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Batch(NamedTuple):
    """Sequences and what follows each of their tokens."""

    inputs: torch.Tensor
    """Token ids, int64 [B, T]."""
    targets: torch.Tensor
    """The next tokens' ids, int64 [B, T]."""


class Batches:
    """Endless batches of `batch_size` sequences of `sequence_length` tokens each.

    An epoch is `sequences_per_epoch` sequences, end to end from an offset drawn for that epoch. The corpus is taken
    as a circle, so an epoch has every token once as input, save the remainder that fills no sequence. Documents are
    packed: a sequence may hold the end of one and the start of the next. A batch may span two epochs.
    """

    def __init__(self, corpus: TokenShards, *, sequence_length: int, batch_size: int, seed: int) -> None:
        """Start at position 0; a corpus without `sequence_length + 1` tokens raises `CorpusError`."""
        if corpus.num_tokens <= sequence_length:
            raise CorpusError(
                f"the corpus has {corpus.num_tokens} tokens; sequences of {sequence_length} need at least "
                f"{sequence_length + 1}: give more text or a shorter sequence"
            )
        self.position = 0
        """Sequences handed out since the start of epoch 0; set it to go on from there."""
        self.sequences_per_epoch = corpus.num_tokens // sequence_length
        self._corpus = corpus
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._seed = seed

    @property
    def epoch(self) -> int:
        """The epoch of the next sequence, from 0."""
        return self.position // self.sequences_per_epoch

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        rows_BU = np.empty((self._batch_size, self._sequence_length + 1), dtype=np.int64)
        positions_B = np.arange(self.position, self.position + self._batch_size, dtype=np.uint64)
        for row_U, start in zip(rows_BU, self._starts(positions_B), strict=True):
            self._read_circular(start, row_U)
        self.position += self._batch_size
        rows = torch.from_numpy(rows_BU)
        return Batch(inputs=rows[:, :-1].contiguous(), targets=rows[:, 1:].contiguous())

    def _starts(self, positions_B: npt.NDArray[np.uint64]) -> list[int]:
        """Return where in the corpus the sequences at these positions start."""
        epochs_B, indices_B = np.divmod(positions_B, np.uint64(self.sequences_per_epoch))
        starts: list[int] = []
        for epoch in np.unique(epochs_B):
            seeds = np.random.SeedSequence([self._seed, int(epoch)])
            keys = seeds.generate_state(_ROUNDS + 1, np.uint64).astype(np.uint64)
            offset = int(keys[-1]) % self._corpus.num_tokens
            order = permuted(indices_B[epochs_B == epoch], self.sequences_per_epoch, keys[:-1])
            starts += [(offset + index * self._sequence_length) % self._corpus.num_tokens for index in order.tolist()]
        return starts

    def _read_circular(self, start: int, row_U: npt.NDArray[np.int64]) -> None:
        whole = min(len(row_U), self._corpus.num_tokens - start)
        row_U[:whole] = self._corpus.read(start, start + whole)
        row_U[whole:] = self._corpus.read(0, len(row_U) - whole)


def permuted(indices_N: npt.NDArray[np.uint64], size: int, keys_R: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return where a permutation of range(size), chosen by the R round keys, takes each of `indices_N`.

    A balanced Feistel network over the least 4^h >= size, walked along its cycle until the value is below `size`
    (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): four steps on average at most, no table.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    values_N = indices_N.astype(np.uint64)
    outside_N = np.ones(len(values_N), dtype=np.bool_)
    while outside_N.any():
        walking = values_N[outside_N]
        left, right = walking >> half, walking & mask
        for key in keys_R:
            left, right = right, left ^ (_mixed(right + key) & mask)
        values_N[outside_N] = (left << half) | right
        outside_N = values_N >= size
    return values_N


def _mixed(values_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values_N = (values_N ^ (values_N >> np.uint64(30))) * _MIX_1
    values_N = (values_N ^ (values_N >> np.uint64(27))) * _MIX_2
    return values_N ^ (values_N >> np.uint64(31))
