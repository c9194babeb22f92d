"""The one seam for the memory: where a batch's ToL rows come from.

A `RowSource` is addressed by row keys (int64; equal to token ids for the base table) and hands out the `Rows` of one
batch, of which the forward pass asks one layer after another. Behind it stand the FFNs themselves
(`models/computed_rows.py`), a table in memory or on disk (`models/table_rows.py`), or a pager (`models/paged_rows.py`).

Shape legend: N tokens of the batch, U different keys among them, L layers, d hidden size.
"""

from typing import Protocol

from torch import Tensor

from paging.layers import add_values


class Rows(Protocol):
    """The rows of one batch; whoever has nothing quicker inherits all but `gather`."""

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values of every token's row, [N, d]."""
        ...

    def add_to(self, hidden_Nd: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        """Return hidden states with one layer's values added, scaled by each token's alpha where that is given.

        The bits are those of `add_values`. The hidden states given may be overwritten where they need no gradient.
        """
        return add_values(hidden_Nd, self.gather(layer), alpha_N)


class RowSource(Protocol):
    """Anything that has a row for every key."""

    @property
    def max_rows(self) -> int | None:
        """Different rows that one batch can have; None: any number. Callers cut their batches to it."""
        ...

    def fetch(self, row_keys_N: Tensor) -> Rows:
        """Return the rows of these keys (int64, any of them repeated)."""
        ...
