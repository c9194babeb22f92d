"""Tables laid over a row source that is not paged: a resident, mapped or computed memory with packs.

Keys below the base's size are the base's own; each overlay has a range of keys beyond them, its row `i` the key
`start + i`, and is held in memory whole. (A pager attaches further tables by itself.)

Shape legend: N tokens of the batch, d hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.packs import Pack, row_keys
from models.rows import Rows, RowSource
from models.table_rows import ResidentRows
from paging import Table
from paging.keys import KeyRange, KeySpace


class OverlaidRows:
    """A row source and what lies over it."""

    def __init__(
        self, base: RowSource, num_keys: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        """Begin with nothing over `base`, which has a row for each key below `num_keys`."""
        self._base = base
        self._num_base_keys = num_keys
        self._dtype = dtype
        self._device = device
        self._space: KeySpace[RowSource] = KeySpace()
        self._space.attach(base, num_keys)

    @property
    def max_rows(self) -> int | None:
        """Different rows that one batch can have: those of the base count."""
        return self._base.max_rows

    def attach(self, table: Table) -> KeyRange:
        """Read a table's rows and give them keys; raises `RowReadError`. The table may be closed afterwards."""
        return self._space.attach(ResidentRows(table, dtype=self._dtype, device=self._device), table.num_rows)

    def detach(self, keys: KeyRange) -> None:
        """Drop the rows that have these keys, which may become another table's."""
        self._space.close(keys)
        self._space.free(keys)

    def fetch(self, row_keys_N: Tensor) -> Rows:
        """Return the rows of these keys, whichever table they are of."""
        is_base_N = row_keys_N < self._num_base_keys
        if bool(is_base_N.all()):
            return self._base.fetch(row_keys_N)
        parts = []
        for keys, rows in zip(self._space.ranges[1:], self._space.storages[1:], strict=True):
            positions_P = ((row_keys_N >= keys.start) & (row_keys_N < keys.stop)).nonzero()[:, 0]
            if len(positions_P):
                parts.append((positions_P.to(self._device), rows.fetch(row_keys_N[positions_P] - keys.start)))
        return _OverlaidBatch(self._base.fetch(row_keys_N.where(is_base_N, 0)), parts)


class _OverlaidBatch(Rows):
    """The base's rows of one batch, with those of the overlays in their places."""

    def __init__(self, base: Rows, parts: Sequence[tuple[Tensor, Rows]]) -> None:
        self._base = base
        self._parts = parts

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values, [N, d]."""
        values_Nd = self._base.gather(layer)
        for positions_P, rows in self._parts:
            values_Nd = values_Nd.index_copy(0, positions_P, rows.gather(layer))
        return values_Nd


class PackView:
    """A memory as one pack shows it, for a caller that knows token ids alone."""

    def __init__(self, base: RowSource, pack: Pack, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        """Lay `pack`, which is for this memory and may be closed afterwards, over `base`; raises `RowReadError`."""
        vocab_size = pack.table.geometry.vocab_size
        self._rows = OverlaidRows(base, vocab_size, dtype=dtype, device=device)
        self._row_keys_V = torch.from_numpy(row_keys(pack.ids, self._rows.attach(pack.table), vocab_size))

    @property
    def max_rows(self) -> int | None:
        """Different rows that one batch can have."""
        return self._rows.max_rows

    def fetch(self, row_keys_N: Tensor) -> Rows:
        """Return the rows of these token ids."""
        return self._rows.fetch(self._row_keys_V[row_keys_N.cpu()])
