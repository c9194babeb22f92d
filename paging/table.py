"""An open table: rows read whole and verified, straight from its files.

Opening checks everything that is cheap to check; `paging/verify.py` checks the rest. Reading goes through `preadv`,
never through a memory map, so that a file truncated meanwhile is an error and not a signal. Safe to use from several
threads.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from paging.checksum import row_checksum, table_seed
from paging.errors import RowReadError, TableMismatchError
from paging.format import Manifest
from paging.geometry import TableGeometry
from paging.manifest import load_manifest
from paging.opening import open_shard, read_auxiliary

_READ_ALL_BYTES = 8 * 2**20  # between two calls of `on_progress`
_AGAIN = "copy or export the table again"


class RowPlace(NamedTuple):
    """Where a row's payload lies."""

    shard: int
    path: Path
    offset: int


class Table:
    """A table that is open for reading; made by `Table.open`, ended by `close` or a `with` block."""

    def __init__(
        self, *, directory: Path, manifest: Manifest, files: Sequence[IO[bytes]], auxiliary: npt.NDArray[np.uint64]
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.checksums = auxiliary[: manifest.num_rows]
        """Row checksums, uint64 [num_rows]."""
        self.ids = auxiliary[manifest.num_rows :].view(np.int64) if manifest.auxiliary.is_sparse else None
        """The id of each row, int64 [num_rows], strictly increasing; None where row `i` belongs to id `i`."""
        self._files = tuple(files)
        self._paths = tuple(directory / shard.file for shard in manifest.shards)
        self._stride = manifest.geometry.row_stride
        self._first_rows = [shard.first_row for shard in manifest.shards]
        self._data_starts = [len(manifest.shard_header(index)) for index in range(len(manifest.shards))]
        self._seed = table_seed(manifest.table_id)

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
        files: list[IO[bytes]] = []
        try:
            auxiliary = read_auxiliary(directory, manifest)
            files.extend(open_shard(directory, manifest, index) for index in range(len(manifest.shards)))
            return cls(directory=directory, manifest=manifest, files=files, auxiliary=auxiliary)
        except BaseException:
            for file in files:
                file.close()
            raise

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
        if not 0 <= row < self.num_rows:
            raise IndexError(f"row {row} of a table of {self.num_rows}")
        shard = bisect_right(self._first_rows, row) - 1
        offset = self._data_starts[shard] + (row - self._first_rows[shard]) * self._stride
        return RowPlace(shard, self._paths[shard], offset)

    def is_sound(self, row: int, payload: memoryview) -> bool:
        """Whether bytes read for a row have its checksum."""
        return row_checksum(payload, seed=self._seed, row=row) == int(self.checksums[row])

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
        places = [self.place(row) for row in numbers]
        for row, place in zip(numbers, places, strict=True):
            self._advise(row, place, os.POSIX_FADV_WILLNEED)
        for row, place, buffer in zip(numbers, places, out.numpy(), strict=True):
            self._read_row(row, place, buffer.data)
        return out

    def read_all(self, on_progress: Callable[[int, int], None] | None = None) -> torch.Tensor:
        """Read the whole table, verified; return uint8 [num_rows, row_bytes]. `on_progress` counts rows."""
        payload = torch.empty(self.num_rows, self.geometry.row_bytes, dtype=torch.uint8)
        step = max(1, _READ_ALL_BYTES // self.geometry.row_stride)
        for start in range(0, self.num_rows, step):
            end = min(start + step, self.num_rows)
            self.read_rows(range(start, end), out=payload[start:end])
            if on_progress is not None:
                on_progress(end, self.num_rows)
        return payload

    def close(self) -> None:
        """Close the files; reading afterwards is a `ValueError`."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_row(self, row: int, place: RowPlace, buffer: memoryview) -> None:
        cause = self._try_row(row, place, buffer)
        if not cause:
            return
        # What the page cache holds may be what is wrong; the second attempt shall come from the disk.
        self._advise(row, place, os.POSIX_FADV_DONTNEED)
        cause = self._try_row(row, place, buffer)
        if cause:
            raise RowReadError(f"row {row} ({place.path}, byte {place.offset}): {cause}; {_AGAIN}")

    def _try_row(self, row: int, place: RowPlace, buffer: memoryview) -> str | None:
        """Read a row once; return what went wrong."""
        handle = self._files[place.shard].fileno()
        done = 0
        try:
            while done < len(buffer):
                taken = os.preadv(handle, [buffer[done:]], place.offset + done)
                if not taken:
                    return f"the file ends {len(buffer) - done} bytes before the row does"
                done += taken
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        return None if self.is_sound(row, buffer) else "its checksum does not match its bytes"

    def _advise(self, row: int, place: RowPlace, advice: int) -> None:
        try:
            os.posix_fadvise(self._files[place.shard].fileno(), place.offset, self._stride, advice)
        except OSError as error:
            raise RowReadError(
                f"row {row} ({place.path}, byte {place.offset}): it cannot be read ({error.strerror}); {_AGAIN}"
            ) from error
