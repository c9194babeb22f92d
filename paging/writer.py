"""Writing a table: streamed, in memory bounded by a chunk, and whole or not at all.

Knows files and bytes; what the rows mean and how they are computed is the caller's affair. Imports without torch.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from paging.checksum import file_digest, row_checksum, table_seed
from paging.errors import TableWriteError
from paging.format import (
    AUXILIARY_FILE,
    MANIFEST_FILE,
    AuxiliaryEntry,
    Manifest,
    ShardEntry,
    auxiliary_tensors,
    check_fingerprint,
    check_num_rows,
    shard_file,
)
from paging.geometry import TableGeometry
from paging.header import auxiliary_header
from paging.manifest import manifest_text
from paging.shard_plan import DEFAULT_SHARD_BYTES, ShardPlan, table_bytes
from paging.shards import PIECE_BYTES, ShardFile, allocate, write_file
from paging.staging import StagingDirectory, remove_debris
from paging.target import check_replaceable

if TYPE_CHECKING:
    import torch

_MANIFEST_ALLOWANCE = 2**20


class TableWriter:
    """Writes a table of `num_rows` rows into `directory`; use as a context manager and `write` every row in order.

    Leaving the block normally completes the table; leaving it by any exception leaves nothing. Rows are numbered from
    0; row `i` belongs to id `i`, or to `ids[i]` where `ids` (int64, strictly increasing) makes the table sparse. An
    existing table is replaced only with `overwrite`, and only once the new one is complete. `bases` are those of the
    layers that have a rank, bf16 as its bits: uint16 [rank, hidden_size].

    Raises `TableWriteError` where something else than a table is in the way, the disk is full or rows are missing,
    `TableFormatError` where the geometry and the numbers do not fit together.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        geometry: TableGeometry,
        fingerprint: str,
        num_rows: int,
        ids: npt.NDArray[np.int64] | None = None,
        bases: Mapping[int, npt.NDArray[np.uint16]] | None = None,
        overwrite: bool = False,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
    ) -> None:
        check_num_rows(num_rows, geometry, sparse=ids is not None)
        check_fingerprint(fingerprint)
        if ids is not None:
            _check_ids(ids, num_rows=num_rows, vocab_size=geometry.vocab_size)
        _check_bases(bases or {}, geometry)
        self.directory = Path(directory)
        self.geometry = geometry
        self.fingerprint = fingerprint
        self.num_rows = num_rows
        self.table_id = secrets.token_hex(16)
        self._ids = ids
        self._bases = bases or {}
        self._overwrite = overwrite
        self._plan = ShardPlan(geometry=geometry, num_rows=num_rows, shard_bytes=shard_bytes)
        self._seed = table_seed(self.table_id)
        self._checksums = np.zeros(num_rows, dtype=np.uint64)
        self._shards: list[ShardEntry] = []
        self._shard: ShardFile | None = None
        self._next_row = 0
        self._staging: StagingDirectory | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole table on disk, bar the manifest."""
        sparse, shard_bytes = self._ids is not None, self._plan.shard_bytes
        return table_bytes(self.geometry, num_rows=self.num_rows, sparse=sparse, shard_bytes=shard_bytes)

    @property
    def num_written(self) -> int:
        """Rows written so far."""
        return self._next_row

    def __enter__(self) -> Self:
        try:
            with self._write_errors():
                remove_debris(self.directory)
                check_replaceable(self.directory, overwrite=self._overwrite)
                self._staging = StagingDirectory(self.directory)
                self._check_space(self._staging.path)
                for index in range(self._plan.num_shards):
                    path = self._staging.path / shard_file(index, self._plan.num_shards)
                    allocate(path, self._plan.num_bytes(index))
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._write_errors():
                    self._finish()
        finally:
            self._discard()

    def write(self, rows: "npt.NDArray[np.uint8] | torch.Tensor") -> None:
        """Append a chunk of encoded payloads, uint8 [any number, row_bytes], in host memory."""
        payload = np.ascontiguousarray(rows)
        if payload.dtype != np.uint8 or payload.ndim != 2 or payload.shape[1] != self.geometry.row_bytes:
            raise ValueError(
                f"rows are {payload.dtype} {payload.shape}; they must be uint8 [n, {self.geometry.row_bytes}]"
            )
        if self._next_row + len(payload) > self.num_rows:
            raise TableWriteError(f"{self._next_row + len(payload)} rows were written; the table has {self.num_rows}")
        with self._write_errors():
            for index, row in enumerate(payload, start=self._next_row):
                self._checksums[index] = row_checksum(row.data, seed=self._seed, row=index)
            while len(payload):
                shard = self._open_shard()
                taken = min(len(payload), shard.first_row + shard.num_rows - self._next_row)
                self._append(shard, payload[:taken])
                payload = payload[taken:]
                self._next_row += taken
                if self._next_row == shard.first_row + shard.num_rows:
                    self._close_shard(shard)

    def _append(self, shard: ShardFile, payload: npt.NDArray[np.uint8]) -> None:
        stride = self.geometry.row_stride
        if stride == self.geometry.row_bytes:
            shard.append(payload.reshape(-1).data)
            return
        piece_rows = max(1, PIECE_BYTES // stride)
        padded = np.zeros((min(piece_rows, len(payload)), stride), dtype=np.uint8)
        for start in range(0, len(payload), piece_rows):
            piece = payload[start : start + piece_rows]
            padded[: len(piece), : self.geometry.row_bytes] = piece
            shard.append(padded[: len(piece)].reshape(-1).data)

    def _open_shard(self) -> ShardFile:
        if self._shard is None:
            index = len(self._shards)
            name = shard_file(index, self._plan.num_shards)
            self._shard = ShardFile(self._staged / name, first_row=self._next_row, num_rows=self._plan.rows(index))
            self._shard.append(memoryview(self._plan.header(index, table_id=self.table_id)))
        return self._shard

    def _close_shard(self, shard: ShardFile) -> None:
        shard.sync()
        self._shard = None
        shard.close()
        self._shards.append(
            ShardEntry(
                file=shard.path.name,
                first_row=shard.first_row,
                num_rows=shard.num_rows,
                num_bytes=shard.num_bytes,
                digest=shard.digest,
            )
        )

    def _finish(self) -> None:
        if self._next_row != self.num_rows:
            raise TableWriteError(
                f"only {self._next_row} of {self.num_rows} rows of {self.directory} were written; "
                "nothing was kept, write them all"
            )
        auxiliary = self._write_auxiliary()
        manifest = Manifest(
            table_id=self.table_id,
            fingerprint=self.fingerprint,
            num_rows=self.num_rows,
            geometry=self.geometry,
            auxiliary=auxiliary,
            shards=tuple(self._shards),
        )
        # A table is what has a manifest: under its real name it appears last, and whole.
        partial = self._staged / f"{MANIFEST_FILE}.partial"
        write_file(partial, manifest_text(manifest).encode("ascii"))
        partial.rename(self._staged / MANIFEST_FILE)
        check_replaceable(self.directory, overwrite=self._overwrite)
        assert self._staging is not None
        self._staging.publish(replace=self._overwrite)

    def _write_auxiliary(self) -> AuxiliaryEntry:
        tensors = auxiliary_tensors(self.geometry, num_rows=self.num_rows, sparse=self._ids is not None)
        header = auxiliary_header(tensors, version=self.geometry.format_version, table_id=self.table_id)
        parts = [header, self._checksums.astype("<u8").tobytes()]
        if self._ids is not None:
            parts.append(self._ids.astype("<i8").tobytes())
        parts += [self._bases[layer].astype("<u2").tobytes() for layer in self.geometry.ranks]
        content = b"".join(parts)
        write_file(self._staged / AUXILIARY_FILE, content)
        return AuxiliaryEntry(file=AUXILIARY_FILE, num_bytes=len(content), digest=file_digest(content), tensors=tensors)

    def _discard(self) -> None:
        if self._shard is not None:
            shard, self._shard = self._shard, None
            shard.close()
        if self._staging is not None:
            self._staging.discard()
            self._staging = None

    @property
    def _staged(self) -> Path:
        assert self._staging is not None, "rows are written inside the writer's `with` block"
        return self._staging.path

    def _check_space(self, path: Path) -> None:
        if shutil.disk_usage(path).free < self.num_bytes + _MANIFEST_ALLOWANCE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.EDQUOT:
                raise TableWriteError(
                    f"the disk quota of {self.directory} is used up: the table needs {self.num_bytes} bytes; "
                    "nothing was kept, make room or name a directory elsewhere"
                ) from error
            if error.errno == errno.ENOSPC:
                raise TableWriteError(self._full_disk()) from error
            raise TableWriteError(f"cannot write the table {self.directory}: {error}") from error

    def _full_disk(self) -> str:
        parent = next(path for path in self.directory.absolute().parents if path.exists())
        # What this writer has allocated goes away with it, so it counts as free.
        free = shutil.disk_usage(parent).free
        if self._staging is not None:
            free += sum(path.stat().st_blocks * 512 for path in self._staging.path.iterdir())
        return (
            f"the disk of {self.directory} is full: the table needs {self.num_bytes + _MANIFEST_ALLOWANCE} bytes, "
            f"{free} are free; nothing was kept, make room or name a directory on another disk"
        )


def _check_ids(ids: npt.NDArray[np.int64], *, num_rows: int, vocab_size: int) -> None:
    if ids.dtype != np.int64 or ids.shape != (num_rows,):
        raise ValueError(f"ids are {ids.dtype} {ids.shape}; they must be int64 ({num_rows},)")
    if ids[0] < 0 or ids[-1] >= vocab_size or (np.diff(ids) <= 0).any():
        raise ValueError(f"ids must increase strictly from 0 or more to less than {vocab_size}")


def _check_bases(bases: Mapping[int, npt.NDArray[np.uint16]], geometry: TableGeometry) -> None:
    found = {layer: (basis.dtype, basis.shape) for layer, basis in bases.items()}
    expected = {layer: (np.dtype(np.uint16), (rank, geometry.hidden_size)) for layer, rank in geometry.ranks.items()}
    if found != expected:
        raise ValueError(f"bases are {found}; they must be {expected}")
