"""Rows that come from a ToL table: the whole of it in memory, or read from its file batch by batch.

Shape legend: N tokens of the batch, U different keys among them, V rows of the table, R bytes of a row, d hidden size.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.config import ModelConfig
from models.rows import PlacedRows, Rows
from paging import Table, TableMismatchError
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


def placed_in(layers: LayerReader, slots: Callable[[], npt.NDArray[np.integer[Any]]], dtype: torch.dtype) -> PlacedRows:
    """Say that a batch's rows are those that a reader finds in these slots."""
    return PlacedRows(layers, slots, lambda slots_N: TableBatch(PickedRows(layers, slots_N), dtype))


class ResidentRows:
    """The whole table in the model's memory: the fastest source, and the one that paging is measured against."""

    max_rows = None

    def __init__(
        self,
        table: Table,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        payload_VR: Tensor | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read the table, unless `payload_VR` is what `Table.read_all` returned."""
        self.dtype = dtype
        self.payload_VR = (table.read_all(on_progress) if payload_VR is None else payload_VR).to(device)
        self._layers = LayerReader(table.geometry, self.payload_VR, table.bases)

    def fetch(self, row_keys_N: Tensor) -> "ResidentBatch":
        """Pick the batch's rows."""
        return ResidentBatch(self._layers, row_keys_N, self.dtype)


class ResidentBatch(Rows):
    """The rows of one batch out of the whole table; a row's slot is its key."""

    def __init__(self, layers: LayerReader, row_keys_N: Tensor, dtype: torch.dtype) -> None:
        self._layers, self._row_keys_N, self._dtype = layers, row_keys_N, dtype

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values, [N, d] in the model's dtype; zeros where the table left the layer out."""
        return self._batch.gather(layer)

    def add_to(self, hidden_Nd: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        """Return hidden states with one layer's values added; they may be overwritten."""
        return self._batch.add_to(hidden_Nd, layer, alpha_N)

    @property
    def placed(self) -> PlacedRows:
        """Where the rows lie, for all batches."""
        return placed_in(self._layers, lambda: self._row_keys_N.numpy(force=True), self._dtype)

    @cached_property
    def _batch(self) -> "TableBatch":
        """Made when values are asked for: whoever reads slots himself needs no keys on the device."""
        return TableBatch(PickedRows(self._layers, self._row_keys_N.to(self._layers.device)), self._dtype)


class TableBatch(Rows):
    """The rows of one batch, decoded as a pager's are: all layers together where they are few enough bytes."""

    def __init__(self, picked: PickedRows, dtype: torch.dtype) -> None:
        self._picked = picked
        self._dtype = dtype

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values, [N, d] in the model's dtype; zeros where the table left the layer out."""
        return self._picked.gather(layer, self._dtype)

    def add_to(self, hidden_Nd: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        """Return hidden states with one layer's values added; they may be overwritten."""
        return self._picked.add_to(hidden_Nd, layer, alpha_N)


class MappedRows:
    """Rows read from the table's file for each batch, each different key once; the page cache is the only cache."""

    max_rows = None

    def __init__(self, table: Table, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.table = table
        self.dtype = dtype
        self.device = device
        self._bases = {layer: basis.to(device, torch.float32) for layer, basis in table.bases.items()}

    def fetch(self, row_keys_N: Tensor) -> TableBatch:
        """Read and verify the batch's rows; raises `RowReadError`."""
        keys_U, inverse_N = np.unique(row_keys_N.cpu().numpy(), return_inverse=True)
        payload_UR = self.table.read_rows(keys_U).to(self.device)
        layers = LayerReader(self.table.geometry, payload_UR, self._bases)
        return TableBatch(PickedRows(layers, torch.from_numpy(inverse_N).to(self.device)), self.dtype)
