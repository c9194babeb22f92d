"""Files of a table while they are being written: room, bytes, digests and durability.

Knows nothing of what the bytes mean.
"""

import errno
import os
from pathlib import Path

from paging.checksum import FileDigest

PIECE_BYTES = 8 * 2**20
"""Written at a time; what a writer may copy to pad rows."""
_SYNC_BYTES = 64 * 2**20  # what a shard has not yet on disk never exceeds this


class ShardFile:
    """One shard while it is being written: its bytes, their digest, and a bound on what is not yet on disk."""

    def __init__(self, path: Path, *, first_row: int, num_rows: int) -> None:
        self.path = path
        self.first_row = first_row
        self.num_rows = num_rows
        self.num_bytes = 0
        self._digest = FileDigest()
        self._unsynced = 0
        self._handle = os.open(path, os.O_WRONLY)

    @property
    def digest(self) -> str:
        """Digest of everything appended so far."""
        return self._digest.hexdigest()

    def append(self, content: memoryview) -> None:
        """Write bytes behind those written before."""
        for start in range(0, len(content), PIECE_BYTES):
            piece = content[start : start + PIECE_BYTES]
            self._digest.update(piece)
            self.num_bytes += len(piece)
            self._unsynced += len(piece)
            while piece:
                piece = piece[os.write(self._handle, piece) :]
            if self._unsynced >= _SYNC_BYTES:
                os.fdatasync(self._handle)
                self._unsynced = 0

    def sync(self) -> None:
        """Return once everything appended is durable."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def allocate(path: Path, num_bytes: int) -> None:
    """Create a file with room for `num_bytes`, so that a disk too small shows before any row is computed."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.posix_fallocate(handle, 0, num_bytes)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            raise
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes) -> None:
    """Write a small file and make it durable."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
