"""What runs together in a step: chunks of sequences, the leases that hold their rows, and decoding steps as arrays.

Knows no memory and decides nothing.

Shape legend: N tokens of the step.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from paging.lease import Lease
from server.engine.sequence import Sequence

Integers = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]


class Chunk(NamedTuple):
    """The tokens of one sequence that run in a step."""

    sequence: Sequence
    length: int
    lease: Lease | None = None
    """Its own lease; None where its rows are to be among those of the step's common lease."""

    @property
    def is_late(self) -> bool:
        """Whether its rows are still on their way."""
        return self.lease is not None and not self.lease.is_ready


class DecodeBatch:
    """Sequences that have one token each which is not computed yet: what a step needs of them, from step to step.

    Loops over sequences cost a step more than anything else in the engine: their objects are out of the caches when a
    model has run. So arrays go on from one step to the next.
    """

    def __init__(self, sequences: Items[Sequence], *, block_size: int) -> None:
        self.sequences = [*sequences]
        self.chunks = [Chunk(sequence, 1) for sequence in sequences]
        self.tables = [sequence.table for sequence in sequences]
        self.sampled = [sequence.sampled for sequence in sequences if sequence.sampled is not None]
        self.ids_N: Integers = np.array([sequence.ids[-1] for sequence in sequences], dtype=np.int64)
        """The tokens."""
        self.positions_N: Integers = np.array([sequence.num_computed for sequence in sequences], dtype=np.int64)
        """Where they stand, counted from 0."""
        self.keys_N = next_keys(sequences)
        """Of their rows."""
        self._has_base_rows = all(sequence.keys is sequence.ids for sequence in sequences)
        self._ends = frozenset[int]().union(*(sequence.state.ends for sequence in sequences))
        self._num_left = min(sequence.state.most_tokens - len(sequence.ids) for sequence in sequences)
        self._block_size = block_size
        self._blocks_N: Integers = np.zeros(len(sequences), dtype=np.int64)  # that the tokens' keys and values go to
        self._in_new_blocks = [*range(len(sequences))]  # places of tokens whose blocks are yet to be looked up
        self._block_ends = self._find_block_ends()

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def at_block_end(self) -> list[Sequence]:
        """The sequences whose tokens do not go to the block of the token before."""
        return [self.sequences[place] for place in self._block_ends]

    def slots(self) -> Integers:
        """Return the slots that the tokens' keys and values go to, [N]; their blocks must be there."""
        size = self._block_size
        while self._in_new_blocks:
            place = self._in_new_blocks.pop()
            self._blocks_N[place] = self.tables[place].blocks[self.positions_N.item(place) // size]
        return self._blocks_N * size + self.positions_N % size

    def note_computed(self) -> None:
        """Go past the tokens: they have been computed. `take` follows, unless the batch is over."""
        self.positions_N = self.positions_N + 1
        self._block_ends = self._find_block_ends()
        self._in_new_blocks += self._block_ends
        for sequence in self.sequences:
            sequence.num_computed += 1

    def take(self, token_ids: Items[int]) -> bool:
        """Give each sequence its next token and go on with them; False, and nothing is done, where one is the last."""
        if self._num_left == 1:
            return False
        if not self._ends.isdisjoint(token_ids):  # one that ends some output; perhaps it is another's
            pairs = zip(self.sequences, token_ids, strict=True)
            if any(token_id in sequence.state.ends for sequence, token_id in pairs):
                return False
        self._num_left -= 1
        for sequence, token_id in zip(self.sequences, token_ids, strict=True):
            sequence.append(token_id)
        self.ids_N = np.array(token_ids, dtype=np.int64)
        self.keys_N = self.ids_N if self._has_base_rows else next_keys(self.sequences)
        return True

    def _find_block_ends(self) -> list[int]:
        places: list[int] = np.flatnonzero(self.positions_N % self._block_size == 0).tolist()
        return places


@dataclass(frozen=True)
class Step:
    """What runs together, in batch order."""

    chunks: list[Chunk]
    leases: list[Lease]
    """On the rows of all chunks: the common one first."""
    places: Places | None = None
    """Which of the leases' rows, counted one lease after another, is that of each token; None: they are in order."""
    batch: DecodeBatch | None = None
    """The chunks once more where each is the last token of a sequence that is to get another."""


def next_keys(sequences: Items[Sequence]) -> Integers:
    """Return the row key of each sequence's next token."""
    return np.array([sequence.keys[sequence.num_computed] for sequence in sequences], dtype=np.int64)


def places_of(chunks: Items[Chunk]) -> Places:
    """Return where each token's row is among those of the common lease and then of each chunk's own."""
    is_own_N = np.repeat([chunk.lease is not None for chunk in chunks], [chunk.length for chunk in chunks])
    places_N = np.empty(len(is_own_N), dtype=np.intp)
    places_N[np.argsort(is_own_N, kind="stable")] = np.arange(len(is_own_N))
    return places_N
