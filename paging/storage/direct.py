"""Rows straight from the disk, past the page cache (O_DIRECT).

Such reads must be aligned, in the file and in memory. A row is read straight into its buffer where both are, else into
a page-aligned buffer of the thread's own, and copied once.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import threading

from paging.geometry import PAGE_BYTES, SECTOR_BYTES, round_up
from paging.rowfiles import RowFiles, RowPlace, shortfall
from paging.storage.files import FileStorage

_NUM_THREADS = 16
_QUEUE_DEPTH = 64  # reads beyond one for each thread wait their turn here, so that no thread waits for the pager


class DirectStorage(FileStorage):
    """Reads each row from the disk at the moment it is asked for. `OSError` where a file allows no direct reads."""

    name = "direct"

    def __init__(self, files: RowFiles, *, description: str = "direct") -> None:
        for handle in files.handles():
            # Only now: what was read to open the files was not aligned.
            fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)
        self._alignment = max(find_alignment(handle) for handle in files.handles())
        self._bounce_bytes = round_up(files.manifest.geometry.row_bytes + self._alignment - 1, PAGE_BYTES)
        self._own = threading.local()
        super().__init__(files, description=description, num_threads=_NUM_THREADS, queue_depth=_QUEUE_DEPTH)
        self.staging_bytes = _NUM_THREADS * self._bounce_bytes

    def _transfer(self, place: RowPlace, buffer: memoryview) -> str | None:
        handle, alignment = self._files.handle(place), self._alignment
        lead = place.offset % alignment
        length = round_up(lead + self.row_bytes, alignment)
        if not lead and length <= len(buffer) and not _address(buffer) % alignment:
            taken = os.preadv(handle, [buffer[:length]], place.offset)
        else:
            bounce = self._bounce()
            taken = os.preadv(handle, [bounce[:length]], place.offset - lead)
            buffer[: self.row_bytes] = bounce[lead : lead + self.row_bytes]
        if taken < lead + self.row_bytes:
            return shortfall(handle, end=place.offset + self.row_bytes)
        return None

    def _bounce(self) -> memoryview:
        """Return the calling thread's own aligned buffer."""
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None:
            buffer = self._own.buffer = memoryview(mmap.mmap(-1, self._bounce_bytes))
        return buffer


def find_alignment(handle: int) -> int:
    """Return what offsets, lengths and addresses of direct reads of a file must be multiples of, found by trying.

    Raises `OSError` (EINVAL) where no alignment makes a direct read work.
    """
    page = memoryview(mmap.mmap(-1, 2 * PAGE_BYTES))
    for alignment in (SECTOR_BYTES, PAGE_BYTES):
        try:
            os.preadv(handle, [page[alignment : 2 * alignment]], alignment)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return alignment
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
