"""The one seam for the memory: where a batch's ToL rows come from.

A `RowSource` is addressed by row keys (int64; equal to token ids for the base table) and hands out the `Rows` of one
batch, of which the forward pass asks one layer after another. Behind it stand the FFNs themselves
(`models/computed_rows.py`), a table in memory or on disk (`models/table_rows.py`), or a pager (`models/paged_rows.py`).

Shape legend: N tokens of the batch, U different keys among them, L layers, d hidden size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from paging.layers import add_values


class PlacedRows(NamedTuple):
    """Where a batch's rows lie, if that is in slots of a place which is the same for every batch."""

    place: object
    """The place; batches of one place are known by its identity."""
    slots: Callable[[], npt.NDArray[np.integer[Any]]]
    """Returns the slot of each token's row, [N]."""
    rows_in: "Callable[[Tensor], Rows]"
    """Returns the rows in other slots of the place, int64 [N] on its device; what they are is read when they are."""


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

    @property
    def placed(self) -> PlacedRows | None:
        """Where the rows lie; None where each batch has its own in a place of its own."""
        return None


class RowSource(Protocol):
    """Anything that has a row for every key."""

    @property
    def max_rows(self) -> int | None:
        """Different rows that one batch can have; None: any number. Callers cut their batches to it."""
        ...

    def fetch(self, row_keys_N: Tensor) -> Rows:
        """Return the rows of these keys (int64, any of them repeated)."""
        ...
