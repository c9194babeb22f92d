"""Rows that a pager holds: a table of any size in slots of a fixed number.

Shape legend: N tokens of the batch, d hidden size.
"""

import math
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from models.rows import Rows
from paging import LeaseTimeoutError
from paging.lease import Lease
from paging.pager import Pager


class PagedRows:
    """A pager's rows as a `RowSource`, for a caller that runs one batch at a time and waits for its rows.

    A batch holds its rows until the next one is fetched, or until `close`; only then may others take their slots.
    """

    def __init__(self, pager: Pager, *, dtype: torch.dtype, timeout: float = 60.0) -> None:
        """Take rows from `pager`; `timeout`: seconds that a batch waits for its rows."""
        self.pager = pager
        self.dtype = dtype
        self.timeout = timeout
        self._lease: Lease | None = None

    @property
    def max_rows(self) -> int:
        """Different rows that one batch can have: slots that are not for pinned rows."""
        return self.pager.leasable_slots

    def fetch(self, row_keys_N: Tensor) -> "PagedBatch":
        """Lease the batch's rows, waiting for them, and give back those of the batch before.

        Raises `LeaseTooLargeError` for more different rows than there are slots, `RowReadError` where a row cannot be
        read, `LeaseTimeoutError` where rows do not arrive in time.
        """
        self.close()
        self.pager.poll()  # rows that are brought early come along, also where every batch finds its own
        lease = self._lease = self.pager.lease(row_keys_N.numpy(force=True).copy())
        if not self.pager.wait(lease, self.timeout):
            outlook = self.pager.outlook(lease)
            self.close()
            if lease.error is not None:
                raise lease.error
            if math.isinf(outlook.seconds):
                raise LeaseTimeoutError(f"{outlook.missing} rows need slots that other leases hold; release them")
            raise LeaseTimeoutError(
                f"{outlook.missing} rows did not arrive within {self.timeout:g} s; the storage answers too slowly"
            )
        return PagedBatch(self, lease)

    def close(self) -> None:
        """Give the rows of the last batch back."""
        if self._lease is not None:
            self.pager.release(self._lease)
            self._lease = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class PagedBatch(Rows):
    """The leased rows of one batch; each layer is decoded when it is asked for."""

    def __init__(self, source: PagedRows, lease: Lease) -> None:
        self._rows = source.pager.rows([lease])
        self._dtype = source.dtype

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values, [N, d] in the model's dtype; zeros where the table left the layer out."""
        return self._rows.gather(layer, self._dtype)

    def add_to(self, hidden_Nd: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        """Return hidden states with one layer's values added; they may be overwritten."""
        return self._rows.add_to(hidden_Nd, layer, alpha_N)
