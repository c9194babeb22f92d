"""Rows that come from a ToL table: the whole of it in memory, or read from its file batch by batch.

Shape legend: N tokens of the batch, U different keys among them, V rows of the table, R bytes of a row, d hidden size.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.config import ModelConfig
from paging import Table, TableGeometry, TableMismatchError, decode_layer
from paging.layers import LayerReader, PickedRows


def open_table(directory: Path, config: ModelConfig, fingerprint: str | None) -> Table:
    """Open a table that serves as the memory of a model with this table fingerprint (None: not checked).

    Raises `TableFormatError` where it is no sound table, `TableMismatchError` where it is of another model or sparse.
    """
    table = Table.open(
        directory,
        expect_fingerprint=fingerprint,
        expect_hidden_size=config.hidden_size,
        expect_num_layers=config.num_hidden_layers,
        expect_vocab_size=config.vocab_size,
    )
    if table.num_rows != config.vocab_size:
        table.close()
        raise TableMismatchError(
            f"the table {directory} has {table.num_rows} of {config.vocab_size} rows; name a whole table"
        )
    return table


class PayloadBatch:
    """The encoded rows of one batch; each layer is decoded when it is asked for."""

    def __init__(self, payload_NR: Tensor, geometry: TableGeometry, dtype: torch.dtype) -> None:
        self.payload_NR = payload_NR
        self.geometry = geometry
        self.dtype = dtype
        self.layers = frozenset(geometry.layers)

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values, [N, d] in the model's dtype; zeros where the table left the layer out."""
        if layer not in self.layers:
            return self.payload_NR.new_zeros(len(self.payload_NR), self.geometry.hidden_size, dtype=self.dtype)
        return decode_layer(self.payload_NR, self.geometry, layer).to(self.dtype)


class ResidentRows:
    """The whole table in the model's memory: the fastest source, and the one that paging is measured against."""

    max_rows = None

    def __init__(
        self,
        table: Table,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.dtype = dtype
        self.payload_VR = table.read_all(on_progress=on_progress).to(device)
        self._layers = LayerReader(table.geometry, self.payload_VR)

    def fetch(self, row_keys_N: Tensor) -> "ResidentBatch":
        """Pick the batch's rows."""
        return ResidentBatch(PickedRows(self._layers, row_keys_N), self.dtype)


class ResidentBatch:
    """The rows of one batch, decoded as a pager's are: all layers together where they are few enough bytes."""

    def __init__(self, picked: PickedRows, dtype: torch.dtype) -> None:
        self._picked = picked
        self._dtype = dtype

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values, [N, d] in the model's dtype; zeros where the table left the layer out."""
        return self._picked.gather(layer, self._dtype)


class MappedRows:
    """Rows read from the table's file for each batch, each different key once; the page cache is the only cache."""

    max_rows = None

    def __init__(self, table: Table, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.table = table
        self.dtype = dtype
        self.device = device

    def fetch(self, row_keys_N: Tensor) -> PayloadBatch:
        """Read and verify the batch's rows; raises `RowReadError`."""
        keys_U, inverse_N = np.unique(row_keys_N.cpu().numpy(), return_inverse=True)
        payload_UR = self.table.read_rows(keys_U)
        payload_NR = payload_UR[torch.from_numpy(inverse_N)].to(self.device)
        return PayloadBatch(payload_NR, self.table.geometry, self.dtype)
