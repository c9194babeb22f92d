"""An open table: rows read whole and verified, straight from its files.

Opening checks everything that is cheap to check; `paging/verify.py` checks the rest. Reads one row after another, each
of which the caller waits for; `paging/storage` is what reads many at once. Safe to use from several threads.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from paging.errors import TableMismatchError
from paging.geometry import TableGeometry
from paging.manifest import load_manifest
from paging.opening import read_auxiliary
from paging.rowfiles import RowFiles, RowPlace

_READ_ALL_BYTES = 8 * 2**20  # between two calls of `on_progress`
_READ_ALL_THREADS = 4  # reads under way, and cores that verify


class Table:
    """A table that is open for reading; made by `Table.open`, ended by `close` or a `with` block."""

    def __init__(self, rows: RowFiles, *, ids: npt.NDArray[np.int64] | None, bases: Mapping[int, torch.Tensor]) -> None:
        self.directory = rows.directory
        self.manifest = rows.manifest
        self.checksums = rows.checksums
        """Row checksums, uint64 [num_rows]."""
        self.ids = ids
        """The id of each row, int64 [num_rows], strictly increasing; None where row `i` belongs to id `i`."""
        self.bases = bases
        """By layer, for those with a rank: what their coefficients are multiplied by, bf16 [rank, hidden_size]."""
        self._rows = rows

    @classmethod
    def open(
        cls,
        directory: Path | str,
        *,
        expect_fingerprint: str | None = None,
        expect_hidden_size: int | None = None,
        expect_num_layers: int | None = None,
        expect_vocab_size: int | None = None,
    ) -> Self:
        """Open and check a table: manifest, file sizes, headers, auxiliary tensors; not the rows.

        Raises `TableFormatError` where it is no sound table, `TableMismatchError` where it is not the expected one.
        """
        directory = Path(directory)
        manifest = load_manifest(directory)
        expected = {
            "hidden_size": expect_hidden_size,
            "num_layers": expect_num_layers,
            "vocab_size": expect_vocab_size,
        }
        for name, value in expected.items():
            if value is not None and getattr(manifest.geometry, name) != value:
                raise TableMismatchError(
                    f"the table {directory} has {name} {getattr(manifest.geometry, name)}, the model has {value}; "
                    "name this model's table or export one"
                )
        if expect_fingerprint is not None and manifest.fingerprint != expect_fingerprint:
            raise TableMismatchError(
                f"the table {directory} belongs to another model or to other weights (its fingerprint is "
                f"{manifest.fingerprint}, the model's is {expect_fingerprint}); name this model's table or export one"
            )
        auxiliary = read_auxiliary(directory, manifest)
        bases = {layer: torch.from_numpy(bits).view(torch.bfloat16) for layer, bits in auxiliary.bases.items()}
        return cls(RowFiles.open(directory, manifest, auxiliary.checksums), ids=auxiliary.ids, bases=bases)

    @property
    def geometry(self) -> TableGeometry:
        """Sizes and the layout of a row."""
        return self.manifest.geometry

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self.manifest.num_rows

    @property
    def table_id(self) -> str:
        """The table's own id."""
        return self.manifest.table_id

    @property
    def fingerprint(self) -> str:
        """Of the weights that determine the table."""
        return self.manifest.fingerprint

    def place(self, row: int) -> RowPlace:
        """Return where a row lies; `IndexError` where there is no such row."""
        return self._rows.place(row)

    def is_sound(self, row: int, payload: memoryview) -> bool:
        """Whether bytes read for a row have its checksum."""
        return self._rows.is_sound(row, payload)

    def read_rows(
        self, row_numbers: Sequence[int] | npt.NDArray[np.integer] | torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Read rows by number, in any order, each verified; return their payloads, uint8 [n, row_bytes].

        `out` (uint8 [n, row_bytes] in host memory, contiguous) is filled and returned where given. The kernel is told
        of the whole batch before the first byte is asked for. Raises `RowReadError` for the first row that cannot be
        had, after one retry, and `IndexError` where there is no such row.
        """
        numbers = np.asarray(row_numbers, dtype=np.int64).tolist()
        shape = (len(numbers), self.geometry.row_bytes)
        if out is None:
            out = torch.empty(shape, dtype=torch.uint8)
        if out.dtype != torch.uint8 or tuple(out.shape) != shape or not out.is_contiguous() or out.is_cuda:
            raise ValueError(f"out is {out.dtype} {tuple(out.shape)}; it must be contiguous uint8 {shape} on the host")
        for place in [self.place(row) for row in numbers]:
            self._rows.advise(place, os.POSIX_FADV_WILLNEED)
        for row, buffer in zip(numbers, out.numpy(), strict=True):
            error = self._rows.read(row, buffer.data, self._rows.copy_payload)
            if error is not None:
                raise error
        return out

    def read_all(self, on_progress: Callable[[int, int], None] | None = None) -> torch.Tensor:
        """Read the whole table, verified, in long reads by several threads; return uint8 [num_rows, row_bytes].

        `on_progress` counts rows, and ends the reading where it raises. Errors are those of `read_rows`.
        """
        payload = torch.empty(self.num_rows, self.geometry.row_bytes, dtype=torch.uint8)
        rows_VR = payload.numpy()
        step = max(1, _READ_ALL_BYTES // self.geometry.row_stride)

        def read(start: int) -> int:
            run = rows_VR[start : start + step]
            self._rows.copy_run(start, run)
            for row, buffer in enumerate(run, start):
                if self.is_sound(row, buffer.data):
                    continue
                error = self._rows.read(row, buffer.data, self._rows.copy_payload)
                if error is not None:
                    raise error
            return start + len(run)

        pool = ThreadPoolExecutor(_READ_ALL_THREADS, thread_name_prefix="read-table")
        try:
            for end in pool.map(read, range(0, self.num_rows, step)):
                if on_progress is not None:
                    on_progress(end, self.num_rows)
        finally:
            pool.shutdown(cancel_futures=True)
        return payload

    def close(self) -> None:
        """Close the files; reading afterwards is a `ValueError`."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
