"""Checking a whole table, byte by byte.

Opening checks the manifest, sizes, headers and auxiliary tensors; this reads every shard once and checks every row's
checksum, that padding is zero, and every file's digest.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paging.checksum import FileDigest
from paging.errors import RowReadError, TableFormatError
from paging.rowfiles import fill
from paging.table import Table

_PROGRESS_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """What was checked of a table that is sound."""

    table_id: str
    fingerprint: str
    num_rows: int
    num_shards: int
    num_bytes: int
    """Bytes of shards and auxiliary file, all of them read."""


def verify_table(directory: Path | str, on_progress: Callable[[int, int], None] | None = None) -> TableReport:
    """Check everything about a table and report; `on_progress` counts rows.

    All rows are looked at, then `RowReadError` says how many are bad and names the first with its file and offset.
    Raises `TableFormatError` for anything else that is wrong.
    """
    with Table.open(directory) as table:
        faults = _Faults()
        wrong_digests = [
            shard.file
            for index, shard in enumerate(table.manifest.shards)
            if _verify_shard(table, index, faults, on_progress) != shard.digest
        ]
        if faults.first is not None:
            raise RowReadError(
                f"{faults.count} of {table.num_rows} rows of {table.directory} are bad; the first is {faults.first}; "
                "copy or export the table again"
            )
        if wrong_digests:
            raise TableFormatError(
                f"{table.directory / wrong_digests[0]} does not match its digest in the manifest; "
                "copy or export the table again"
            )
        manifest = table.manifest
        return TableReport(
            table_id=manifest.table_id,
            fingerprint=manifest.fingerprint,
            num_rows=manifest.num_rows,
            num_shards=len(manifest.shards),
            num_bytes=manifest.num_bytes,
        )


@dataclass
class _Faults:
    """The bad rows found so far."""

    count: int = 0
    first: str | None = None

    def add(self, fault: str) -> None:
        self.count += 1
        self.first = self.first or fault


def _verify_shard(table: Table, index: int, faults: _Faults, on_progress: Callable[[int, int], None] | None) -> str:
    """Check the rows of one shard; return the digest of what was read."""
    shard, geometry = table.manifest.shards[index], table.geometry
    digest = FileDigest(table.manifest.shard_header(index))  # opening has compared the header byte for byte
    stride = memoryview(bytearray(geometry.row_stride))
    padding = bytes(geometry.row_stride - geometry.row_bytes)
    progress_rows = max(1, _PROGRESS_BYTES // geometry.row_stride)
    with (table.directory / shard.file).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        for row in range(shard.first_row, shard.first_row + shard.num_rows):
            place = table.place(row)
            fault = _read_stride(file.fileno(), stride, place.offset)
            if fault is None:
                digest.update(stride)
                if not table.is_sound(row, stride[: geometry.row_bytes]):
                    fault = "its checksum does not match its bytes"
                elif stride[geometry.row_bytes :] != padding:
                    fault = "its padding is not zero"
            if fault is not None:
                faults.add(f"row {row} ({place.path}, byte {place.offset}): {fault}")
            done = row + 1
            if on_progress is not None and (done % progress_rows == 0 or done == table.num_rows):
                on_progress(done, table.num_rows)
    return digest.hexdigest()


def _read_stride(handle: int, buffer: memoryview, offset: int) -> str | None:
    """Fill a buffer from a file; return what went wrong."""
    try:
        return fill(handle, buffer, offset)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
