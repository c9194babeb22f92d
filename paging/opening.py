"""Opening the files that a manifest lists, each checked as far as that is cheap.

Knows nothing of rows.
"""

import stat
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from paging.checksum import file_digest
from paging.errors import TableFormatError
from paging.format import Manifest
from paging.header import explain_difference

_AGAIN = "copy or export the table again"


class Auxiliary(NamedTuple):
    """The tensors of the auxiliary file."""

    checksums: npt.NDArray[np.uint64]
    """Of each row, [num_rows]."""
    ids: npt.NDArray[np.int64] | None
    """Of each row of a sparse table, [num_rows], strictly increasing."""
    bases: dict[int, npt.NDArray[np.uint16]]
    """By layer, for those with a rank: [rank, hidden_size], the bits of bf16."""


def open_file(path: Path, num_bytes: int) -> IO[bytes]:
    """Open a regular file of exactly `num_bytes`. Symbolic links are followed: download caches are made of them."""
    try:
        status = path.stat()
        # Looked at before opening, which would wait for ever on a pipe.
        if not stat.S_ISREG(status.st_mode):
            raise TableFormatError(f"{path} is not a regular file; {_AGAIN}")
        if status.st_size != num_bytes:
            change = "is truncated" if status.st_size < num_bytes else "is too long"
            raise TableFormatError(f"{path} {change}: {status.st_size} bytes in place of {num_bytes}; {_AGAIN}")
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise TableFormatError(f"{path} is missing; {_AGAIN}") from error
    except OSError as error:
        raise TableFormatError(f"cannot read {path}: {error.strerror}") from error


def open_shard(directory: Path, manifest: Manifest, index: int) -> IO[bytes]:
    """Open one shard, having made sure that it is whole and the one that the manifest means."""
    path = directory / manifest.shards[index].file
    file = open_file(path, manifest.shards[index].num_bytes)
    try:
        _check_header(file, path, manifest, index)
    except BaseException:
        file.close()
        raise
    return file


def _check_header(file: IO[bytes], path: Path, manifest: Manifest, index: int) -> None:
    expected = manifest.shard_header(index)
    found = _read_exactly(file, len(expected), path)
    if found != expected:
        reason = explain_difference(found, table_id=manifest.table_id, index=index)
        raise TableFormatError(f"{path} is not the shard that the manifest means: {reason}; {_AGAIN}")


def read_auxiliary(directory: Path, manifest: Manifest) -> Auxiliary:
    """Read the auxiliary tensors, checked against the file's digest."""
    entry = manifest.auxiliary
    path = directory / entry.file
    with open_file(path, entry.num_bytes) as file:
        content = _read_exactly(file, entry.num_bytes, path)
    header = manifest.auxiliary_header()
    if file_digest(content) != entry.digest or not content.startswith(header):
        raise TableFormatError(f"{path} does not match its digest, it is damaged or of another table; {_AGAIN}")
    num_rows, geometry = manifest.num_rows, manifest.geometry
    checksums = np.frombuffer(content, dtype="<u8", count=num_rows, offset=len(header)).astype(np.uint64)
    start, ids = len(header) + checksums.nbytes, None
    if entry.is_sparse:
        ids = np.frombuffer(content, dtype="<i8", count=num_rows, offset=start).astype(np.int64)
        start += ids.nbytes
        if ids[0] < 0 or ids[-1] >= geometry.vocab_size or (np.diff(ids) <= 0).any():
            raise TableFormatError(f"{path}: the ids do not increase strictly within the vocabulary; {_AGAIN}")
    bases = {}
    for layer, rank in geometry.ranks.items():
        count = rank * geometry.hidden_size
        bits = np.frombuffer(content, dtype="<u2", count=count, offset=start).astype(np.uint16)
        bases[layer] = bits.reshape(rank, geometry.hidden_size)
        start += bits.nbytes
    return Auxiliary(checksums, ids, bases)


def _read_exactly(file: IO[bytes], num_bytes: int, path: Path) -> bytes:
    content = bytearray()
    try:
        while len(content) < num_bytes and (piece := file.read(num_bytes - len(content))):
            content += piece
    except OSError as error:
        raise TableFormatError(f"cannot read {path}: {error.strerror}") from error
    return bytes(content)
