"""Answers questions about rows: what is where, what was asked for last, what somebody wishes to have on the device.

Knows the pager and `server/engine/row_wishes.py`.
"""

from collections.abc import Sequence
from typing import assert_never

import numpy as np
import numpy.typing as npt

from paging.keys import Keys
from paging.pager import Pager
from paging.report import Residency
from server.engine.errors import RequestError
from server.engine.questions import (
    DescribeRowWishes,
    ListPinnedRows,
    ListRecentRows,
    MapRows,
    PinnedRows,
    PinRows,
    RecentRows,
    RowAnswer,
    RowMap,
    RowQuestion,
    RowWishesState,
    UnpinRows,
    WarmedRows,
    WarmRows,
)
from server.engine.row_wishes import RowWishes

_MOST = 255
"""The greatest value of a byte of a map."""


class RowAnswers:
    """Answers questions about a pager's rows, of which those of the vocabulary have their token ids as keys."""

    def __init__(self, pager: Pager, *, vocab_size: int) -> None:
        self.wishes = RowWishes(pager)
        self._pager = pager
        self._vocab_size = vocab_size

    def answer(self, question: RowQuestion) -> RowAnswer:  # noqa: PLR0911 an answer for each question
        """Return the answer; raises `RequestError` or `QueueFullError` for what cannot be done."""
        match question:
            case ListPinnedRows():
                return PinnedRows(token_ids=self.wishes.pinned.tolist())
            case DescribeRowWishes():
                return self._state()
            case PinRows():
                self.wishes.pin(self._keys(question.token_ids))
                return self._state()
            case UnpinRows():
                self.wishes.unpin(None if question.token_ids is None else self._keys(question.token_ids))
                return self._state()
            case WarmRows():
                num_rows, num_resident = self.wishes.warm(self._keys(question.token_ids))
                return WarmedRows(num_rows=num_rows, num_resident=num_resident)
            case ListRecentRows():
                recent = self._pager.recent_keys()
                return RecentRows(keys=recent[max(0, len(recent) - question.most) :].tobytes())
            case MapRows():
                return row_map(self._pager.residency(), self._vocab_size, question.most_cells)
            case _:
                assert_never(question)

    def _state(self) -> RowWishesState:
        return RowWishesState(
            num_pinned=self.wishes.num_pinned,
            num_pins_waiting=self.wishes.num_waiting,
            num_warming=self.wishes.num_to_warm,
            leasable_rows=self._pager.leasable_slots,
            failure=self.wishes.failure,
        )

    def _keys(self, token_ids: Sequence[int]) -> Keys:
        """Return the row keys of token ids; `RequestError` for ids outside the vocabulary."""
        if not token_ids or not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            raise RequestError(
                f"token_ids must be one or more ids of the vocabulary, 0 to {self._vocab_size - 1}", param="token_ids"
            )
        return np.array(token_ids, dtype=np.int64)


def row_map(there: Residency, vocab_size: int, most_cells: int) -> RowMap:
    """Return where the rows of the vocabulary are, in at most `most_cells` cells (at least one)."""
    if most_cells < 1:
        raise RequestError(f"a map of {most_cells} cells; it has at least 1", param="cells")
    ids_per_cell = -(-vocab_size // most_cells)
    num_cells = -(-vocab_size // ids_per_cell)
    rows_C = np.full(num_cells, ids_per_cell)
    rows_C[-1] -= num_cells * ids_per_cell - vocab_size

    def share(keys: Keys) -> bytes:
        counts_C = np.bincount(keys[keys < vocab_size] // ids_per_cell, minlength=num_cells)
        shares_C: npt.NDArray[np.int64] = -(-counts_C * _MOST // rows_C)
        return shares_C.astype(np.uint8).tobytes()

    # The hottest come first: where a row stands among them says more than its heat, which spans orders of magnitude.
    keys = there.device_keys
    places = -(-np.arange(len(keys), 0, -1) * _MOST // max(1, len(keys)))
    inside = keys < vocab_size
    heat_C = np.zeros(num_cells, dtype=np.int64)
    np.maximum.at(heat_C, keys[inside] // ids_per_cell, places[inside])
    return RowMap(
        ids_per_cell=ids_per_cell,
        device=share(keys),
        host=share(there.host_keys),
        heat=heat_C.astype(np.uint8).tobytes(),
    )
