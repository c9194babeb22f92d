"""The open files of a table's rows: where a row lies, whether bytes are that row, and what to say where they are not.

Knows no tensors and no threads, and imports without torch. Reading goes through `preadv`, never through a memory map,
so that a file truncated meanwhile is an error and not a signal. Safe to use from several threads.
"""

import contextlib
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from paging.checksum import row_checksum, table_seed
from paging.errors import ReadErrorKind, RowReadError
from paging.format import Manifest
from paging.geometry import PAGE_BYTES, round_up
from paging.opening import open_shard

_AGAIN = "copy or export the table again"
_RUN_ROWS = 512
"""Rows in one read: the system takes 1024 buffers at a time, and behind each row is padding."""


class RowPlace(NamedTuple):
    """Where a row's payload lies."""

    shard: int
    path: Path
    offset: int


class Flaw(NamedTuple):
    """What is wrong with a row that was read."""

    kind: ReadErrorKind
    cause: str


Transfer: TypeAlias = Callable[[RowPlace, memoryview], str | None]
"""Fills the start of a buffer with the payload at a place; returns why not all of it came, or raises `OSError`."""


class RowFiles:
    """The shards of a table, open for reading; made by `RowFiles.open`, ended by `close`."""

    def __init__(
        self, *, directory: Path, manifest: Manifest, checksums: npt.NDArray[np.uint64], files: Sequence[IO[bytes]]
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.checksums = checksums
        """Row checksums, uint64 [num_rows]."""
        self._files = tuple(files)
        self._paths = tuple(directory / shard.file for shard in manifest.shards)
        self._num_rows = manifest.num_rows
        self._row_bytes = manifest.geometry.row_bytes
        self._stride = manifest.geometry.row_stride
        self._first_rows = [shard.first_row for shard in manifest.shards]
        self._data_starts = [len(manifest.shard_header(index)) for index in range(len(manifest.shards))]
        self._seed = table_seed(manifest.table_id)

    @classmethod
    def open(cls, directory: Path, manifest: Manifest, checksums: npt.NDArray[np.uint64]) -> Self:
        """Open and check every shard's size and header; `TableFormatError` where one is not what the manifest means."""
        with contextlib.ExitStack() as opened:
            files = [
                opened.enter_context(open_shard(directory, manifest, index)) for index in range(len(manifest.shards))
            ]
            rows = cls(directory=directory, manifest=manifest, checksums=checksums, files=files)
            opened.pop_all()
        return rows

    def place(self, row: int) -> RowPlace:
        """Return where a row lies; `IndexError` where there is no such row."""
        if not 0 <= row < self._num_rows:
            raise IndexError(f"row {row} of a table of {self._num_rows}")
        shard = bisect_right(self._first_rows, row) - 1
        offset = self._data_starts[shard] + (row - self._first_rows[shard]) * self._stride
        return RowPlace(shard, self._paths[shard], offset)

    def handle(self, place: RowPlace) -> int:
        """Return the file descriptor to read a place from; `ValueError` once the files are closed."""
        return self._files[place.shard].fileno()

    def handles(self) -> list[int]:
        """Return the file descriptors of all shards; `ValueError` once the files are closed."""
        return [file.fileno() for file in self._files]

    def is_sound(self, row: int, payload: memoryview) -> bool:
        """Whether bytes read for a row have its checksum."""
        return row_checksum(payload, seed=self._seed, row=row) == self.checksums.item(row)

    def advise(self, place: RowPlace, advice: int) -> None:
        """Tell the kernel about the pages of a row, those shared with its neighbours included."""
        start = place.offset // PAGE_BYTES * PAGE_BYTES
        length = round_up(place.offset + self._stride, PAGE_BYTES) - start
        # Advice may go unheeded anyway: where something is wrong with the file, reading it will say so.
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.handle(place), start, length, advice)

    def copy_payload(self, place: RowPlace, buffer: memoryview) -> str | None:
        """Fill the start of a buffer by way of the page cache: the plain `Transfer`."""
        return fill(self.handle(place), buffer[: self._row_bytes], place.offset)

    def copy_run(self, first: int, rows_NR: npt.NDArray[np.uint8]) -> None:
        """Fill `rows_NR` with consecutive rows from `first` on, by way of the page cache, in as few reads as can be.

        Nothing is verified, and what does not come is left as it was: the caller looks at each row.
        """
        padding = memoryview(bytearray(self._stride - self._row_bytes))
        start = 0
        while start < len(rows_NR):
            place = self.place(first + start)
            beyond = self._first_rows[place.shard + 1 :] or [self._num_rows]
            run = rows_NR[start : min(start + _RUN_ROWS, beyond[0] - first)]
            buffers = [part for row in run for part in (row.data, padding)] if padding else [run.data]
            with contextlib.suppress(OSError):
                os.preadv(self.handle(place), buffers, place.offset)
            start += len(run)

    def read(self, row: int, buffer: memoryview, transfer: Transfer) -> RowReadError | None:
        """Fill the start of a buffer with a row and verify it; return the error where that failed twice."""
        if self._try(row, self.place(row), buffer, transfer) is None:
            return None
        return self.read_again(row, buffer, transfer)

    def read_again(self, row: int, buffer: memoryview, transfer: Transfer) -> RowReadError | None:
        """Do as `read` does once the first attempt has failed."""
        place = self.place(row)
        # What the page cache holds may be what is wrong; the second attempt shall come from the disk.
        self.advise(place, os.POSIX_FADV_DONTNEED)
        flaw = self._try(row, place, buffer, transfer)
        return None if flaw is None else self.error(row, flaw)

    def error(self, row: int, flaw: Flaw, *, remedy: str = _AGAIN) -> RowReadError:
        """Return the error that says what is wrong with a row, where it lies, and what to do."""
        place = self.place(row)
        return RowReadError(
            f"row {row} ({place.path}, byte {place.offset}): {flaw.cause}; {remedy}",
            row=row,
            path=place.path,
            offset=place.offset,
            cause=flaw.cause,
            kind=flaw.kind,
        )

    def close(self) -> None:
        """Close the files; reading afterwards is a `ValueError`."""
        for file in self._files:
            file.close()

    def _try(self, row: int, place: RowPlace, buffer: memoryview, transfer: Transfer) -> Flaw | None:
        """Read a row once; return what went wrong."""
        try:
            cause = transfer(place, buffer)
        except OSError as error:
            return Flaw(ReadErrorKind.IO, f"it cannot be read ({error.strerror})")
        if cause is not None:
            return Flaw(ReadErrorKind.SHORT, cause)
        if self.is_sound(row, buffer[: self._row_bytes]):
            return None
        return Flaw(ReadErrorKind.CHECKSUM, "its checksum does not match its bytes")


def fill(handle: int, buffer: memoryview, offset: int) -> str | None:
    """Fill a buffer from a file; return what went wrong, or raise `OSError`."""
    done = 0
    while done < len(buffer):
        taken = os.preadv(handle, [buffer[done:]], offset + done)
        if not taken:
            return shortfall(handle, end=offset + len(buffer))
        done += taken
    return None


def shortfall(handle: int, *, end: int) -> str:
    """Return why the bytes of a file up to `end` did not all come."""
    beyond = end - os.fstat(handle).st_size
    return missing(beyond) if beyond > 0 else "it was read in part only"


def missing(num_bytes: int) -> str:
    """Return the cause of a row that is not whole."""
    return f"the file ends {num_bytes} bytes before the row does"
